"""Whole studies: planned, made, cut, gone on with, judged. Most of their runs write a planted log and train nothing."""

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

from gander import cli, verbs
from gander.errors import UserError
from gander.probes import PROBES
from gander.run import Run
from gander.study import making, outcome, record, runs

PRETENCE = Path(__file__).with_name("pretence.py")
SAGAN = {"data": "probe:twins", "resolution": 16, "width": 4, "batch": 8, "steps": 400}


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
    """Takes the place of processes, and of preparing the images."""

    def plant(found):
        made = Planted(found)
        monkeypatch.setattr(runs, "here", made)
        monkeypatch.setattr(making, "prepare", lambda *a, **k: None)
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


@pytest.mark.parametrize("broken", ["[]", "{", '{"plan": {}, "arms": [], "runs": [{}]}', '{"plan": {}, "arms": [1], "runs": []}'])
def test_a_broken_study_is_refused_in_one_line(planted, broken):
    machine = planted(better)
    Path("s").mkdir()
    Path("s/study.json").write_text(broken)
    with pytest.raises(UserError, match=r"study.json (does not describe a study|is not readable JSON).*; restore it from a copy"):
        verbs.compare("sagan", **SAGAN, vary={"attention": ["none", "self"]}, study="s")
    assert machine.said == []


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
    with pytest.raises(UserError, match=r"the run's log has no FID; there are: score/Fréchet\[random-conv\], "):
        verbs.compare("sagan", **SAGAN, **asked, outcome="FID", study="f")
    with pytest.raises(UserError, match="no outcome called 'top-1 accuracy'; there are: FID"):
        verbs.compare("sagan", **SAGAN, **asked, outcome="top-1 accuracy")


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
        ({"device": "cuda:97"}, "cuda|GPU"),
        ({"precision": "fp64"}, "no precision called 'fp64'"),
        ({"equal": "time", "vary": ["steps=2,4"], "steps": 300_000}, "--equal time sets the steps, which are varied"),
        ({"equal": "parameters", "vary": ["width=2,4"], "width": 64}, "--equal parameters moves the width, which is varied"),
        ({"outcome": "coherence"}, "no outcome called 'coherence'; did you mean 'coherent'?"),
        ({"score_every": 5, "recipe": str(PRETENCE), "vary": ["kind=none,good"]}, "makes no samples that could be scored"),
    ],
)
def test_what_is_wrong_is_said_before_any_run(options, line, planted):
    machine = planted(better)
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
    assert "it helped here" in said
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
