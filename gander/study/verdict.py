"""The runs of a study -> its table, its tests and a plain sentence on each arm."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gander.estimate import span
from gander.study.outcome import Outcome
from gander.study.statistics import ALPHA, MOST, Difference, difference, holm, interval, seeds_needed, sign_test

EFFECT = "Hedges g of the pairs"
APART = 1.1  # of times that should be equal: from where on it is said that they were not


def judge(data: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any] | None:
    """What study.json says of these complete seeds, as plain JSON; None where they are fewer than two, or no run came to an end.

    A failed run has the worst outcome of all runs of these seeds: it is in every mean and test. Failures have a test of their own.
    """
    named = data.get("outcome")
    runs = {(run["arm"], run["seed"]): run for run in data["runs"]}
    ended = [run["last"] for (_, seed), run in runs.items() if seed in seeds and run["state"] == "finished"]
    if len(seeds) < 2 or not named or not ended:
        return None
    outcome = Outcome(**named)
    worst = (max if outcome.better == "lower" else min)(ended)
    rows, values = [], {}
    for arm in data["arms"]:
        mine = [runs[arm["name"], seed] for seed in seeds]
        failed = [i for i, run in enumerate(mine) if run["state"] != "finished"]
        values[arm["name"]] = last = [outcome.scale * (worst if i in failed else run["last"]) for i, run in enumerate(mine)]
        several = any(run.get("exams", 1) > 1 for run in mine)
        best = [outcome.scale * (worst if i in failed else run["best"]) for i, run in enumerate(mine)] if several else None
        speeds = sorted(run["seconds_a_step"] for run in mine if run.get("seconds_a_step"))
        rows.append(
            {key: arm[key] for key in ("name", "parameters", "steps")}
            | {"n": len(last), "failed": failed, "values": last, "interval": interval(last), "sd": _sd(last)}
            | {"best": None if best is None else {"mean": sum(best) / len(best), "sd": _sd(best)}}
            | {"seconds_a_step": speeds[len(speeds) // 2] if speeds else None}
        )
    first, *others = values
    found = {name: difference(values[name], values[first]) for name in others}
    needed = {name: seeds_needed(found[name].effect, alpha=ALPHA / len(others)) for name in others}  # to settle each of so many
    corrected = dict(zip(others, holm([found[name].paired for name in others]), strict=True))
    failures = _failures(rows)
    differences = [
        {"arm": name, "against": first, **apart._asdict(), "holm": corrected[name], "seeds": needed[name]}
        | {"effect": apart.effect if math.isfinite(apart.effect) else None, "effect_is": EFFECT}
        | {"pairs": [a - b for a, b in zip(values[name], values[first], strict=True)]}
        | ({"failures": failures[name]} if name in failures else {})
        | {"says": sentence(name, first, apart, corrected[name], needed[name], outcome, len(others), failures.get(name))}
        for name, apart in found.items()
    ]
    result = {"outcome": outcome._asdict() | {"name": outcome.name}, "seeds": list(seeds), "arms": rows, "differences": differences}
    return result | {"notes": _notes(data, seeds, rows, outcome.scale * worst)}


def sentence(
    arm: str,
    first: str,
    apart: Difference,
    corrected: float,
    seeds: int | None,
    outcome: Outcome,
    tests: int,
    failures: Mapping[str, Any] | None = None,
) -> str:
    """simple − none = +1.9 points, 95 % CI 0.6 to 3.2, 12 seeds: it helped here; 0 of 12 against 3 of 12 failed, p = 0.25."""
    said = _difference(arm, first, apart, corrected, seeds, outcome, tests, bool(failures))
    if not failures:
        return said
    counts = " against ".join(f"{count} of {apart.n}" for count in failures["counts"])
    among = f" ({tests} differences looked at)" if tests > 1 else ""
    return f"{said}; {counts} failed, p = {failures['holm']:.2g}{among}"


def _difference(
    arm: str, first: str, apart: Difference, corrected: float, seeds: int | None, outcome: Outcome, tests: int, failed: bool
) -> str:
    mean, low, high = figures(apart.high - apart.mean, apart.mean, apart.low, apart.high)
    unit = f" {outcome.unit}" if outcome.unit else ""
    apart_by = f"{arm} − {first} = {'' if apart.mean == 0 or mean.startswith('−') else '+'}{mean}{unit}"
    if apart.low == apart.high and (apart.mean or failed):
        return f"{apart_by}, equal in each of {apart.n} seeds: no interval; more seeds are needed"
    seen = f"{apart_by}, 95 % CI {low} to {high}, {apart.n} seeds"
    if corrected < ALPHA:
        helped = (apart.mean > 0) == (outcome.better == "higher")
        return f"{seen}: it {'helped' if helped else 'hurt'} here{' (lower is better)' if outcome.better == 'lower' else ''}"
    if apart.low == apart.high == 0:
        return f"{arm} − {first} = 0 in each of {apart.n} seeds: this outcome tells nothing; train longer, or take another"
    among = f" once {tests} differences are looked at" if apart.paired < ALPHA else ""
    if seeds is None:
        return f"{seen}: not told apart{among}; a difference of this size would take more than {MOST:,} seeds"
    return f"{seen}: not told apart{among}; about {seeds:,} would settle a difference of this size"


def _notes(data: Mapping[str, Any], seeds: Sequence[int], rows: Sequence[Mapping[str, Any]], worst: float) -> list[str]:
    """What is to be said beside; `worst` is the outcome that failed runs were given."""
    notes = []
    total, failed = sum(row["n"] for row in rows), sum(len(row["failed"]) for row in rows)
    if failed:
        counted = f"in means and tests each counts as the worst finished outcome of the study, {worst:.4g}"
        notes.append(f"{failed} of {total} runs failed; {counted}: a mean with failures is a bound, the truth is no better")
    if open_seeds := sorted({run["seed"] for run in data["runs"]} - set(seeds)):
        asked = len(seeds) + len(open_seeds)
        notes.append(f"the study is not finished: this is of the {len(seeds)} seeds of {asked} that all arms have")
    if any(row["best"] for row in rows):
        notes.append("tests are of the last exam; the best of a run's exams was chosen by looking, and flatters")
    if len(asked_for := data.get("asked", [])) > 1:
        said = ", then ".join(map(str, asked_for))
        notes.append(f"seeds were added after a look ({said}), which makes p values somewhat too small")
    if data["plan"]["equal"] == "time":
        notes.append("steps were set so that all arms take as long, by seconds a step that were measured first")
        took = {row["name"]: row["seconds_a_step"] * row["steps"] for row in rows if row["seconds_a_step"]}
        if took and max(took.values()) > APART * min(took.values()):
            each = ", ".join(f"{name} {span(seconds)}" for name, seconds in took.items())
            notes.append(f"the runs themselves did not take as long, by more than 10 %: {each}, median seconds a step times steps")
    return notes


def _failures(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By arm, where it or the first has any: how many runs of it and of the first failed, and p of that, alone and by Holm."""
    first, *others = rows
    there = set(first["failed"])
    tested = {row["name"]: sign_test(len({*row["failed"]} - there), len(there - {*row["failed"]})) for row in others}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {
        row["name"]: {"counts": [len(row["failed"]), len(there)], "p": tested[row["name"]], "holm": corrected[row["name"]]}
        for row in others
        if row["failed"] or there
    }


