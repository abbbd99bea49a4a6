"""A study is a folder: study.json holds its plan and the state of every run, study.html shows it, runs/ are run folders."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from gander.errors import UserError, shown
from gander.files import lock, read_json, write_json
from gander.run import circumstances, free_name
from gander.study import soundness

KEPT = ("features", "precision", "calibration", "outcome")  # that a study goes on with as it began
OPEN = ("waiting",)  # states of a run that is still to be made; the others are finished and failed


class Study:
    """study.json of a folder. `plan` is what makes it this study and no other; all in `data` is plain JSON."""

    def __init__(self, folder: Path, data: dict[str, Any]):
        self.folder, self.data = folder, data
        self.runs: list[dict[str, Any]] = data["runs"]

    @staticmethod
    def hold(folder: Path) -> AbstractContextManager[None]:
        """The right to run this study: one process at a time."""
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; name a folder for the study with --study")
        foreign = [f.name for f in folder.iterdir() if f.name != "lock" and f.name[0] != "."] if folder.is_dir() else []
        if foreign and "study.json" not in foreign:
            raise UserError(f"{folder} is a folder of something else (it holds {foreign[0]!r}); take --study {free_name(folder)}")
        return lock(folder / "lock", f"{folder} is being made by another process; wait for it, or take --study {free_name(folder)}")

    @staticmethod
    def begun(folder: Path) -> dict[str, Any]:
        """study.json of a study of which a run was begun, else nothing. UserError where it is damaged."""
        there = folder / "study.json"
        if not there.exists():
            return {}
        before = read_json(there)
        if not soundness.sound(before):
            raise UserError(f"{there} does not describe a study; restore it from a copy, or take --study {free_name(folder)}")
        begun = any(run["state"] not in OPEN or (folder / run["folder"] / "run.json").exists() for run in before["runs"])
        return dict(before) if begun else {}

    @staticmethod
    def refuse_another(folder: Path, before: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        """UserError with the differences and a free name where this plan, or as much as is known of it, is not that of `before`."""
        asked = json.loads(json.dumps(plan))
        changed = list(_differences({key: before["plan"].get(key) for key in asked}, asked))
        if changed:
            listed = ", ".join(f"{shown(name)[:100]} was {_short(was)}, now {_short(now)}" for name, was, now in changed[:5])
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise UserError(f"{folder} is another study ({listed}{more}); take --study {free_name(folder)}")

    @classmethod
    def start(cls, folder: Path, data: dict[str, Any]) -> "Study":
        """Begin the study, or go on with it where the same is asked again, maybe with more seeds.

        UserError with the differences and a free name where the folder holds another one of which a run was begun.
        """
        if before := cls.begun(folder):
            cls.refuse_another(folder, before, data["plan"])
            runs = _joined(before["runs"], data["runs"], folder)
            asked = before.get("asked") or []
            asked = [*asked, *(more for more in data["asked"] if more > max(asked, default=0))]
            todo = any(run["state"] in OPEN for run in runs)
            kept = (*KEPT, *(() if todo else circumstances()))
            data = {**data, **{key: before[key] for key in kept if before.get(key) is not None}, "runs": runs, "asked": asked}
            if "calibration" in data:
                steps = {arm["name"]: arm["steps"] for arm in before["arms"]}
                data["arms"] = [{**arm, "steps": steps.get(arm["name"], arm["steps"])} for arm in data["arms"]]
        study = cls(folder, data)
        study.keep()
        return study

    def keep(self) -> None:
        write_json(self.folder / "study.json", self.data)

    def open_runs(self, seeds: int) -> list[dict[str, Any]]:
        """Those of the first seeds that are still to be made, seed by seed through all arms."""
        return [run for run in self.runs if run["state"] in OPEN and run["seed"] < seeds]

    def complete(self) -> list[int]:
        """The seeds of which every arm's run has come to its end, well or not."""
        ended = Counter(run["seed"] for run in self.runs if run["state"] not in OPEN)
        return sorted(seed for seed, count in ended.items() if count == len(self.data["arms"]))


def _joined(before: list[dict[str, Any]], now: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The runs of both, in the state they were left in. A failed run whose folder was deleted is to be made again."""
    found, arms = {(run["seed"], run["arm"]): run for run in now}, {run["arm"] for run in now}
    for run in before:
        if run["arm"] not in arms:
            continue  # as no gander writes
        if run["state"] != "failed" or (folder / run["folder"]).exists():
            place = found.get((run["seed"], run["arm"]), run)["folder"]  # where to write is never taken from a file
            found[run["seed"], run["arm"]] = {**run, "folder": place}
    order = {run["arm"]: place for place, run in reversed(list(enumerate(now)))}
    return sorted(found.values(), key=lambda run: (run["seed"], order.get(run["arm"], 0)))


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 100 else f"{said[:99]}…"


def _differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield path, before, now
