"""A study is a folder: study.json holds its plan and the state of every run, study.html shows it, runs/ are run folders."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from gander.errors import UserError
from gander.files import lock, read_json, write_json
from gander.run import circumstances, free_name

PARTS: dict[str, type] = {"plan": dict, "arms": list, "runs": list}  # what study.json has at least
EACH = {"arms": {"name": str, "steps": int}, "runs": {"arm": str, "seed": int, "folder": str, "state": str, "died": int}}
KEPT = ("features", "calibration", "outcome")  # that a study goes on with as it began
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

    @classmethod
    def start(cls, folder: Path, data: dict[str, Any]) -> "Study":
        """Begin the study, or go on with it where the same is asked again, maybe with more seeds.

        UserError with the differences and a free name where the folder holds another one of which a run was begun.
        """
        there = folder / "study.json"
        before = read_json(there) if there.exists() else None
        if before is not None:
            if not _sound(before):
                raise UserError(f"{there} does not describe a study; restore it from a copy, or take --study {free_name(folder)}")
            begun = any(run.get("state") not in OPEN or (folder / run["folder"] / "run.json").exists() for run in before["runs"])
            if changed := list(_differences(before["plan"], json.loads(json.dumps(data["plan"])))) if begun else []:
                listed = ", ".join(f"{name} was {was!r}, now {now!r}" for name, was, now in changed[:5])
                more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
                raise UserError(f"{folder} is another study ({listed}{more}); take --study {free_name(folder)}")
            if begun:
                runs = _joined(before["runs"], data["runs"], folder)
                asked = before.get("asked", [])
                asked = [*asked, *(more for more in data["asked"] if more > max(asked, default=0))]
                todo = any(run["state"] in OPEN for run in runs)
                kept = (*KEPT, *(() if todo else circumstances()))
                data = {**data, **{key: before[key] for key in kept if key in before}, "runs": runs, "asked": asked}
                if "calibration" in data:
                    steps = {arm["name"]: arm["steps"] for arm in before["arms"]}
                    data["arms"] = [{**arm, "steps": steps[arm["name"]]} for arm in data["arms"]]
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
        ended = [run["seed"] for run in self.runs if run["state"] not in OPEN]
        return sorted(seed for seed in set(ended) if ended.count(seed) == len(self.data["arms"]))


def _sound(data: Any) -> bool:
    """Whether it has what a study goes on with."""
    if not isinstance(data, dict) or any(not isinstance(data.get(key), kind) for key, kind in PARTS.items()):
        return False
    return all(
        isinstance(item, dict) and all(isinstance(item.get(key), kind) for key, kind in keys.items())
        for part, keys in EACH.items()
        for item in data[part]
    )


def _joined(before: list[dict[str, Any]], now: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The runs of both, in the state they were left in. A failed run whose folder was deleted is to be made again."""
    found = {(run["seed"], run["arm"]): run for run in now}
    for run in before:
        if run["state"] != "failed" or (folder / run["folder"]).exists():
            place = found.get((run["seed"], run["arm"]), run)["folder"]  # where to write is never taken from a file
            found[run["seed"], run["arm"]] = {**run, "folder": place}
    order = {run["arm"]: place for place, run in reversed(list(enumerate(now)))}
    return sorted(found.values(), key=lambda run: (run["seed"], order.get(run["arm"], 0)))


def _differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield path, before, now