def table(result: Mapping[str, Any]) -> list[list[str]]:
    """The arms in rows of words, the names of the columns first."""
    outcome, rows = result["outcome"], result["arms"]
    several, unit = any(row["best"] for row in rows), f" [{outcome['unit']}]" if outcome["unit"] else ""
    best_of = ["best", "sd"] if several else []
    lines = [["arm", "n", f"{outcome['name']}{unit}", "sd", *best_of, "failed", "parameters", "steps", "s/step"]]
    for row in rows:
        best = figures(row["sd"], row["best"]["mean"], row["best"]["sd"]) if row["best"] else ["-", "-"]
        speed = f"{row['seconds_a_step']:.3g}" if row["seconds_a_step"] else "-"
        said = [row["name"], str(row["n"]), *figures(row["sd"], row["interval"][1], row["sd"]), *(best if several else [])]
        lines.append([*said, str(len(row["failed"])), f"{row['parameters']:,}", f"{row['steps']:,}", speed])
    return lines


def tests(result: Mapping[str, Any]) -> list[list[str]]:
    """The differences in rows of words, the names of the columns first."""
    lines = [["difference", "mean", "95 % interval", "p paired", "p Holm", "p Welch", EFFECT]]
    for apart in result["differences"]:
        mean, low, high = figures(apart["high"] - apart["mean"], *(apart[key] for key in ("mean", "low", "high")))
        effect = "-" if apart["effect"] is None else _signed(f"{apart['effect']:.2f}")
        row, equal = [f"{apart['arm']} − {apart['against']}", mean], apart["low"] == apart["high"]
        tested = ["-"] * 4 if equal else [f"{low} to {high}", *(f"{apart[key]:.2g}" for key in ("paired", "holm", "welch"))]
        lines.append([*row, *tested, effect])
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows for a terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def worded(result: Mapping[str, Any]) -> list[str]:
    """All of it for a terminal."""
    better = f"{result['outcome']['better']} is better"
    lines = [*aligned(table(result)), "", *aligned(tests(result)), ""]
    return [*lines, *(apart["says"] for apart in result["differences"]), *(f"note: {note}" for note in result["notes"] + [better])]


def figures(error: float, *values: float) -> list[str]:
    """Numbers to the second figure of their error."""
    if not 0 < error < math.inf:
        return [_signed(f"{value:.4g}") for value in values]
    digits = min(8, max(0, 1 - math.floor(math.log10(error))))
    return [_signed(f"{value:,.{digits}f}") for value in values]


def _signed(word: str) -> str:
    return "−" + word[1:] if word.startswith("-") else word


def _sd(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
