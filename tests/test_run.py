"""A run is a folder: what goes on with it, what is refused and in which words, what a kill leaves of its log."""

import copy
import json
import os
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gander.errors import UserError
from gander.run import FREE, Run, circumstances, free_name

DESCRIBED = {
    "recipe": "sagan",
    "knobs": {"steps": 10, "width": 4, "betas": (0.0, 0.9), "attention_at": None, "flip": False},
    "facts": {"num_images": 24, "num_classes": 2, "channels": 3},
    "classes": ["cats", "dogs"],
    "seed": 0,
    "precision": "fp32",
    "data": {"name": "photos", "split": None, "fingerprint": "abc", "filter": "box", "where": "/here/photos"},
    "device": "cpu",
}


def described(**changes):
    """DESCRIBED with `knobs__width=8` and the like put in."""
    value = copy.deepcopy(DESCRIBED)
    for path, new in changes.items():
        *above, last = path.split("__")
        place = value
        for key in above:
            place = place[key]
        place[last] = new
    return value


def refused(folder, asked, **options):
    """The refusal, which must have touched nothing."""
    before = (folder / "run.json").read_bytes()
    with pytest.raises(UserError) as error:
        Run.start(folder, asked, **options)
    assert (folder / "run.json").read_bytes() == before
    return str(error.value)


# Starting and going on ---------------------------------------------------------------------------------------------------


def test_a_run_that_was_started_is_the_run_that_is_opened(tmp_path):
    run, resumed = Run.start(tmp_path / "runs" / "a", described())
    assert not resumed
    opened = Run.open(tmp_path / "runs" / "a")
    assert opened.described == json.loads(json.dumps(run.described)) == json.loads(json.dumps(DESCRIBED))
    assert Run.open(str(tmp_path / "runs" / "a")).folder == run.folder


def test_the_same_words_go_on_and_touch_nothing(tmp_path):
    Run.start(tmp_path / "a", described())
    before = (tmp_path / "a" / "run.json").read_bytes()
    _, resumed = Run.start(tmp_path / "a", described())
    assert resumed
    assert (tmp_path / "a" / "run.json").read_bytes() == before
    assert os.listdir(tmp_path / "a") == ["run.json"]


def test_tuples_that_became_lists_are_no_change(tmp_path):
    Run.start(tmp_path / "a", described())
    assert Run.start(tmp_path / "a", described(knobs__betas=[0.0, 0.9]))[1]


def test_where_and_when_may_change(tmp_path):
    """Device, workers, machine, versions, command, the place of the data: the record of the first time stays."""
    Run.start(tmp_path / "a", described())
    before = (tmp_path / "a" / "run.json").read_bytes()
    assert Run.start(tmp_path / "a", {**described(device="cuda:1", data__where="/there"), **circumstances()})[1]
    assert (tmp_path / "a" / "run.json").read_bytes() == before


def test_circumstances_are_all_free_and_plain():
    assert circumstances().keys() <= set(FREE)
    assert json.loads(json.dumps(circumstances())) == circumstances()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"knobs__width": 8}, "width was 4, now 8"),
        ({"knobs__flip": True}, "flip was False, now True"),
        ({"knobs__betas": (0.0, 0.99)}, "betas was [0.0, 0.9], now [0.0, 0.99]"),
        ({"knobs__attention_at": [8]}, "attention_at was None, now [8]"),
        ({"knobs__new": 1}, "new was None, now 1"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"precision": "bf16"}, "precision was 'fp32', now 'bf16'"),
        ({"data__fingerprint": "abd"}, "data.fingerprint was 'abc', now 'abd'"),
        ({"facts__num_images": 25}, "facts.num_images was 24, now 25"),
        ({"classes": ["cats"]}, "classes was ['cats', 'dogs'], now ['cats']"),
        ({"init": "other"}, "init was None, now 'other'"),
        ({"recipe": "dcgan", "knobs__width": 9}, "recipe was 'sagan', now 'dcgan'"),
    ],
)
def test_another_run_is_refused_with_the_difference_and_a_free_name(change, words, tmp_path):
    Run.start(tmp_path / "a", described())
    (tmp_path / "a-2").mkdir()
    assert (
        refused(tmp_path / "a", described(**change)) == f"{tmp_path / 'a'} is another run ({words}); take --run {tmp_path / 'a-3'}"
    )


