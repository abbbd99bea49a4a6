"""Whether study.json, which a person or a crash may have changed, has what a study goes on with, each of its kind."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from gander.errors import shown
from gander.metrics.features import FEATURES
from gander.train.precision import DTYPES

MOST = 1e100  # of any number: its square is one too
COUNT = 2**53
MISSING = object()

Check = Callable[[Any], bool]


def number(x: Any) -> bool:
    """Neither true nor false, neither nan nor infinite."""
    return isinstance(x, int | float) and not isinstance(x, bool) and -MOST < x < MOST


def count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 0 <= x < COUNT


def word(x: Any) -> bool:
    return isinstance(x, str)


def missing_or(check: Check) -> Check:
    return lambda x: x is MISSING or check(x)


def none_or(check: Check) -> Check:
    return lambda x: x is None or check(x)


ARM: dict[str, Check] = {"name": word, "steps": lambda x: count(x) and x > 0}
RUN: dict[str, Check] = {
    "arm": word,
    "seed": count,
    "folder": lambda x: word(x) and bool(re.fullmatch(r"[\w./-]{1,200}", x, re.ASCII)),
    "state": lambda x: x in ("waiting", "finished", "failed"),
    "died": count,
    "why": missing_or(word),
    "seconds": missing_or(number),
    "reached": missing_or(count),
    "last": missing_or(number),
    "best": missing_or(number),
    "exams": missing_or(count),
    "seconds_a_step": missing_or(none_or(lambda x: number(x) and x > 0)),
}
JUDGED: dict[str, Check] = {"last": number, "best": number, "exams": count}  # what a finished run has for sure
OUTCOME: dict[str, Check] = {
    "key": lambda x: word(x) and shown(x) == x,
    "better": lambda x: x in ("higher", "lower"),
    "scale": lambda x: number(x) and x > 0,
    "unit": lambda x: word(x) and shown(x) == x,
}
WHOLE: dict[str, Check] = {
    "plan": lambda x: isinstance(x, dict),
    "arms": lambda x: isinstance(x, list) and all(_has(arm, ARM) for arm in x),
    "runs": lambda x: isinstance(x, list) and all(_has(run, RUN) for run in x),
    "asked": missing_or(lambda x: isinstance(x, list) and all(map(count, x))),
    "features": lambda x: word(x) and x in FEATURES,
    "precision": none_or(lambda x: word(x) and x in DTYPES),
    "calibration": missing_or(lambda x: isinstance(x, dict)),
    "outcome": missing_or(lambda x: _has(x, OUTCOME) and x.keys() == OUTCOME.keys()),
    "versions": lambda x: isinstance(x, dict),
    **dict.fromkeys(("machine", "command", "created"), word),
}


def sound(data: Any) -> bool:
    """Whether a study can go on with it."""
    if not _has(data, WHOLE):
        return False
    finished = [run for run in data["runs"] if run["state"] == "finished"]
    return all(_has(run, JUDGED) for run in finished) and not (finished and not data.get("outcome"))


def _has(item: Any, checks: Mapping[str, Check]) -> bool:
    return isinstance(item, dict) and all(check(item.get(key, MISSING)) for key, check in checks.items())
