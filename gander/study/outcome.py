"""What a run is judged by: a number in its log, and which way is better."""

from collections.abc import Sequence
from typing import NamedTuple

from gander.errors import UserError, unknown
from gander.run import Run

SHARES = ("top-1 accuracy", "top-5 accuracy")
GRADES = {  # of the probes, the main one first; a test holds them against what the probes give
    "twins": ("coherent", "valid", "hue_agrees", "radius_agrees", "hues_covered"),
    "count": ("right_count", "valid", "counts_covered"),
}
SCORES = ("FID", "Fréchet", "KID")
EXAMS = ("top-1 accuracy", "PSNR", "top-5 accuracy", "loss", "L1", "MSE")
LOWER = {*SCORES, "loss", "L1", "MSE"}
UNITS = {"PSNR": "dB"}


class Outcome(NamedTuple):
    """`key` is its name in the log. Shares are told in points of 100: value × scale."""

    key: str
    better: str  # higher or lower
    scale: float = 1.0
    unit: str = ""

    @property
    def name(self) -> str:
        return self.key.removeprefix("exam/").removeprefix("score/")


class Judged(NamedTuple):
    """The outcome of a run at its last step, and the best of all its exams, which flatters. `exams` is how many there were."""

    last: float
    best: float
    exams: int


def possible(game: bool, probe: str | None) -> list[str]:
    """The short names of what a run can be judged by, those first that are taken where none is asked for."""
    return [*GRADES.get(probe or "", ()), *SCORES] if game else list(EXAMS)


def check(asked: str | None, game: bool, probe: str | None, *, classes: int, features: str) -> None:
    """UserError for an outcome that no run will have. `classes`: of a classifier, 0 for an auto-encoder; `features`: of scores."""
    if asked is None:
        return
    if game:
        lacking = {"Fréchet"} if features == "inception" else {"FID"}
        why = f"scored by {features}"
    elif classes:
        lacking = {"PSNR", "L1", "MSE"} | (set() if classes > 5 else {"top-5 accuracy"})
        why = f"a classifier of {classes} classes"
    else:
        lacking, why = {*SHARES, "loss"}, "learnt without labels"
    names, short = possible(game, probe), _short(asked)
    there = [name for name in names if name not in lacking]
    if short in lacking & {*names}:
        raise UserError(f"these runs, {why}, have no {asked}; there are: {', '.join(there)}")
    if short not in there:
        raise unknown("outcome", asked, there)


def choose(asked: str | None, logged: Sequence[str], game: bool, probe: str | None) -> Outcome:
    """The outcome asked for, else the first of `possible`, among the names in a run's log. UserError where it is not there."""
    for short in [_short(asked)] if asked else possible(game, probe):
        for key in logged:
            if "/" in key and _short(key) == short:
                share = short in SHARES or key.partition("/")[0] in GRADES
                better = "lower" if short in LOWER else "higher"
                return Outcome(key, better, 100.0 if share else 1.0, "points" if share else UNITS.get(short, ""))
    there = sorted(key for key in logged if key.partition("/")[0] in {"exam", "score", *GRADES} and not key.endswith(" error"))
    raise UserError(f"the run's log has no {asked or 'outcome'}; there are: {', '.join(there) or 'none'}")


def judged(run: Run, outcome: Outcome) -> Judged:
    """What the log of a finished run says. UserError where it says nothing."""
    values = [float(line[outcome.key]) for line in run.logged() if outcome.key in line]
    if not values:
        raise UserError(f"{run.log_file} has no {outcome.key}; was the run made by the same gander?")
    return Judged(values[-1], (min if outcome.better == "lower" else max)(values), len(values))


def keys(run: Run) -> list[str]:
    """The names in a run's log, in their order."""
    return list(dict.fromkeys(key for line in run.logged() for key in line))


def seconds_a_step(run: Run, images: int) -> float | None:
    """The median over the log's lines but the first, which a cold start slows; None where there is none."""
    lines = [line["images_per_second"] for line in run.logged() if line.get("images_per_second")]
    rates = sorted(lines[1:] or lines)
    return images / rates[len(rates) // 2] if rates else None


def _short(name: str) -> str:
    """`score/Fréchet[random-conv]` -> `Fréchet`."""
    return name.rpartition("/")[2].partition("[")[0]