def test_of_many_differences_five_are_listed(tmp_path):
    Run.start(tmp_path / "a", described())
    asked = described(**{f"knobs__knob{i}": i for i in range(8)})
    line = refused(tmp_path / "a", asked)
    assert "knob4 was None, now 4 and 3 more);" in line
    assert "\n" not in line


def test_more_steps_go_on_and_are_written_down(tmp_path):
    Run.start(tmp_path / "a", described())
    run, resumed = Run.start(tmp_path / "a", described(knobs__steps=20))
    assert resumed
    assert run.described["knobs"]["steps"] == 10  # who has no lock writes nothing
    run.grow(20)
    assert Run.open(tmp_path / "a").described == json.loads(json.dumps(described(knobs__steps=20)))


@pytest.mark.parametrize(("steps", "growing"), [(20, False), (5, False), (5, True)])
def test_other_steps_are_refused_where_they_would_change_what_was_done(steps, growing, tmp_path):
    Run.start(tmp_path / "a", described())
    line = refused(tmp_path / "a", described(knobs__steps=steps), growing=growing)
    assert f"(steps was 10, now {steps})" in line
    assert f"to go on from its weights: --init {tmp_path / 'a'} --run {tmp_path / 'a-2'}" in line


def test_more_steps_of_another_run_are_another_run(tmp_path):
    Run.start(tmp_path / "a", described())
    assert "(seed was 0, now 1)" in refused(tmp_path / "a", described(knobs__steps=20, seed=1))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"a cat")
    with pytest.raises(UserError, match=r"is a folder of something else \(it holds 'cat.png'\); take --run .*photos-2$"):
        Run.start(tmp_path / "photos", described())
    assert os.listdir(tmp_path / "photos") == ["cat.png"]
    with pytest.raises(UserError, match="is a file; name a folder"):
        Run.start(tmp_path / "photos" / "cat.png", described())


@pytest.mark.parametrize("left", [[], ["lock"]])
def test_an_empty_folder_becomes_the_run(left, tmp_path):
    for name in left:
        (tmp_path / name).touch()
    assert not Run.start(tmp_path, described())[1]


def test_a_kill_while_run_json_was_written_leaves_a_folder_that_can_be_started(tmp_path):
    (tmp_path / ".run.json.abc123.tmp").write_text('{"recipe": "sag')
    assert not Run.start(tmp_path, described())[1]


def test_free_names_count_from_two(tmp_path):
    names = []
    for _ in range(3):
        names.append(free_name(tmp_path / "a"))
        names[-1].mkdir()
    assert [name.name for name in names] == ["a-2", "a-3", "a-4"]


def test_the_folder_one_stands_in_has_a_free_name_too(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("cat.png").touch()
    with pytest.raises(UserError, match="here-2"):
        Run.start(Path("."), described())


# What is no run ----------------------------------------------------------------------------------------------------------


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; runs are made by `gander train`"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is no run: it has no run\.json"):
        Run.open(tmp_path)
    (tmp_path / "run.json").mkdir()
    with pytest.raises(UserError, match="is no run"):
        Run.open(tmp_path)
    with pytest.raises(UserError, match="is no run"):
        Run.start(tmp_path, described())


@pytest.mark.parametrize("cut", [0, 1, 50, -3])
def test_a_run_json_that_is_cut_off_is_named(cut, tmp_path):
    Run.start(tmp_path, described())
    file = tmp_path / "run.json"
    file.write_bytes(file.read_bytes()[:cut])
    for ask in (lambda: Run.open(tmp_path), lambda: Run.start(tmp_path, described())):
        with pytest.raises(UserError, match=r"run.json is not readable JSON .* restore it from a copy"):
            ask()


