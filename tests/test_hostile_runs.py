"""The folder of a run that somebody else made: what it says is believed where it fits, and it leads nowhere else."""

import json
import os

import pytest
import torch

from gander import cli, recipes, sampling
from gander.errors import UserError
from gander.recipes.experiment import Facts
from gander.run import MAX_LINE, Run
from gander.train import checkpoint

KNOBS = {"resolution": 16, "width": 2, "latent": 4, "batch": 4, "steps": 2}


@pytest.fixture
def folder(tmp_path):
    """A run with one checkpoint."""
    recipe, facts = recipes.load("dcgan"), Facts(8, 0, 3)
    resolved = recipes.resolve(recipe, KNOBS)
    Run.start(tmp_path / "run", {"recipe": "dcgan", "knobs": resolved, "facts": vars(facts), "seed": 0, "classes": []})
    experiment = recipe(facts, **resolved)
    state = {"step": 1, "learner": experiment.learner.state_dict()}
    checkpoint.save(tmp_path / "run" / "checkpoints", 1, experiment.networks, state)
    return tmp_path / "run"


def spoil(folder, **changes):
    described = json.loads((folder / "run.json").read_text())
    for place, value in changes.items():
        outer, _, inner = place.partition("__")
        described[outer] = {**described[outer], inner: value} if inner else value
    (folder / "run.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    "changes",
    [
        *({"recipe": value} for value in (5, None, ["dcgan"])),
        *({"knobs": value} for value in (5, None, [])),
        *({"facts": value} for value in (5, None, [], "x")),
        *({"seed": value} for value in (None, "0", 1.5)),
        *({"classes": value} for value in (5, {"a": 1}, [5], "ab", [["a"]])),
    ],
    ids=str,
)
def test_a_run_whose_parts_are_of_another_kind_is_refused(changes, folder):
    spoil(folder, **changes)
    with pytest.raises(UserError, match=r"run\.json"):
        Run.open(folder)


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@pytest.mark.parametrize("part", ["run.json", "log.jsonl", "lock", "checkpoints", "samples", "tensorboard"])
@pytest.mark.parametrize("there", [True, False])
def test_a_part_that_is_a_link_is_not_followed(part, there, folder, tmp_path):
    target = tmp_path / "elsewhere"
    if (folder / part).exists() and there:
        os.replace(folder / part, target)
    elif (folder / part).exists():
        os.replace(folder / part, tmp_path / "gone")
    (folder / part).symlink_to(target)
    with pytest.raises(UserError, match=r"is a link, which a run does not follow|is no run"):
        Run.open(folder)


def test_a_run_folder_that_is_a_link_is_followed(folder, tmp_path):
    (tmp_path / "short").symlink_to(folder)
    assert Run.open(tmp_path / "short").described["recipe"] == "dcgan"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[" * 100_000, "line 1 is not JSON"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "line 1 is not JSON"),
        (b"1" * 5000, "line 1 is not JSON"),
        (b" " * MAX_LINE, "line 1 is longer than any of a log"),
    ],
    ids=["deep list", "deep object", "long number", "long line"],
)
def test_a_line_of_the_log_that_is_deep_or_long_is_one_line(line, words, folder):
    (folder / "log.jsonl").write_bytes(line + b'\n{"step": 1}\n')
    with pytest.raises(UserError, match=words):
        list(Run.open(folder).logged())


def test_a_long_line_without_an_end_is_not_read_whole(folder):
    (folder / "log.jsonl").write_bytes(b"0" * (MAX_LINE + 9))
    with pytest.raises(UserError, match="longer than any of a log"):
        list(Run.open(folder).logged())


@pytest.mark.parametrize(
    "changes",
    [
        *({f"knobs__{knob}": size} for knob in ("width", "latent") for size in (2000, 10**6, 2**31 - 1, 2**63, 10**300)),
        *({f"facts__{fact}": size} for fact in ("channels",) for size in (-1, 2000, 10**12, 2**63, 10**300)),
        *({"knobs__betas": value} for value in ([10**300], [0.5], ["a", "b"], 0.5)),
        *({f"knobs__{knob}": value} for knob in ("generator_lr", "ema") for value in (10**400, 1e308, "1", None)),
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_knobs_of_any_size_are_compared_with_the_files_before_there_is_a_network(changes, folder, monkeypatch):
    spoil(folder, **changes)
    built = []
    rebuild = recipes.rebuild

    def rebuilt(*arguments):
        experiment = rebuild(*arguments)
        built.append({p.device.type for network in experiment.networks.values() for p in network.parameters()})
        return experiment

    monkeypatch.setattr(recipes, "rebuild", rebuilt)
    try:
        sampling.load_generator(Run.open(folder), standing=0)
    except UserError:
        assert built in ([], [{"meta"}])
    else:  # rates are no matter for samples
        assert "_lr" in str(changes)


def test_a_checkpoint_that_lacks_a_network_is_not_sampled(folder):
    path = folder / "checkpoints" / "00000001"
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]["discriminator.safetensors"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "discriminator.safetensors").unlink()
    with pytest.raises(UserError, match=r"discriminator\.safetensors"):
        sampling.load_generator(Run.open(folder))


# What the command line says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["check", "no\nwhere"], ["sample", "no\x1b[2Jwhere"], ["ls", "--a\u2028b"], ["tra\rin"]])
def test_whatever_was_typed_the_complaint_is_one_line_and_commands_no_terminal(words, capsys):
    assert cli.main(words) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert line.startswith("gander: ")
    assert "\x1b" not in line


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")])
def test_memory_that_is_not_there_is_one_line(error, capsys, monkeypatch):
    def full(words):
        raise error

    monkeypatch.setattr(cli, "_run", full)
    assert cli.main(["ls"]) == 2
    assert capsys.readouterr().err == "gander: that takes more memory than there is here; take a smaller network, batch or image\n"


@pytest.mark.parametrize("width", [10**6, 2**31 - 1, 2**31, 10**12, 10**30])
def test_a_width_of_any_size_is_one_line(width, capsys):
    with torch.device("meta"):
        code = cli.main(["show", "dcgan", "--width", str(width), "--resolution", "16", "--batch", "2"])
    err = capsys.readouterr().err
    assert (code, err) == (0, "") or (code == 2 and len(err.splitlines()) == 1)
