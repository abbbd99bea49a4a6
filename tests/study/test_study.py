"""Whole studies: planned, made, cut, gone on with, judged. Most of their runs write a planted log and train nothing."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gander import cli, training, verbs
from gander.errors import UserError
from gander.files import lock
from gander.probes import PROBES
from gander.run import Outcome, Run
from gander.study import cluster, outcome, plan, record, runs

PRETENCE = Path(__file__).with_name("pretence.py")
SAGAN = {"data": "probe:twins", "resolution": 16, "width": 4, "batch": 8, "steps": 400}


class Images:
    """What is known of prepared images."""

    enlarged, resolution = 0, 16

    def __init__(self, count, num_classes, fingerprint):
        self.count, self.num_classes, self.fingerprint = count, num_classes, fingerprint

    def __len__(self):
        return self.count


class Planted:
    """Runs that end at once, their logs filled by `found(knobs, seed)`; what it raises is what they end with."""

    def __init__(self, found):
        self.found, self.said = found, []

    def __call__(self, jobs):
        return [self.begin(job) for job, _ in jobs]

    def begin(self, job):
        words = dict(zip(job.words[::1], job.words[1:], strict=False))
        told = {word.removeprefix("--"): words[word] for word in job.words if word.startswith("--")}
        self.said.append(told)
        code, lines = self.found(told, int(told["seed"]))
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "run.json").write_text(json.dumps({"recipe": "sagan", "knobs": {}, "facts": {}, "seed": 0}))
        (job.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        job.log.write_text("gander: step 3: the loss is nan; the run was stopped, and so on\n" if code == 2 else "")

        class Ended:
            def poll(self):
                return code

            def stop(self): ...

        return Ended()


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "LOOK", 0.02)


@pytest.fixture
def planted(monkeypatch):
    """Takes the place of processes, and of preparing the images unless `images` is None."""

    def plant(found, images=50_000, labels=6, fingerprint="probe:twins:1"):
        made = Planted(found)
        monkeypatch.setattr(runs, "here", made)
        if images is not None:
            monkeypatch.setattr(training, "decoded", lambda plan, options: training.Decoded(Images(images, labels, fingerprint)))
        return made

    return plant


def better(told, seed):
    """self is better by 0.1 to 0.13, residual is not; two exams, of which the first was the better one."""
    value = 0.3 + 0.05 * seed + (0.1 + 0.01 * seed if told["attention"] == "self" else 0.0) + 0.001 * (seed % 2)
    return 0, [{"step": 200, "twins/coherent": value + 0.05}, {"step": 400, "twins/coherent": value, "images_per_second": 80.0}]


def test_a_study_is_made_seed_by_seed_and_said_plainly(planted, capsys):
    machine = planted(better)
    found = verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self", "residual"]}, seeds=4, score_every=200)
    assert [(told["seed"], told["attention"]) for told in machine.said] == [
        (str(seed), attention) for seed in range(4) for attention in ("none", "self", "residual")
    ]
    assert {(told["score-every"], told["score-features"], told["width"]) for told in machine.said} == {("200", "random-conv", "4")}
    assert found.folder == Path("studies/sagan-twins-attention")
    out = capsys.readouterr().out
    assert re.search(r"\[1/12\] none seed 0: twins/coherent 30 points, 0 s, about \d+ s left", out)
    assert re.search(r"self − none = \+11\.5 points, 95 % CI 9\.4 to 13\.6, 4 seeds: it helped here\n", out)
    assert "residual − none = 0 in each of 4 seeds: this outcome tells nothing" in out
    assert found.result["arms"][0]["best"]["mean"] == pytest.approx(5 + found.result["arms"][0]["interval"][1])
    assert found.result["arms"][0]["seconds_a_step"] == pytest.approx(0.1)  # 8 images at 80 a second
    kept = json.loads((found.folder / "study.json").read_text())
    assert kept["result"] == json.loads(json.dumps(found.result))
    assert kept["plan"]["knobs"] == {name: value for name, value in SAGAN.items() if name != "data"}
    assert {"versions", "command", "machine", "created"} <= kept.keys()
    assert "self − none" in (found.folder / "study.html").read_text()

    before = (found.folder / "study.json").read_bytes()
    machine.found = None  # nothing is made again
    again = verbs.compare("sagan", **SAGAN, vary=["attention=none,self,residual"], seeds=4, score_every=200)
    assert json.dumps(again.result) == json.dumps(found.result)
    assert (found.folder / "study.json").read_bytes() == before
    assert "it helped here" in capsys.readouterr().out


def test_more_seeds_go_on_and_another_study_is_refused(planted):
    machine = planted(better)
    asked = {"vary": {"attention": ["none", "self"]}, "study": "s"}
    verbs.compare("sagan", **SAGAN, **asked, seeds=2)
    more = verbs.compare("sagan", **SAGAN, **asked, seeds=3)
    assert [told["seed"] for told in machine.said] == ["0", "0", "1", "1", "2", "2"]
    assert any("(2, then 3)" in note for note in more.result["notes"])
    assert verbs.compare("sagan", **SAGAN, **asked, seeds=2).result["seeds"] == [0, 1, 2]  # what is made is not thrown away
    with pytest.raises(UserError, match=r"s is another study \(knobs.width was 4, now 8\); take --study s-2$"):
        verbs.compare("sagan", **{**SAGAN, "width": 8}, **asked, seeds=3)
    with pytest.raises(UserError, match=r"vary.attention was .*, now "):
        verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "residual"]}, study="s")
    Path("full").mkdir()
    Path("full/photo.png").touch()
    with pytest.raises(UserError, match=r"full is a folder of something else .it holds 'photo.png'.; take --study full-2"):
        verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self"]}, study="full")
    with record.Study.hold(Path("s")), pytest.raises(UserError, match="s is being made by another process; wait for it, or take"):
        verbs.compare("sagan", **SAGAN, **asked, seeds=3)
    assert len(machine.said) == 6


def test_other_images_are_another_study(tmp_path, photos, planted):
    """What is trained on and what is held out, by their content; images that are put back make it the same study again."""
    machine = planted(lambda told, seed: (0, [{"step": 4, "exam/top-1 accuracy": 0.1 * seed}]), images=None)
    asked = {"data": "photos", "vary": ["kind=none,good"], "study": "s"}
    verbs.compare(str(PRETENCE), **asked, seeds=2)
    kept = json.loads(Path("s/study.json").read_text())["plan"]
    assert (kept["images"]["count"], kept["held_out"]["count"]) == (22, 2)
    for image in Path("photos/cats").iterdir():  # one of these is held out
        before = image.read_bytes()
        image.write_bytes(Path("photos/dogs/0.png").read_bytes())
        with pytest.raises(
            UserError, match=r"^s is another study \((images|held_out).fingerprint was '.*', now '.*'\); take --study s-2$"
        ):
            verbs.compare(str(PRETENCE), **asked, seeds=3)
        image.write_bytes(before)
    assert len(machine.said) == 4
    verbs.compare(str(PRETENCE), **asked, seeds=3)
    assert len(machine.said) == 6


def test_fewer_images_are_another_study(planted):
    planted(better)
    asked = {"vary": {"attention": ["none", "self"]}, "study": "s"}
    verbs.compare("sagan", **SAGAN, **asked, seeds=2)
    planted(better, images=49_999)
    with pytest.raises(UserError, match=r"s is another study \(images.count was 50000, now 49999\)"):
        verbs.compare("sagan", **SAGAN, **asked, seeds=3)


def test_a_run_that_saw_other_images_is_none_of_the_study(planted):
    machine = planted(better)
    begin = machine.begin

    def other(job):
        worker = begin(job)
        described = {"recipe": "sagan", "knobs": {}, "facts": {}, "seed": 0, "data": {"fingerprint": "other"}}
        (job.folder / "run.json").write_text(json.dumps(described))
        return worker

    machine.begin = other
    with pytest.raises(UserError, match="s/runs/none-seed0 saw other images than the study began with; restore those"):
        verbs.compare("sagan", **SAGAN, vary=["attention=none,self"], study="s")


def test_a_fraction_of_the_images_is_varied_as_a_knob_is(planted):
    machine = planted(better)
    found = verbs.compare("sagan", **SAGAN, vary=["fraction=0.1,1", "attention=none,self"], seeds=2, study="s")
    told = [(each.get("fraction"), each["attention"]) for each in machine.said[:4]]
    assert told == [("0.1", "none"), ("0.1", "self"), ("1.0", "none"), ("1.0", "self")]
    assert [arm["name"] for arm in found.result["arms"]][:2] == ["fraction 0.1, attention none", "fraction 0.1, attention self"]
    again = {"vary": {"fraction": [0.1, 1], "attention": ["none", "self"]}, "study": "s"}
    assert verbs.compare("sagan", **SAGAN, **again, seeds=2).result == found.result
    with pytest.raises(
        UserError, match=r"s is another study \(vary.fraction was \[0.1, 1.0\], now \[0.2, 1.0\]\); take --study s-2$"
    ):
        verbs.compare("sagan", **SAGAN, vary=["fraction=0.2,1.0", "attention=none,self"], seeds=2, study="s")
    assert len(machine.said) == 8


def test_all_arms_of_one_fraction_and_no_fraction_are_studies_of_their_own(planted):
    machine = planted(better)
    verbs.compare("sagan", **SAGAN, vary=["attention=none,self"], fraction=0.1, seeds=2, study="s")
    assert {each["fraction"] for each in machine.said} == {"0.1"}
    with pytest.raises(UserError, match=r"s is another study \(flags.fraction was 0.1, now None\)"):
        verbs.compare("sagan", **SAGAN, vary=["attention=none,self"], seeds=2, study="s")


def test_arms_of_fractions_are_judged_by_the_same_images_and_each_sees_its_own(photos, planted):
    """What is held out is the same for all; each run has the images of its arm, whose number the recipe is told."""
    Path("epochs.py").write_text(PRETENCE.read_text().replace("batch, steps, resolution", "batch, facts.num_images, resolution"))
    machine = planted(lambda told, seed: (0, [{"step": 4, "exam/top-1 accuracy": 0.1 * seed}]), images=None)
    asked = {"data": "photos", "vary": ["fraction=0.25,0.5,1"], "seeds": 2, "study": "s"}
    verbs.compare("./epochs.py", **asked)
    study = json.loads(Path("s/study.json").read_text())
    assert [arm["steps"] for arm in study["arms"]] == [6, 12, 22]  # of 11 images a class
    assert len({arm["fingerprint"] for arm in study["arms"]}) == 3
    assert study["plan"]["images"] == {"count": 22, "fingerprint": study["arms"][2]["fingerprint"]}
    assert study["plan"]["held_out"]["count"] == 2
    begin = machine.begin

    def of_another_arm(job):
        worker = begin(job)
        data = {"fingerprint": study["arms"][1]["fingerprint"]}
        (job.folder / "run.json").write_text(json.dumps({"recipe": "epochs.py", "knobs": {}, "facts": {}, "seed": 0, "data": data}))
        return worker

    machine.begin = of_another_arm
    with pytest.raises(UserError, match="runs/fraction-0-25-seed0 saw other images than the study began with"):
        verbs.compare("./epochs.py", **{**asked, "study": "t"})


def test_steps_are_those_of_the_images_that_can_be_decoded(tmp_path, photos, planted):
    recipe = tmp_path / "epochs.py"
    recipe.write_text(PRETENCE.read_text().replace("batch, steps, resolution", "batch, facts.num_images, resolution"))
    Path("photos/cats/0.png").write_bytes(b"no image")
    planted(lambda told, seed: (0, [{"step": 4, "exam/top-1 accuracy": 0.1 * seed}]), images=None)
    asked = {"data": "photos", "vary": ["kind=none,good"], "seeds": 2, "allow_broken": True}
    result = verbs.compare(str(recipe), **asked).result
    kept = json.loads(Path("studies/epochs-photos-kind/study.json").read_text())["plan"]
    assert kept["images"]["count"] + kept["held_out"]["count"] == 23
    assert [row["steps"] for row in result["arms"]] == [kept["images"]["count"]] * 2


def test_precision_is_found_once_and_kept(planted, monkeypatch):
    """As where a study is begun on a GPU, which has bf16, and gone on with on a CPU."""
    machine = planted(better)
    asked = {"vary": {"attention": ["none", "self"]}, "study": "s"}
    with monkeypatch.context() as gpu:
        gpu.setattr(plan.precisions, "resolve", lambda asked, device: asked or "bf16")
        verbs.compare("sagan", **SAGAN, **asked, seeds=2)
    verbs.compare("sagan", **SAGAN, **asked, seeds=3)
    assert [told["precision"] for told in machine.said] == ["bf16"] * 6
    verbs.compare("sagan", **SAGAN, vary=["attention=none,self"], seeds=2, precision="fp16", study="t")
    assert {told["precision"] for told in machine.said[6:]} == {"fp16"}


def test_a_cluster_is_begun_with_when_the_study_is_written_down(planted, monkeypatch):
    machine = planted(better)

    def start_on(name, folder):
        assert (folder / "study.json").exists()
        return machine

    monkeypatch.setattr(cluster, "check", lambda name: None)
    monkeypatch.setattr(cluster, "start_on", start_on)
    verbs.compare("sagan", **SAGAN, vary=["attention=none,self"], seeds=2, cluster="slurm", device="cuda", study="s")
    assert len(machine.said) == 4
    assert all("precision" not in told for told in machine.said)  # the machines choose, who knows which


@pytest.mark.parametrize("broken", ["[]", "{", '{"plan": {}, "arms": [], "runs": [{}]}', '{"plan": {}, "arms": [1], "runs": []}'])
def test_a_broken_study_is_refused_in_one_line(planted, broken):
    machine = planted(better)
    Path("s").mkdir()
    Path("s/study.json").write_text(broken)
    with pytest.raises(UserError, match=r"study.json (does not describe a study|is not readable JSON).*; restore it from a copy"):
        verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self"]}, study="s")
    assert machine.said == []


@pytest.mark.parametrize(
    ("part", "odd"),
    [
        *(("runs.0.last", odd) for odd in ("", '"x"', "NaN", "1e400", "null", "true", f"1{'0' * 400}")),
        *(("runs.0.best", odd) for odd in ("", "null", "[]")),
        ("runs.0.exams", "null"),
        ("runs.0.seconds", '"x"'),
        ("runs.0.seconds_a_step", "0"),
        ("runs.0.state", "[]"),
        ("runs.0.state", '"done"'),
        ("runs.0.seed", "true"),
        ("runs.0.seed", "-1"),
        ("runs.0.folder", '"a\\u0000b"'),
        ("runs.0.why", "null"),
        ("runs.1.died", '"x"'),
        ("arms.0.steps", "0"),
        ("asked", '"x"'),
        ("asked", '["x"]'),
        ("outcome", ""),
        ("outcome", '"x"'),
        ("outcome", "{}"),
        ("outcome.scale", "Infinity"),
        ("outcome.better", '"odd"'),
        ("outcome.unit", "5"),
        ("outcome.unit", '"\\ud800"'),
        ("outcome.more", "5"),
        ("features", "[]"),
        ("precision", '"fp64"'),
        ("calibration", "1"),
        ("versions", "1"),
        ("command", "null"),
    ],
)
def test_a_damaged_study_is_refused_in_one_line(planted, part, odd):
    machine = planted(better)
    asked = {**SAGAN, "vary": {"attention": ["none", "self"]}, "study": "s"}
    verbs.compare("sagan", **asked, seeds=2)
    whole = json.loads(Path("s/study.json").read_text())
    *above, name = part.split(".")
    place = whole
    for key in above:
        place = place[int(key) if key.isdigit() else key]
    place[name] = "ODD"
    text = json.dumps(whole)
    if odd:
        Path("s/study.json").write_text(text.replace('"ODD"', odd))
    else:
        del place[name]
        Path("s/study.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"^s/study.json does not describe a study; restore it from a copy, or take --study s-2$"):
        verbs.compare("sagan", **asked, seeds=3)
    assert len(machine.said) == 4


def test_where_runs_are_written_is_not_taken_from_the_file(planted):
    machine = planted(better)
    asked = {"vary": {"attention": ["none", "self"]}, "study": "s"}
    verbs.compare("sagan", **SAGAN, **asked, seeds=2)
    kept = json.loads(Path("s/study.json").read_text())
    kept["runs"][0] |= {"state": "waiting", "folder": "../elsewhere"}
    kept["arms"][0]["knobs"]["width"] = 64
    Path("s/study.json").write_text(json.dumps(kept))
    verbs.compare("sagan", **SAGAN, **asked, seeds=2)
    assert (machine.said[-1]["run"], machine.said[-1]["width"]) == ("s/runs/none-seed0", "4")
    assert not Path("elsewhere").exists()


def test_failed_and_dead_runs_are_counted_and_the_dead_tried_again_once(planted):
    deaths = []

    def found(told, seed):
        if told["attention"] == "self" and seed == 0:
            return 2, []  # not finite
        if told["attention"] == "residual":
            deaths.append(seed)
            if seed == 1 or deaths.count(seed) == 1:
                return -9, []
        return better(told, seed)

    planted(found)
    result = verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self", "residual"]}, seeds=3, study="s").result
    assert deaths == [0, 0, 1, 1, 2, 2]
    assert [row["failed"] for row in result["arms"]] == [[], [0], [1]]
    kept = json.loads(Path("s/study.json").read_text())["runs"]
    why = {(run["arm"], run["seed"]): run.get("why") for run in kept if run["state"] == "failed"}
    assert why == {("self", 0): "step 3: the loss is nan", ("residual", 1): "its process died (signal 9), 2 times"}
    worst = 30.0
    assert result["arms"][1]["values"][0] == result["arms"][2]["values"][1] == pytest.approx(worst)

    deaths.clear()
    for file in sorted(Path("s/runs/residual-seed1").iterdir()):
        file.unlink()
    Path("s/runs/residual-seed1").rmdir()
    planted(better)  # a failed run whose folder is deleted is made again
    result = verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self", "residual"]}, seeds=3, study="s").result
    assert [row["failed"] for row in result["arms"]] == [[], [0], []]


def test_a_mistake_that_a_run_meets_ends_the_study_with_its_line(planted):
    machine = planted(lambda told, seed: better(told, seed) if seed == 0 else (2, []))
    begin = machine.begin

    def full(job):
        worker = begin(job)
        job.log.write_text("gander: No space left on device; nothing that was saved before is lost\n")
        return worker

    machine.begin = full
    with pytest.raises(UserError, match="none-seed1: No space left on device; nothing that was saved before is lost"):
        verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self"]}, seeds=2, study="s")
    planted(better)
    assert verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self"]}, seeds=2, study="s").result["seeds"] == [0, 1]


def test_a_study_that_was_cut_reports_its_complete_seeds(planted, monkeypatch):
    def found(told, seed):
        if seed == 2 and told["attention"] == "self":
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C in the middle of a seed: this run is stopped
            return 130, []
        return better(told, seed)

    planted(found)
    cut = verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self"]}, seeds=5, study="s")
    assert cut.signal == signal.SIGINT
    assert cut.result["seeds"] == [0, 1]
    assert any("2 seeds of 5" in note for note in cut.result["notes"])
    machine = planted(better)
    whole = verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self"]}, seeds=5, study="s")
    assert (whole.signal, whole.result["seeds"]) == (0, [0, 1, 2, 3, 4])
    assert [(told["attention"], told["seed"]) for told in machine.said][:2] == [("self", "2"), ("none", "3")]


def test_equal_time_measures_first_and_fixes_the_steps(planted, capsys):
    """self takes 2.5 times as long a step; the first line of each log, of a cold start, is not believed."""

    def found(told, seed):
        rate = 100.0 if told["attention"] == "none" else 40.0
        lines = [{"step": 5, "images_per_second": 1.0}] + [{"step": i, "images_per_second": rate} for i in (10, 15, 20)]
        return 0, [*lines, {"step": int(told["steps"]), "twins/coherent": 0.3 + 0.1 * seed}]

    machine = planted(found)
    asked = {"vary": {"attention": ["none", "self"]}, "study": "s", "equal": "time"}
    result = verbs.compare("sagan", **SAGAN, **asked, seeds=2).result
    short, long = machine.said[:4], machine.said[4:]
    assert [(told["attention"], told["steps"]) for told in short] == [("none", "30"), ("self", "30")] * 2
    assert [(told["attention"], told["steps"], told["score-every"]) for told in long] == [
        ("none", "400", "400"),
        ("self", "160", "160"),
    ] * 2
    assert [row["steps"] for row in result["arms"]] == [400, 160]
    kept = json.loads(Path("s/study.json").read_text())["calibration"]
    assert kept["seconds_a_step"] == pytest.approx({"none": 0.08, "self": 0.2})
    assert not Path("s/calibration").exists()
    assert "self: 0.2 s a step, 160 steps" in capsys.readouterr().out
    verbs.compare("sagan", **SAGAN, **asked, seeds=3)
    assert [told["steps"] for told in machine.said[8:]] == ["400", "160"]  # what was measured is kept


def test_a_calibration_waits_for_what_a_killed_study_left_running(planted, monkeypatch, capsys):
    line = [{"step": i, "images_per_second": 80.0} for i in (5, 10)] + [{"step": 30, "twins/coherent": 0.3}]
    machine = planted(lambda told, seed: (0, line))
    left = lock(Path("s/calibration/self-0/lock"), "held")
    left.__enter__()
    Path("s/calibration/self-0/log.jsonl").write_text("of before\n")
    looks = []

    def look(seconds):
        looks.append(Path("s/calibration/self-0/log.jsonl").exists() and not machine.said)
        if len(looks) == 3:
            left.__exit__(None, None, None)

    monkeypatch.setattr(record.Study, "hold", staticmethod(lambda folder: contextlib.nullcontext()))
    monkeypatch.setattr(runs.time, "sleep", look)
    verbs.compare("sagan", **SAGAN, vary=["attention=none,self"], seeds=2, study="s", equal="time")
    assert looks[:3] == [True] * 3
    assert "s/calibration/self-0 is still written by a process of before; waiting for its end\n" in capsys.readouterr().out


def test_a_stop_while_calibrating_says_of_no_runs(planted, capsys):
    def found(told, seed):
        os.kill(os.getpid(), signal.SIGINT)
        return 130, []

    machine = planted(found)
    asked = {"vary": ["attention=none,self"], "seeds": 2, "study": "s", "equal": "time"}
    assert verbs.compare("sagan", **SAGAN, **asked).signal == signal.SIGINT
    out = capsys.readouterr().out
    assert "runs to make, 1 side by side" not in out
    assert "stopped with 0 seeds complete and 4 runs to make; say the same command again to go on" in out
    assert len(machine.said) == 1


def test_a_stop_while_images_are_decoded_leaves_no_study(planted, monkeypatch):
    machine = planted(better)
    monkeypatch.setattr(training, "decoded", lambda plan, options: Outcome(0, signal.SIGTERM))
    found = verbs.compare("sagan", **SAGAN, vary=["attention=none,self"], study="s")
    assert (found.result, found.signal) == (None, signal.SIGTERM)
    assert machine.said == []
    assert not Path("s/study.json").exists()


def test_an_outcome_is_chosen_by_name(planted):
    log = [{"step": 4, "twins/coherent": 0.5, "twins/valid": 0.7, "score/Fréchet[random-conv]": 2.0, "score/KID[random-conv]": 0.1}]
    planted(lambda told, seed: (0, log))
    asked = {"vary": {"attention": ["none", "self"]}, "seeds": 2}
    for name, key, better, unit in (
        (None, "twins/coherent", "higher", "points"),
        ("valid", "twins/valid", "higher", "points"),
        ("twins/valid", "twins/valid", "higher", "points"),
        ("Fréchet", "score/Fréchet[random-conv]", "lower", ""),
    ):
        found = verbs.compare("sagan", **SAGAN, **asked, outcome=name, study=f"s-{name}".replace("/", "-")).result["outcome"]
        assert (found["key"], found["better"], found["unit"]) == (key, better, unit)


@pytest.mark.parametrize(
    ("recipe", "options", "line"),
    [
        ("sagan", {"outcome": "FID"}, "these runs, scored by random-conv, have no FID; there are: coherent, .*Fréchet, KID$"),
        (
            "sagan",
            {"outcome": "Fréchet", "score_features": "inception"},
            "by inception, have no Fréchet; there are: .*FID, KID$",
        ),
        ("sagan", {"outcome": "top-1 accuracy"}, "no outcome called 'top-1 accuracy'; there are: Fréchet, KID, coherent"),
        ("sagan", {"outcome": "coherent", "channels": 1}, "no outcome called 'coherent'; there are: Fréchet, KID$"),
        (
            "imagewoof",
            {"outcome": "top-5 accuracy"},
            "a classifier of 2 classes, have no top-5 accuracy; there are: top-1",
        ),
        ("imagewoof", {"outcome": "PSNR"}, "a classifier of 2 classes, have no PSNR; there are: top-1 accuracy, loss$"),
        ("autoencoder", {"outcome": "top-1 accuracy"}, "learnt without labels, have no top-1 accuracy; there are: PSNR, L1, MSE$"),
        ("autoencoder", {"outcome": "FID"}, "no outcome called 'FID'; there are: L1, MSE, PSNR$"),
    ],
)
def test_an_outcome_that_no_run_will_have_is_refused_before_any(recipe, options, line, photos, planted, monkeypatch):
    machine = planted(better)
    monkeypatch.setattr(training, "decoded", None)  # nor is an image decoded
    data = SAGAN if recipe == "sagan" else {"data": "photos", "batch": 4, "resolution": 32}
    with pytest.raises(UserError, match=line):
        verbs.compare(recipe, **data, vary=["attention=none,self"], study="s", **options)
    assert machine.said == []


def test_the_grades_are_those_of_the_probes():
    for name, probe in PROBES.items():
        images, labels = probe.draw(0, range(8), 16)
        assert set(outcome.GRADES[name]) == set(probe.grade(images.transpose(0, 3, 1, 2) / 127.5 - 1, labels))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"seeds": 1}, "an interval needs 2 seeds or more; --seeds 2"),
        ({"jobs": 0}, "--jobs 0 is no number"),
        ({"vary": ["attention=none"]}, "leaves nothing to compare with"),
        ({"vary": ["attention=none,sel"]}, "did you mean 'self'"),
        ({"widht": 3}, "no knob called 'widht'; did you mean 'width'?"),
        ({"data": "nowhere"}, "nowhere"),
        ({"batch": 60_000}, "fewer than a batch of 60000; take --batch 50000"),
        ({"vary": ["batch=16,60000"], "batch": 64}, "50,000 images are fewer than a batch of 60000; take --batch 50000"),
        (
            {"vary": ["fraction=0.5,0.0001"]},
            r"^5 images \(--fraction 0.0001\) are fewer than a batch of 8; take --batch 5 or less, or a",
        ),
        ({"vary": ["fraction=0.5,1.5"]}, "^--fraction 1.5 is no part of the images; take a number over 0, up to 1"),
        ({"vary": ["fraction=half,1"]}, "^--vary fraction: 'half' is not a value of this knob; its default is 1"),
        ({"vary": ["fraction=0.1,1"], "fraction": 0.5}, "^fraction is both varied and set to 0.5; leave one of them out"),
        ({"vary": ["fracton=0.1,1"]}, "did you mean 'fraction'"),
        ({"vary": ["accumulate=1,3"], "batch": 16}, "a batch of 16 cannot be cut into 3 micro-batches"),
        ({"vary": ["accumulate=1,0"], "batch": 16}, "accumulate 0 is not a whole number from 1 on"),
        ({"vary": ["attention=none,,self"]}, "has an empty value"),
        ({"log_every": 0}, "--log-every 0 is not a number of steps"),
        ({"save_every": 0}, "--save-every 0 is not a number of steps"),
        ({"score_every": -1}, "--score-every -1 is not a number of steps"),
        ({"init": "nowhere"}, "--init nowhere: there is no such run folder"),
        ({"tensorboard": True}, "--tensorboard needs the package 'tensorboard'"),
        ({"device": "cuda:97"}, "cuda|GPU"),
        ({"precision": "fp64"}, "no precision called 'fp64'"),
        ({"equal": "time", "vary": ["steps=2,4"], "steps": 300_000}, "--equal time sets the steps, which are varied"),
        ({"equal": "parameters", "vary": ["width=2,4"], "width": 64}, "--equal parameters moves the width, which is varied"),
        ({"outcome": "coherence"}, "no outcome called 'coherence'; did you mean 'coherent'?"),
        ({"score_every": 5, "recipe": str(PRETENCE), "vary": ["kind=none,good"]}, "makes no samples that could be scored"),
    ],
)
def test_what_is_wrong_is_said_before_any_run(options, line, planted, monkeypatch):
    machine = planted(better)
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    monkeypatch.setattr(training, "decoded", None)
    recipe = options.get("recipe", "sagan")
    given = {**(SAGAN if recipe == "sagan" else {"data": "probe:twins"}), "vary": ["attention=none,self"], "study": "s"}
    given |= {name: value for name, value in options.items() if name != "recipe"}
    with pytest.raises(UserError, match=line) as error:
        verbs.compare(recipe, **given)
    assert "\n" not in str(error.value)
    assert machine.said == []
    assert not list(Path(".").glob("s/*/*"))


@pytest.fixture
def photos(tmp_path):
    """Two classes of twelve noisy images."""
    generator = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "photos" / kind / f"{i}.png")


def test_a_killed_study_goes_on_where_it_was(tmp_path, photos, monkeypatch, capsys):
    """SIGKILL of the study while a run goes: that comes to its end, and the study said again waits for it and repeats nothing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["compare", str(PRETENCE), "--data", "photos", "--vary", "kind=none,good", "--seeds", "2", "--study", "s"]
    words += ["--steps", "20", "--wait", "0.1", "--log-every", "1"]
    process = subprocess.Popen([sys.executable, "-m", "gander", *words], stdout=subprocess.DEVNULL)
    log, end = tmp_path / "s/runs/none-seed0/log.jsonl", time.time() + 100
    while time.time() < end and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert [run["state"] for run in json.loads((tmp_path / "s/study.json").read_text())["runs"]] == ["waiting"] * 4
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "good − none = +5" in said
    assert "equal in each of 2 seeds: no interval; more seeds are needed" in said
    steps = [line["step"] for line in Run.open("s/runs/none-seed0").logged() if "loss" in line]
    assert steps == list(range(1, 21))
    log = Path("s/runs/none-seed0.log").read_text()
    assert log.count("training s/runs/none-seed0") == 1  # by the process that was left alone; the second only saw it finished
    assert log.count("is finished") == 2


def test_runs_of_a_cluster_and_a_killed_worker_loses_only_its_own(tmp_path, photos, monkeypatch):
    """Two workers of submitit's local cluster; one run is killed in its second step, and made again."""
    pytest.importorskip("submitit", reason="no submitit here: pip install 'gander-torch[cluster]'")
    from gander.study.cluster import start_on

    monkeypatch.setenv("PRETENCE_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    codes = {"none": [], "dies": []}

    def ended(job, code, seconds):
        codes[job.known_by].append(code)
        return code == -signal.SIGKILL and len(codes[job.known_by]) < 3

    todo = []
    for kind in codes:
        words = ["train", str(PRETENCE), "--data", "photos", "--kind", kind, "--run", str(tmp_path / kind)]
        todo.append(runs.Job(words, tmp_path / kind, tmp_path / f"{kind}.log", kind))
    runs.make(todo, ended, start=start_on("local", tmp_path / "study"), side_by_side=2)
    assert codes == {"none": [0], "dies": [-signal.SIGKILL, 0]}
    for kind in codes:
        assert outcome.keys(Run.open(tmp_path / kind)).count("exam/top-1 accuracy") == 1