@pytest.mark.parametrize("lacking", ["recipe", "knobs", "facts", "seed"])
def test_a_run_json_that_lacks_something_is_named(lacking, tmp_path):
    value = described()
    del value[lacking]
    (tmp_path / "run.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="does not describe a run"):
        Run.open(tmp_path)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.floats(-3, 40)
    | st.just(float("nan"))
    | st.text(string.printable, max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["steps", "width", "a"]), inner, max_size=2),
    max_leaves=5,
)
PLACES = [
    (),
    *[(key,) for key in ("recipe", "knobs", "facts", "seed", "classes", "precision", "data")],
    *[("knobs", key) for key in ("steps", "width", "attention_at", "betas", "new")],
    *[("facts", key) for key in ("num_images", "num_classes", "channels", "new")],
]


def spoiled(place, junk):
    """A run.json in which one value is junk."""
    if not place:
        return junk
    value = copy.deepcopy(DESCRIBED)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = junk
    return value


def mistakes_only(ask):
    """What it gives, None where it raises UserError; that is one line. (The type checker of these tests takes several.)"""
    try:
        return ask()
    except UserError as error:
        line = str(error)
    assert "\n" not in line.partition(" (Type-check error")[0]
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), junk=anything)
def test_a_spoiled_run_json_is_read_or_refused_in_one_line(place, junk, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(spoiled(place, junk)))
    mistakes_only(lambda: Run.open(tmp_path))


SPOILED_START = "run.py start: steps that are no number are compared with >="


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), junk=anything)
def test_a_spoiled_run_is_gone_on_with_or_refused_in_one_line(place, junk, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(spoiled(place, junk)))
    if answer := mistakes_only(lambda: Run.start(tmp_path, described())):
        answer[0].grow(10)


@pytest.mark.parametrize("steps", ["10", None, [10]])
def test_steps_that_are_no_number_are_refused(steps, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(described(knobs__steps=steps)))
    refused(tmp_path, described())


SMALL = {"resolution": 16, "width": 1, "latent": 2, "attention": "none", "steps": 10}


def rebuilt(folder, value):
    import torch

    from gander import recipes

    (folder / "run.json").write_text(json.dumps(value))
    with torch.device("meta"):
        return mistakes_only(lambda: recipes.rebuild(Run.open(folder)))


def test_a_run_is_built_again_from_its_folder(tmp_path):
    experiment = rebuilt(tmp_path, described(knobs=SMALL))
    assert (experiment.resolution, experiment.steps, experiment.networks["generator"].latent_dim) == (16, 10, 2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from([p for p in PLACES if p not in [(), ("recipe",)]]), junk=anything)
def test_a_spoiled_run_is_built_or_refused_in_one_line(place, junk, tmp_path):
    value = described(knobs=dict(SMALL))
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = junk
    rebuilt(tmp_path, value)


@pytest.mark.parametrize("recipe", [5, None, ["sagan"]], ids=str)
def test_a_recipe_that_is_no_word_is_refused(recipe, tmp_path):
    rebuilt(tmp_path, described(recipe=recipe, knobs=SMALL))


@pytest.mark.parametrize(
    ("recipe", "words"), [("sagn", "no recipe called 'sagn'"), ("mine.py", "--recipe ./mine.py"), ("../../x.py", "--recipe")]
)
def test_a_run_folder_by_itself_never_makes_code_run(recipe, words, tmp_path):
    from gander import recipes

    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    (tmp_path / "run.json").write_text(json.dumps(described(recipe=recipe)))
    with pytest.raises(UserError, match=words):
        recipes.rebuild(Run.open(tmp_path))


# The log -----------------------------------------------------------------------------------------------------------------


def started(folder):
    return Run.start(folder, described())[0]


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9)
lines = st.lists(st.dictionaries(st.sampled_from(["loss", "gamma/ü", "σ"]), numbers).map(lambda line: line), max_size=8).map(
    lambda values: [{"step": i + 1, **line} for i, line in enumerate(values)]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=lines)
