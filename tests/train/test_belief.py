"""A checkpoint whose hashes are right and whose content is not: one line, and nothing of it is loaded."""

import copy
import zipfile

import pytest
import torch
from torch import nn

from gander.errors import UserError
from gander.optimizers import OPTIMIZERS, adam
from gander.train import checkpoint
from gander.train.belief import check_archive, load_optimizer


def stepped(seed=0, make=adam):
    """An optimiser over two tensors, after two steps."""
    torch.manual_seed(seed)
    network = nn.Linear(3, 2)
    optimizer = make(network.parameters(), 1e-3, (0.5, 0.9))
    for _ in range(2):
        network(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return network, optimizer


def same(a, b):
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for i, kept in a["state"].items():
        assert all(torch.equal(value, b["state"][i][name]) for name, value in kept.items())


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_state_comes_back_to_the_bit(make):
    _, optimizer = stepped(make=make)
    _, other = stepped(1, make)
    load_optimizer(other, copy.deepcopy(optimizer.state_dict()))
    same(other.state_dict(), optimizer.state_dict())


def test_a_state_of_no_step_comes_back():
    network, optimizer = stepped()
    load_optimizer(optimizer, adam(network.parameters(), 1e-3, (0.5, 0.9)).state_dict())
    assert optimizer.state_dict()["state"] == {}


def test_rates_are_the_files_and_switches_this_machines():
    _, optimizer = stepped()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0] |= {"lr": 0.25, "fused": None, "foreach": True, "capturable": True, "maximize": True}
    load_optimizer(optimizer, saved)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["fused"], group["foreach"], group["capturable"], group["maximize"]) == (
        0.25,
        True,
        None,
        False,
        False,
    )


def put(saved, place, value):
    for key in place[:-1]:
        saved = saved[key]
    saved[place[-1]] = value


MOMENT = ("state", 0, "exp_avg")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((("param_groups",), value) for value in (None, [], {}, [{}], [None], 3)),
        *((("param_groups", 0, "lr"), value) for value in ("1", None, torch.ones(3), float("nan"), float("inf"), (0.1, 0.2), True)),
        *((("param_groups", 0, "betas"), value) for value in (0.5, (0.5,), (0.5, "x"), (0.1, 0.2, 0.3), None)),
        *((("state",), value) for value in (None, 3, [], {0: None}, {0: {}}, {9: {}}, {"a": {}}, {0: {"step": 1}})),
        *(
            (MOMENT, value)
            for value in (None, 3, "x", torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3).cfloat())
        ),
        *((MOMENT, value) for value in (torch.zeros(2, 3, device="meta"), torch.zeros(2, 3).to_sparse())),
        (MOMENT, torch.zeros(1, dtype=torch.half).expand(10**6, 10**6)),
        *((("state", 0, "step"), value) for value in (2, -1, None, torch.zeros(3), torch.tensor(-1.0), torch.tensor(float("nan")))),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_the_next_step_would_trip_over_is_refused_and_nothing_is_loaded(place, value):
    _, optimizer = stepped()
    before, saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    put(saved, place, value)
    with pytest.raises(UserError, match="delete that checkpoint"):
        load_optimizer(optimizer, saved)
    same(optimizer.state_dict(), before)


@pytest.mark.parametrize(
    ("name", "moment"), [("nadam", "mu_product"), ("nadam", "exp_avg_sq"), ("adabound", "exp_avg"), ("adabound", "step")]
)
@pytest.mark.parametrize("value", [None, 3, torch.zeros(7), torch.tensor(float("nan"))])
def test_the_moments_of_other_optimisers_are_believed_as_little(name, moment, value):
    _, optimizer = stepped(make=OPTIMIZERS[name])
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0][moment] = value
    with pytest.raises(UserError, match="delete that checkpoint"):
        load_optimizer(optimizer, saved)


def test_an_archive_takes_no_more_memory_than_its_file(tmp_path):
    whole, packed = tmp_path / "whole.pt", tmp_path / "packed.pt"
    torch.save({"x": torch.zeros(1000)}, whole)
    check_archive(whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    assert torch.equal(torch.load(packed, weights_only=True)["x"], torch.zeros(1000)), "torch would unpack it"
    with pytest.raises(ValueError, match="packed"):
        check_archive(packed)
    data = whole.read_bytes()
    whole.write_bytes(data.replace((4000).to_bytes(4, "little") * 2, (4_000_000).to_bytes(4, "little") * 2))
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        check_archive(whole)


@pytest.mark.parametrize("kind", ["legacy", "packed", "memory", "warns"])
def test_a_state_that_torch_would_trip_over_is_one_line(kind, tmp_path):
    file = tmp_path / "state.pt"
    torch.save({"step": 1}, file, _use_new_zipfile_serialization=kind != "legacy")
    pickled = {
        "memory": b"\x80\x02c__builtin__\nbytearray\n\x8a\x08" + (10**15).to_bytes(8, "little") + b"\x85R.",
        "warns": b"\x80\x04}.",
    }.get(kind)
    if kind != "legacy":
        with zipfile.ZipFile(file) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if kind == "packed" else zipfile.ZIP_STORED) as archive:
            for name, data in records.items():
                archive.writestr(name, pickled if pickled and name.endswith("data.pkl") else data)
    if kind == "warns":
        assert checkpoint.load_state(tmp_path) == {}
    else:
        with pytest.raises(UserError, match="is not a state that gander wrote") as caught:
            checkpoint.load_state(tmp_path)
        assert "weights_only" not in str(caught.value), "the advice to do without it"


def test_only_folders_of_eight_figures_and_more_are_checkpoints(tmp_path):
    for name in ("00000003", "123456789", "3", "٠٠٠٠٠٠٠٥", "-0000001", "000000004", "00000005.damaged", ".00000006.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "00000007").write_text("a file")
    (tmp_path / "00000008").symlink_to(tmp_path / "00000003")
    assert checkpoint.saved(tmp_path) == [3, 123456789]


def test_a_network_of_any_size_is_compared_without_its_memory(tmp_path):
    checkpoint.save(tmp_path, 1, {"net": nn.Linear(2, 2)}, {})
    with torch.device("meta"):
        vast, fitting = nn.Linear(10**6, 10**6), nn.Linear(2, 2)
    checkpoint.check_network(tmp_path / "00000001" / "net.safetensors", fitting)
    with pytest.raises(UserError, match=r"is \(2.*\), here \(1000000"):
        checkpoint.check_network(tmp_path / "00000001" / "net.safetensors", vast)
