"""A checkpoint is whole or absent, comes back to the bit, says what is wrong with it, and runs no code."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gander.errors import UserError
from gander.files import sha256, write_json
from gander.layers.spectral_norm import spectral_norm
from gander.train import checkpoint


class Net(nn.Module):
    """Every kind of tensor: shared, strided, of other types, empty, of no dimension, not to be saved."""

    def __init__(self, width=3):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(3, width, 3, groups=1))
        self.norm = nn.BatchNorm2d(width)
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.strided = nn.Parameter(torch.randn(4, 6).t())
        self.brain = nn.Parameter(torch.randn(5, dtype=torch.bfloat16))
        self.register_buffer("wide", torch.randn(2, dtype=torch.float64))
        self.register_buffer("counts", torch.arange(5))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("octets", torch.arange(3, dtype=torch.uint8))
        self.register_buffer("number", torch.tensor(2.5))
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("tenth", torch.tensor(0.1).expand(3, 2))
        self.register_buffer("scratch", torch.randn(3), persistent=False)


def net(seed, **options):
    torch.manual_seed(seed)
    return Net(**options)


def bits(network):
    return {
        name: (t.dtype, t.shape, t.detach().contiguous().flatten().view(torch.uint8).tolist())
        for name, t in network.state_dict().items()
    }


STATE = {
    "step": 7,
    "learner": {"moment": torch.randn(3), "list": [1, 2.5, "a", None, True], "pair": (0.0, 0.9), 0: {"x": torch.tensor(3)}},
}


@pytest.fixture
def folder(tmp_path):
    """checkpoints/ with steps 3 and 5, equal but for their numbers."""
    for step in (3, 5):
        checkpoint.save(tmp_path / "checkpoints", step, {"generator": net(step)}, {**STATE, "step": step})
    return tmp_path / "checkpoints"


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


# Round trips -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_as", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("loaded_as", [torch.contiguous_format, torch.channels_last])
def test_a_network_comes_back_to_the_bit_in_any_layout(saved_as, loaded_as, tmp_path):
    source, target = net(0).to(memory_format=saved_as), net(1).to(memory_format=loaded_as)
    source.brain.data[0], source.strided.data[0, 0] = float("nan"), -0.0
    held = {name: (tensor.data_ptr(), tensor.stride()) for name, tensor in target.state_dict().items()}
    scratch = target.scratch.clone()
    path = checkpoint.save(tmp_path, 1, {"net": source}, {})
    target.tenth = target.tenth.contiguous()  # what is expanded cannot be written into
    held["tenth"] = (target.tenth.data_ptr(), target.tenth.stride())
    checkpoint.load_network(path / "net.safetensors", target)
    assert bits(target) == bits(source)
    assert target.second.weight is target.first.weight
    assert {name: (t.data_ptr(), t.stride()) for name, t in target.state_dict().items()} == held  # copied into what was there
    assert torch.equal(target.scratch, scratch)


def test_shared_tensors_are_saved_once(tmp_path):
    from safetensors.numpy import load_file

    path = checkpoint.save(tmp_path, 1, {"net": nn.Sequential(*[nn.Linear(2, 2)] * 3)}, {})
    assert set(load_file(path / "net.safetensors")) == {"0.weight", "0.bias"}


def test_views_of_one_storage_are_saved_too(tmp_path):
    network = nn.Linear(4, 4)
    network.register_buffer("view", network.weight.detach()[:2])
    path = checkpoint.save(tmp_path, 1, {"net": network}, {})
    checkpoint.load_network(path / "net.safetensors", network)


def test_saving_leaves_no_trace(tmp_path):
    network = net(0).to(memory_format=torch.channels_last).train()
    before, strides, random = bits(network), network.conv.parametrizations.weight.original.stride(), torch.get_rng_state()
    checkpoint.save(tmp_path, 1, {"net": network}, STATE)
    assert bits(network) == before
    assert network.conv.parametrizations.weight.original.stride() == strides
    assert torch.equal(torch.get_rng_state(), random)


def test_state_comes_back(folder):
    assert equal(checkpoint.load_state(folder / "00000005"), {**STATE, "step": 5})


def test_an_optimiser_comes_back(tmp_path):
    network = net(0)
    optimizer = torch.optim.Adam(network.first.parameters())
    network.first(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    path = checkpoint.save(tmp_path, 1, {}, {"optimizer": optimizer.state_dict()})
    other = torch.optim.Adam(net(0).first.parameters())
    other.load_state_dict(checkpoint.load_state(path)["optimizer"])
    assert str(other.state_dict()) == str(optimizer.state_dict())


def test_equal_states_are_equal_files(tmp_path):
    """So that the hashes of two runs can be compared. Saved five times: the order of a header may hang on chance."""
    first = checkpoint.save(tmp_path / "first", 1, {"net": net(0)}, STATE)
    for i in range(5):
        network = net(1)
        network.tenth = network.tenth.contiguous()  # what is expanded cannot be written into
        checkpoint.load_network(first / "net.safetensors", network)
        again = checkpoint.save(tmp_path / f"again{i}", 1, {"net": network}, checkpoint.load_state(first))
        assert (again / "manifest.json").read_bytes() == (first / "manifest.json").read_bytes()


def test_a_kill_between_the_two_renames_of_a_save_costs_nothing(tmp_path):
    """The same step again: the one that was there is put aside first, and comes back where the new one never came."""
    checkpoint.save(tmp_path, 3, {"net": net(0)}, STATE)
    (tmp_path / "00000003").rename(tmp_path / ".00000003.old.tmp")
    (tmp_path / ".00000003.tmp").mkdir()
    checkpoint.tidy(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["00000003"]
    assert checkpoint.damage(tmp_path / "00000003") is None


def test_a_save_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    """The disk hangs: the checkpoint before stays, nothing appears later, and the next save works."""
    checkpoint.save(tmp_path, 1, {"net": net(0)}, STATE)
    hanging, awake = threading.Event(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync_folder", lambda folder: (hanging.wait(), awake.set()))
        with pytest.raises(checkpoint.GivenUp, match=r"step 2 .* longer than 0.2 s and was given up; the che"):
            checkpoint.save(tmp_path, 2, {"net": net(0)}, STATE, seconds=0.2)
        hanging.set()  # the disk is back, and the thread that waited for it goes on
        assert awake.wait(10)
    assert checkpoint.find(tmp_path)[0].name == "00000001"
    checkpoint.save(tmp_path, 3, {"net": net(0)}, STATE)
    assert checkpoint.saved(tmp_path) == [1, 3]


def test_a_parameter_in_the_state_becomes_a_plain_tensor_without_history(tmp_path):
    value = nn.Parameter(torch.randn(3))
    path = checkpoint.save(tmp_path, 1, {}, {"a": value, "b": value * 2})
    state = checkpoint.load_state(path)
    assert type(state["a"]) is torch.Tensor
    assert not state["a"].requires_grad
    assert state["b"].grad_fn is None


@pytest.mark.parametrize(
    "value",
    [np.float32(1), np.float64(1), np.int64(1), np.bool_(True), np.zeros(2), {1, 2}, b"a", 1j, object(), torch.float32],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"deep": [0, (v,)]}], ids=["bare", "deep"])
def test_what_could_not_be_read_again_is_not_written(value, wrap, tmp_path):
    with pytest.raises(TypeError, match=f"a {type(value).__name__} cannot go into a checkpoint"):
        checkpoint.save(tmp_path, 1, {"net": nn.Linear(1, 1)}, {"value": wrap(value)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [np.int64(1), np.float64(1), Path("a")], ids=lambda value: type(value).__name__)
def test_keys_that_could_not_be_read_again_are_not_written(key, tmp_path):
    with pytest.raises(TypeError, match="cannot go into a checkpoint"):
        checkpoint.save(tmp_path, 1, {}, {"value": {key: 1}})


# Damage ------------------------------------------------------------------------------------------------------------------


def files(path):
    return sorted(f.name for f in path.iterdir() if f.name != "manifest.json")


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "first byte": lambda file: flip(file, 0),
    "middle byte": lambda file: flip(file, file.stat().st_size // 2),
    "last byte": lambda file: flip(file, -1),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


def passed_over(folder, words):
    """The newest checkpoint is damaged in these words, and the one before it is found."""
    newest = folder / "00000005"
    assert checkpoint.damage(newest) == words if isinstance(words, str) else words(checkpoint.damage(newest))
    found, complaints = checkpoint.find(folder)
    assert found == folder / "00000003"
    assert complaints == [f"checkpoint {newest} is damaged ({checkpoint.damage(newest)})"]
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.find(folder, 5)


def test_a_whole_checkpoint_is_found_without_a_complaint(folder):
    assert checkpoint.saved(folder) == [3, 5]
    assert [checkpoint.damage(folder / f"{step:08d}") for step in (3, 5)] == [None, None]
    assert checkpoint.find(folder) == (folder / "00000005", [])
    assert checkpoint.find(folder, 3) == (folder / "00000003", [])


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["generator.safetensors", "state.pt"])
def test_every_damage_of_every_file_is_seen_and_passed_over(kind, name, folder):
    assert files(folder / "00000005") == ["generator.safetensors", "state.pt"]
    DAMAGE[kind](folder / "00000005" / name)
    passed_over(folder, f"{name} is missing" if kind in ("gone", "a folder") else f"{name} is not what was written")


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_the_manifest_is_seen_or_changes_no_hash(data, tmp_path_factory):
    folder = shared(tmp_path_factory)
    manifest = folder / "00000001" / "manifest.json"
    whole = manifest.read_bytes()
    at, byte = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    try:
        manifest.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
        wrong = checkpoint.damage(folder / "00000001")
        assert wrong or json.loads(manifest.read_bytes())["sha256"] == json.loads(whole)["sha256"]
    finally:
        manifest.write_bytes(whole)


def shared(factory, made={}):  # noqa: B006 - one folder for all examples
    if "folder" not in made:
        made["folder"] = factory.mktemp("manifest")
        checkpoint.save(made["folder"], 1, {"net": nn.Linear(1, 1)}, {})
    return made["folder"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "\xff", "[]", "3", "null", "{}", '{"sha256": null}', '{"sha256": [1]}', '{"sha256": "abc"}', "[" * 100_000],
    ids=lambda text: text[:20],
)
def test_a_manifest_that_is_none_is_seen_and_passed_over(text, folder):
    (folder / "00000005" / "manifest.json").write_text(text, encoding="latin-1")
    passed_over(folder, lambda wrong: wrong.startswith("manifest.json: "))


@pytest.mark.parametrize("name", ["../00000003/state.pt", "/etc/passwd", "sub/state.pt", "..", ".", ""])
def test_a_manifest_that_names_what_is_no_file_of_it_is_refused(name, folder, monkeypatch):
    newest = folder / "00000005"
    manifest = json.loads((newest / "manifest.json").read_text())
    write_json(newest / "manifest.json", {**manifest, "sha256": {name: "0" * 64, **manifest["sha256"]}})
    read = []
    monkeypatch.setattr(checkpoint, "sha256", lambda path: read.append(path) or sha256(path))
    assert checkpoint.damage(newest) in (f"its manifest names {name!r}, which is no file of it", f"{name} is missing")
    assert read == []
    passed_over(folder, lambda wrong: repr(name)[1:-1] in wrong)


@pytest.mark.parametrize("digest", [None, 3, "", "0" * 64, ["a"]])
def test_a_hash_that_is_none_is_seen(digest, folder):
    newest = folder / "00000005"
    manifest = json.loads((newest / "manifest.json").read_text())
    write_json(newest / "manifest.json", {**manifest, "sha256": {**manifest["sha256"], "state.pt": digest}})
    passed_over(folder, "state.pt is not what was written")


def test_a_checkpoint_that_lost_its_manifest_is_complained_of(folder):
    (folder / "00000005" / "manifest.json").unlink()
    assert checkpoint.find(folder)[1]


def test_a_manifest_that_names_nothing_is_damage(folder):
    write_json(folder / "00000005" / "manifest.json", {"step": 5, "sha256": {}})
    (folder / "00000005" / "state.pt").unlink()
    assert checkpoint.damage(folder / "00000005")


def test_where_all_are_damaged_it_is_said(folder):
    for step in checkpoint.saved(folder):
        flip(folder / f"{step:08d}" / "state.pt", 9)
    with pytest.raises(
        UserError, match=r"00000005 is damaged \(state.pt is not what was written\) and no other is whole; restore one"
    ):
        checkpoint.find(folder)


def test_a_damaged_one_that_was_asked_for_does_not_speak_of_others(folder):
    flip(folder / "00000005" / "state.pt", 9)
    with pytest.raises(UserError) as error:
        checkpoint.find(folder, 5)
    assert "no other is whole" not in str(error.value)


def test_where_there_is_none_it_is_said(tmp_path, folder):
    with pytest.raises(UserError, match=r"no checkpoint in .* yet; train longer, or save more often with --save-every"):
        checkpoint.find(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no checkpoint of step 4; there are: 3, 5"):
        checkpoint.find(folder, 4)
    with pytest.raises(UserError, match="no checkpoint of step 4; there are: none"):
        checkpoint.find(tmp_path / "nowhere", 4)


# No code -----------------------------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def planted(folder, value):
    """A checkpoint with this state.pt and a manifest that says it is right."""
    path = folder / "00000005"
    torch.save(value, path / "state.pt")
    write_json(path / "manifest.json", {"step": 5, "sha256": {name: sha256(path / name) for name in files(path)}})
    assert checkpoint.damage(path) is None
    return path


def test_a_pickle_that_would_run_code_does_not_run(folder, tmp_path):
    path = planted(folder, {"step": 5, "learner": Evil(tmp_path / "ran")})
    with pytest.raises(Exception, match=r"(?i)weights.only|readable"):
        checkpoint.load_state(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path / "state.pt", weights_only=False)  # it would have
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["evil", "no pickle", "a list"])
def test_a_state_that_is_none_is_one_line(kind, folder, tmp_path):
    path = planted(folder, {"evil": Evil(tmp_path / "ran"), "a list": [1]}.get(kind, {}))
    if kind == "no pickle":
        (path / "state.pt").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match=r"state.pt"):
        checkpoint.load_state(path)


# Kills and full disks ----------------------------------------------------------------------------------------------------


def after_some_bytes(error):
    """Stands for a writer that stops half-way."""

    def write(value, path, *args, **options):
        Path(path).write_bytes(b"half")
        raise error

    return write


def never(error):
    def call(*args, **options):
        raise error

    return call


RENAME = os.replace
STOPS = {
    "network": (checkpoint, "save_file", after_some_bytes),
    "state": (torch, "save", after_some_bytes),
    "manifest": (checkpoint, "write_json", never),
    "hash": (checkpoint, "sha256", never),
    "flush": (os, "fsync", never),
    "rename": (os, "replace", lambda error: lambda old, new: never(error)() if Path(old).is_dir() else RENAME(old, new)),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "disk full"])
@pytest.mark.parametrize("place", STOPS)
def test_a_save_that_is_interrupted_leaves_no_half_checkpoint_and_the_former_ones(place, error, folder, monkeypatch):
    where, name, stop = STOPS[place]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, stop(error))
        with pytest.raises(type(error)):
            checkpoint.save(folder, 7, {"generator": net(7)}, STATE)
    assert sorted(f.name for f in folder.iterdir()) == ["00000003", "00000005"]
    assert checkpoint.find(folder) == (folder / "00000005", [])
    checkpoint.save(folder, 7, {"generator": net(7)}, STATE)
    assert checkpoint.find(folder) == (folder / "00000007", [])


def test_what_a_kill_left_is_no_checkpoint_and_is_written_over(folder):
    left = folder / ".00000007.tmp"
    shutil.copytree(folder / "00000005", left)
    (left / "discriminator.safetensors").write_bytes(b"half")
    assert checkpoint.saved(folder) == [3, 5]
    path = checkpoint.save(folder, 7, {"generator": net(7)}, STATE)
    assert files(path) == ["generator.safetensors", "state.pt"]
    assert not left.exists()


def test_what_a_kill_left_is_taken_away_by_the_next_save(folder):
    shutil.copytree(folder / "00000005", folder / ".00000006.tmp")
    checkpoint.save(folder, 7, {"generator": net(7)}, STATE)
    assert not (folder / ".00000006.tmp").exists()


def test_the_same_step_again_replaces_a_damaged_one(folder):
    flip(folder / "00000005" / "state.pt", 9)
    checkpoint.save(folder, 5, {"generator": net(5)}, {**STATE, "step": 5})
    assert checkpoint.find(folder) == (folder / "00000005", [])


def test_the_same_step_again_interrupted_leaves_the_former_one(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", STOPS["rename"][2](KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(folder, 5, {"generator": net(6)}, STATE)
    assert checkpoint.find(folder) == (folder / "00000005", [])


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("limit", [1000, 50_000], ids=["network", "state"])
def test_a_full_disk_is_an_oserror_or_a_mistake(limit, folder):
    """What the command line has a line for. A limit on the size of files stands for the disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises((OSError, UserError)):
            checkpoint.save(folder, 7, {"generator": nn.Linear(100, 100)}, {"moment": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert checkpoint.find(folder) == (folder / "00000005", [])


# Keeping -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(steps=st.sets(st.integers(1, 40), max_size=12), every=st.integers(0, 10), keep=st.sets(st.integers(1, 40), max_size=3))
def test_the_last_two_every_kth_and_the_named_are_kept_and_no_others(steps, every, keep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prune")
    for step in steps:
        (folder / f"{step:08d}").mkdir()
        (folder / f"{step:08d}" / "manifest.json").touch()
    (folder / "notes").mkdir()
    checkpoint.prune(folder, every, keep)
    wanted = {s for s in steps if s in sorted(steps)[-2:] or s in keep or (every and s % every == 0)}
    assert checkpoint.saved(folder) == sorted(wanted)
    assert (folder / "notes").exists()


# Other networks ----------------------------------------------------------------------------------------------------------


class Pair(nn.Module):
    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"a": (2,)}, "has 'b' .*are the knobs the same"),
        ({"a": (2,), "b": (3,), "c": (1,), "d": (1,)}, "lacks 'c' and 1 more: it is of another network or other knobs"),
        ({"a": (2,), "b": (3, 1)}, r"'b' is \(3,\), .*\(3, 1\); are the knobs the same\?"),
        ({"b": (3,), "x": (2,)}, "lacks 'x'"),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_is_loaded(other, words, tmp_path):
    path = checkpoint.save(tmp_path, 1, {"net": Pair(a=(2,), b=(3,))}, {})
    network = Pair(**other)
    before = bits(network)
    with pytest.raises(UserError, match=words):
        checkpoint.load_network(path / "net.safetensors", network)
    assert bits(network) == before


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 16, b"PK\3\4 a zip", b"\x10\0\0\0\0\0\0\0{'no json': true}"])
def test_a_file_that_is_no_safetensors_is_named(data, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(data)
    for ask in (
        lambda: checkpoint.load_network(tmp_path / "a.safetensors", Pair(a=(2,))),
        lambda: checkpoint.start_from(str(tmp_path / "a.safetensors"), {"generator": Pair(a=(2,))}),
    ):
        with pytest.raises(UserError, match=r"a.safetensors is not a readable safetensors file"):
            ask()
    with pytest.raises(UserError, match="nowhere is not a readable safetensors file"):
        checkpoint.load_network(tmp_path / "nowhere", Pair(a=(2,)))


# Starting from others ----------------------------------------------------------------------------------------------------


def game(seed, *names):
    torch.manual_seed(seed)
    return {name: nn.Linear(3, 3) for name in names or ("generator", "discriminator", "generator_ema")}


def test_a_run_gives_every_network_it_shares(tmp_path):
    source, target = game(0, "generator", "generator_ema", "encoder"), game(1)
    before = bits(target["discriminator"])
    checkpoint.save(tmp_path / "checkpoints", 3, game(7, "generator", "generator_ema"), {})
    checkpoint.save(tmp_path / "checkpoints", 5, source, {})
    checkpoint.start_from(str(tmp_path), target)
    assert bits(target["generator"]) == bits(source["generator"])
    assert bits(target["generator_ema"]) == bits(source["generator_ema"])
    assert bits(target["discriminator"]) == before


def test_a_file_gives_the_generator_and_its_average(tmp_path):
    source, target = game(0), game(1)
    before = bits(target["discriminator"])
    path = checkpoint.save(tmp_path, 5, source, {})
    checkpoint.start_from(str(path / "generator_ema.safetensors"), target)
    assert bits(target["generator"]) == bits(target["generator_ema"]) == bits(source["generator_ema"])
    assert bits(target["discriminator"]) == before


def test_starting_from_what_is_not_there_is_refused(tmp_path, folder):
    with pytest.raises(UserError, match=r"--init .*nowhere: there is no such run folder or .safetensors file"):
        checkpoint.start_from(str(tmp_path / "nowhere"), game(0))
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.start_from(str(folder), game(0))
    with pytest.raises(UserError, match=r"its networks \(generator\) are none of classifier"):
        checkpoint.start_from(str(tmp_path), game(0, "classifier"))


def test_a_file_that_no_network_takes_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 5, game(0), {})
    with pytest.raises(UserError, match="generator"):
        checkpoint.start_from(str(path / "generator.safetensors"), game(0, "classifier"))