def test_what_is_logged_is_read_again(values, tmp_path):
    run = Run(tmp_path, {})
    run.log_file.unlink(missing_ok=True)
    for line in values:
        run.log(line)
    assert list(run.logged()) == values
    assert run.log_file.exists() == bool(values)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=lines, data=st.data())
def test_however_a_log_is_cut_whole_lines_are_left(values, data, tmp_path):
    run = Run(tmp_path, {})
    run.log_file.write_bytes(b"")
    for line in values:
        run.log(line)
    whole = run.log_file.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    run.log_file.write_bytes(whole[:cut])
    assert list(run.logged()) == values[: whole[:cut].count(b"\n")]
    run.truncate_log(10**9)  # what is torn goes; then the next line begins a line
    run.log({"step": 99})
    assert list(run.logged()) == [*values[: whole[:cut].count(b"\n")], {"step": 99}]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=lines, step=st.integers(0, 9))
def test_truncating_forgets_later_steps_and_changes_no_byte_before(values, step, tmp_path):
    run = Run(tmp_path, {})
    run.log_file.write_bytes(b"")
    for line in values:
        run.log(line)
    whole = run.log_file.read_bytes()
    run.truncate_log(step)
    assert run.log_file.read_bytes() == b"".join(whole.splitlines(keepends=True)[:step])
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_truncating_forgets_the_samples_of_later_steps_and_no_others(tmp_path):
    run = started(tmp_path)
    run.log({"step": 5})
    run.samples.mkdir()
    for name in ("00000000.png", "00000005.png", "00000006.png", "00000100.png", "seed0-step6.png", "123.png", "00000007.gif"):
        (run.samples / name).touch()
    run.truncate_log(5)
    assert {f.name for f in run.samples.iterdir()} == {"00000000.png", "00000005.png", "seed0-step6.png", "123.png", "00000007.gif"}


def test_a_run_without_a_log_has_no_lines(tmp_path):
    run = started(tmp_path)
    assert list(run.logged()) == []
    run.truncate_log(0)
    assert not run.log_file.exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"step": 2, "lo\n', "line 2 is not JSON; delete that line"),
        (b"\xff\xfe\n", "line 2 is not JSON"),
        (b"\n", "line 2 is not JSON"),
        (b"[1, 2]\n", "line 2 is not an object"),
        (b"3\n", "line 2 is not an object"),
    ],
)
def test_a_broken_line_before_the_last_is_named_and_nothing_is_changed(line, words, tmp_path):
    run = started(tmp_path)
    before = b'{"step": 1}\n' + line + b'{"step": 3}\n'
    run.log_file.write_bytes(before)
    for ask in (lambda: list(run.logged()), lambda: run.truncate_log(1)):
        with pytest.raises(UserError, match=words):
            ask()
    assert run.log_file.read_bytes() == before


def test_a_step_that_is_no_number_is_named(tmp_path):
    run = started(tmp_path)
    run.log_file.write_text('{"step": "two"}\n')
    with pytest.raises(UserError, match="line 1"):
        run.truncate_log(1)


def test_a_failed_truncation_leaves_the_log(tmp_path, monkeypatch):
    run = started(tmp_path)
    run.log({"step": 1})
    run.log({"step": 2})

    def full(*names):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            run.truncate_log(1)
    assert [line["step"] for line in run.logged()] == [1, 2]


