"""The runs of a study, from first to last: time the arms where that is to be equal, train, judge."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gander.errors import UserError, shown
from gander.estimate import span
from gander.files import write_atomic
from gander.run import Run
from gander.study import outcome, runs
from gander.study.page import page
from gander.study.plan import Plan
from gander.study.record import Study
from gander.study.runs import Job
from gander.study.verdict import judge
from gander.train import checkpoint

AGAIN = 1  # how often a run whose process died is tried again
ROUNDS, STEPS = 2, 30  # of the calibration: short runs of each arm in turn


def make(
    study: Study,
    plan: Plan,
    seeds: int,
    *,
    start: runs.Start,
    jobs: int,
    stopped: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """Make what is still to be made, until `stopped`. UserError for a mistake in a run, which ends the study."""
    if plan.equal == "time" and "calibration" not in study.data:
        _calibrate(study, plan, start, stopped, say)
        if stopped():
            return
    arms = {arm["name"]: arm for arm in study.data["arms"]}
    waiting = study.open_runs(seeds)
    same_time = {name: {"steps": arm["steps"]} if "calibration" in study.data else {} for name, arm in arms.items()}
    todo = [_job(study, plan, run, arms[run["arm"]], same_time[run["arm"]]) for run in waiting]
    say(f"{study.folder}: {len(arms)} arms, {seeds} seeds, {len(todo)} of {len(study.runs)} runs to make, {jobs} side by side")
    began, made = time.monotonic(), 0

    def ended(job: Job, code: int, seconds: float) -> bool:
        nonlocal made
        run = job.known_by
        run["seconds"] = round(run.get("seconds", 0.0) + seconds, 1)
        again = _ended(study, plan, job, code, stopped())
        keep(study)
        if run["state"] != "waiting":
            made += 1
            left = span((time.monotonic() - began) / made * (len(todo) - made))
            done = sum(run["state"] != "waiting" for run in study.runs)
            say(f"[{done}/{len(study.runs)}] {_told(study, run)}" + (f", about {left} left" if made < len(todo) else ""))
        return again

    runs.make(todo, ended, start=start, side_by_side=jobs, stopped=stopped, say=say)


def keep(study: Study) -> dict[str, Any] | None:
    """Write the study down with its result so far and its page; the result, None before two seeds are complete."""
    study.data["result"] = result = judge(study.data, study.complete())
    study.keep()
    write_atomic(study.folder / "study.html", page(study.data, result))
    return result


def _job(study: Study, plan: Plan, run: dict[str, Any], arm: dict[str, Any], last: dict[str, Any]) -> Job:
    folder = study.folder / run["folder"]
    words = plan.train(arm, study.data, **last, seed=run["seed"], run=str(folder))
    return Job(words, folder, folder.with_name(f"{folder.name}.log"), run)


def _ended(study: Study, plan: Plan, job: Job, code: int, asked: bool) -> bool:
    """Write down how a run ended; whether it is to be made again. UserError for what the other runs would trip over too."""
    run, (state, why) = job.known_by, runs.verdict(code, job.log)
    if state == "mistaken":
        raise UserError(f"{job.folder}: {why}")
    if state == "finished":
        _judge(study, plan, run)
    elif state == "failed":
        run |= {"state": "failed", "why": shown(why.partition("; the run was stopped")[0])}
    elif asked or state == "held":
        return not asked
    else:
        reached = max(checkpoint.saved(job.folder / "checkpoints"), default=0)
        if state == "died" or reached <= run.get("reached", 0):  # one that is stopped from outside, and came further, did not die
            run["died"] += 1
        run["reached"] = reached
        if run["died"] <= AGAIN:
            return True
        run |= {"state": "failed", "why": f"{shown(why) or 'it was stopped'}, {run['died']} times"}
    return False


def _judge(study: Study, plan: Plan, run: dict[str, Any]) -> None:
    the_run = Run.open(study.folder / run["folder"])
    seen = the_run.described.get("data", {}).get("fingerprint")
    arm = next(arm for arm in study.data["arms"] if arm["name"] == run["arm"])
    if seen not in (None, arm["fingerprint"]):
        raise UserError(f"{the_run.folder} saw other images than the study began with; restore those, and delete that folder")
    if "outcome" not in study.data:
        asked = study.data["plan"]["outcome"]
        study.data["outcome"] = outcome.choose(asked, outcome.keys(the_run), plan.game, plan.probe)._asdict()
    if study.data["precision"] is None:
        study.data["precision"] = the_run.described.get("precision")
    run |= outcome.judged(the_run, outcome.Outcome(**study.data["outcome"]))._asdict()
    run |= {"state": "finished", "seconds_a_step": outcome.seconds_a_step(the_run, arm["images"])}


def _told(study: Study, run: dict[str, Any]) -> str:
    """simple seed 1: top-1 accuracy 62.1 points, 40 s."""
    took = span(run["seconds"])
    if run["state"] == "failed":
        return f"{run['arm']} seed {run['seed']}: failed, {took}: {run['why']}"
    judged = outcome.Outcome(**study.data["outcome"])
    value = f"{judged.scale * run['last']:.4g} {judged.unit}".strip()
    return f"{run['arm']} seed {run['seed']}: {judged.name} {value}, {took}"


def _calibrate(study: Study, plan: Plan, start: runs.Start, stopped: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Measure seconds a step of each arm, and set the steps so that all take as long as the first with its own."""
    arms, folder = study.data["arms"], study.folder / "calibration"
    say(f"calibrating: {ROUNDS} × {STEPS} steps of each arm, in turn, one at a time")
    speeds: dict[str, list[float]] = {arm["name"]: [] for arm in arms}

    def ended(job: Job, code: int, seconds: float) -> bool:
        state, why = runs.verdict(code, job.log)
        if state in ("died", "mistaken", "held"):
            raise UserError(f"{job.folder}: {why}")
        if state != "stopped":
            found = outcome.seconds_a_step(Run.open(job.folder), job.known_by["images"])
            speeds[job.known_by["name"]] += [found] if found else []
        return False

    quiet = {"steps": STEPS, "log_every": 5, "save_every": 10**6, "sample_every": 0, "score_every": 0, "seed": 0}
    todo = []
    for number in range(ROUNDS):
        for arm in arms:
            place = folder / f"{Path(arm['folder'])}-{number}"
            runs.wait_for(place, stopped, say)  # of a study that was killed
            if stopped():
                return
            shutil.rmtree(place, ignore_errors=True)
            words = plan.train(arm, study.data, **quiet, run=str(place))
            todo.append(Job(words, place, place.with_name(f"{place.name}.log"), arm))
    runs.make(todo, ended, start=start, stopped=stopped, say=say)
    if stopped():
        return
    if empty := [name for name, found in speeds.items() if not found]:
        raise UserError(f"{folder}: the calibration of {empty[0]} logged no speed; its log there says why")
    seconds = {name: sum(found) / len(found) for name, found in speeds.items()}
    first = arms[0]
    for arm in arms:
        arm["steps"] = max(1, round(first["steps"] * seconds[first["name"]] / seconds[arm["name"]]))
        say(f"  {arm['name']}: {seconds[arm['name']]:.4g} s a step, {arm['steps']:,} steps")
    study.data["calibration"] = {"seconds_a_step": seconds, "each": speeds, "steps": STEPS, "rounds": ROUNDS}
    study.keep()
    shutil.rmtree(folder, ignore_errors=True)