# One writer --------------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from gander.errors import UserError
from gander.run import Run
try:
    with Run.hold(Path(sys.argv[1])):
        print("mine", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


def other_process(folder):
    return subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_second_writer_is_refused_by_name_in_both_directions_and_the_lock_dies_with_its_process(tmp_path):
    run = started(tmp_path / "a")
    words = f"{run.folder} is being written by another process; wait for it, or take --run {run.folder}-2"
    with Run.hold(run.folder):
        other = other_process(run.folder)
        assert other.communicate()[0] == words + "\n"
    with other_process(run.folder) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(UserError) as error, Run.hold(run.folder):
            pass
        assert str(error.value) == words
        other.kill()
    with Run.hold(run.folder):
        pass


def test_a_lock_is_of_one_run(tmp_path):
    with Run.hold(started(tmp_path / "a").folder), Run.hold(started(tmp_path / "b").folder):
        pass


def test_a_folder_is_held_before_its_first_file(tmp_path):
    """Two first starts at once: one is refused, and writes nothing."""
    with Run.hold(tmp_path / "a"):
        with pytest.raises(UserError, match="being written by another process"), Run.hold(tmp_path / "a"):
            pass
        assert [file.name for file in (tmp_path / "a").iterdir()] == ["lock"]
        run, resumed = Run.start(tmp_path / "a", DESCRIBED)
    assert not resumed
    with Run.hold(run.folder):
        assert Run.start(run.folder, DESCRIBED)[1]


def test_a_folder_of_something_else_is_not_held(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.doc").write_text("")
    with pytest.raises(UserError, match="folder of something else"), Run.hold(tmp_path / "a"):
        pass
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["thesis.doc"]


def test_readers_need_no_lock(tmp_path):
    run = started(tmp_path)
    with Run.hold(run.folder):
        run.log({"step": 1})
        assert list(Run.open(tmp_path).logged()) == [{"step": 1}]


# A run through the verb --------------------------------------------------------------------------------------------------

TINY = {"resolution": 16, "width": 1, "latent": 2, "attention": "none", "batch": 4, "steps": 2, "workers": 1, "device": "cpu"}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train something very small on eight images."""
    from gander import verbs

    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(8):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    return lambda run="a", **options: verbs.train("sagan", run=run, **{"data": "photos", **TINY, **options})


def tensors(run):
    from safetensors.numpy import load_file

    from gander.train import checkpoint

    return load_file(checkpoint.find(run.checkpoints)[0] / "generator.safetensors")


def test_a_locked_run_is_not_given_more_steps(train):
    train()
    run = Run.open("a")
    before = {f: f.read_bytes() for f in run.folder.rglob("*") if f.is_file() and f.name != "lock"}
    with Run.hold(run.folder), pytest.raises(UserError, match="a is being written by another process"):
        train(steps=4)
    assert {f: f.read_bytes() for f in run.folder.rglob("*") if f.is_file() and f.name != "lock"} == before


def test_a_run_that_was_killed_before_its_first_checkpoint_still_starts_from_init(train):
    import shutil

    train("source", seed=5)
    train("a", init="source")
    run = Run.open("a")
    expected = tensors(run)
    shutil.rmtree(run.checkpoints)  # as if it had been killed before the first save
    train("a", init="source")
    assert all(np.array_equal(value, expected[name]) for name, value in tensors(run).items())


def test_a_wrong_init_can_be_mended(train):
    train("source", seed=5)
    with pytest.raises(UserError, match="--init nowhere: there is no such run folder"):
        train("a", init="nowhere")
    train("a", init="source")


@pytest.mark.parametrize(
    "knobs",
    [
        *({"batch": 0}, {"batch": -4}, {"accumulate": 0}, {"accumulate": -1}, {"n_dis": 0}, {"width": 0}, {"width": -1}),
        *({"latent": -1}, {"ema": 1.5}, {"betas": (2.0, 0.9)}, {"generator_lr": -1.0}),
    ],
    ids=str,
)
def test_a_knob_out_of_its_range_is_refused_before_the_run_is_there(knobs, train):
    with pytest.raises(UserError, match=next(iter(knobs)).replace("_", "[-_ ]")):
        train("a", **knobs)
    assert not Path("a").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_a_pipe_is_no_log(tmp_path):
    """Opening one would wait for ever."""
    run, _ = Run.start(tmp_path / "run", DESCRIBED)
    os.mkfifo(run.log_file)
    assert list(run.logged()) == []
