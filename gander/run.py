"""A run is a folder: the contract between train, sample, score, look and report. It knows no torch.

run.json               recipe, knobs, facts, seed, data, versions, machine, command
log.jsonl              one object a line, appended by whole lines; a torn last line is ignored
checkpoints/<step>/    what `gander.train.checkpoint` writes
samples/               grids of fixed latents over time, and what `gander sample` makes
predictions.csv        what `gander predict` made of images, the last time
exam.json              what a learner that is examined made of held-out images, the last time
look/                  where the attention layers look, and the film of training; what report shows of networks
report.html            what `gander report` makes of all these: one page that needs no other file
"""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from gander import __version__
from gander.errors import UserError
from gander.files import lock, read_json, write_atomic, write_json

# What may change when a run goes on; all else in run.json must be what it was.
FREE = ("command", "versions", "machine", "created", "device", "name", "where")
OLDER = {"fraction": 1.0}  # what is said of runs that were made before it was written down
DESCRIBED: dict[str, type] = {"recipe": str, "knobs": dict, "facts": dict, "seed": int}  # what run.json has at least
PARTS = ("run.json", "log.jsonl", "lock", "checkpoints", "samples", "look", "report.html", "tensorboard")  # that a run may write
MAX_LINE = 1 << 20  # bytes of a line of the log


class Outcome(NamedTuple):
    """How far a training came, and the signal that asked it to stop before its last step (0 for none)."""

    step: int
    signal: int


class Run:
    """A run folder that exists. `Run.open` reads one; under `Run.hold`, `Run.start` makes one or goes on with it."""

    def __init__(self, folder: Path, described: dict[str, Any]):
        self.folder, self.described = folder, described
        self.checkpoints, self.samples = folder / "checkpoints", folder / "samples"
        self.log_file = folder / "log.jsonl"

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in `folder`. UserError where there is none."""
        folder = Path(folder)
        file = folder / "run.json"
        if not file.is_file():
            what = "is no run: it has no run.json" if folder.is_dir() else "does not exist"
            raise UserError(f"{folder} {what}; runs are made by `gander train`")
        for part in PARTS:
            if (folder / part).is_symlink():
                raise UserError(f"{folder / part} is a link, which a run does not follow; put what it leads to in its place")
        described = read_json(file)
        if not isinstance(described, dict) or any(not isinstance(described.get(key), kind) for key, kind in DESCRIBED.items()):
            raise UserError(f"{file} does not describe a run: {', '.join(DESCRIBED)} are missing or odd; restore it from a copy")
        classes = described.get("classes", [])
        if not isinstance(classes, list) or any(not isinstance(name, str) for name in classes):
            raise UserError(f"{file} has classes that are no list of names; restore it from a copy")
        return cls(folder, described)

    @property
    def fraction(self) -> float:
        """Of the images, that it is trained on. UserError where run.json says what is no number."""
        said = self.described.get("fraction", OLDER["fraction"])
        if isinstance(said, bool) or not isinstance(said, int | float):
            raise UserError(f"{self.folder}/run.json has a fraction of the images that is no number; restore it from a copy")
        return float(said)

    @classmethod
    def start(cls, folder: Path, described: dict[str, Any], *, growing: bool = True) -> tuple["Run", bool]:
        """Make the run, or go on with it where the same is asked of it again: (run, whether it was there).

        `growing`: more steps of a run whose schedules do not depend on their total go on with it.
        UserError with the differences and a free name where the folder holds another run, or something else.
        """
        if not (folder / "run.json").exists():
            _refuse_foreign(folder)
            write_json(folder / "run.json", described)
            return cls(folder, described), False
        run = cls.open(folder)
        run.compare(described, growing=growing)
        return run, True

    def compare(self, described: dict[str, Any], *, growing: bool = True) -> None:
        """UserError with the differences and a free name, unless what is described here is what the run says of it."""
        folder = self.folder
        before, now = (
            dict(_flat({key: self.described.get(key, OLDER.get(key)) for key in described})),
            dict(_flat(json.loads(json.dumps(described)))),
        )
        had, asked = before.get("knobs.steps"), now.get("knobs.steps")
        if growing and isinstance(had, int) and isinstance(asked, int) and had <= asked:
            before["knobs.steps"] = asked
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if not changed:
            return
        if "recipe" in changed:
            changed = ["recipe"]  # its knobs are others: no news
        listed = ", ".join(f"{key.removeprefix('knobs.')} was {before.get(key)!r}, now {now.get(key)!r}" for key in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        advice = f"take --run {free_name(folder)}"
        if changed == ["knobs.steps"]:
            advice = f"to go on from its weights: --init {folder} --run {free_name(folder)}"
        raise UserError(f"{folder} is another run ({listed}{more}); {advice}")

    def grow(self, steps: int) -> None:
        """Write down that the run was given more steps."""
        if self.described["knobs"].get("steps", steps) != steps:
            self.described["knobs"]["steps"] = steps
            write_json(self.folder / "run.json", self.described)

    @staticmethod
    def hold(folder: Path) -> AbstractContextManager[None]:
        """The right to write in `folder`, which need not exist yet: one process at a time, and it dies with its process."""
        _refuse_foreign(folder)
        return lock(
            folder / "lock", f"{folder} is being written by another process; wait for it, or take --run {free_name(folder)}"
        )

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line: whole, or (after a power cut) ignored."""
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        with self.log_file.open("ab") as file:
            file.write(line)
            file.flush()

    def logged(self) -> Iterator[dict[str, Any]]:
        """The lines of the log in order. A torn last line is passed over; a broken one before it raises UserError."""
        if not self.log_file.is_file():  # nor is a pipe one, which would keep a reader waiting
            return
        with self.log_file.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
                if len(line) == MAX_LINE:
                    raise UserError(f"{self.log_file} line {number} is longer than any of a log; delete that line")
                if not line.endswith(b"\n"):
                    return
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    raise UserError(f"{self.log_file} line {number} is not JSON; delete that line") from None
                if not isinstance(value, dict):
                    raise UserError(f"{self.log_file} line {number} is not an object; delete that line")
                yield value

    def truncate_log(self, step: int) -> None:
        """Forget what was logged after `step`: those steps will be taken again."""
        if not self.log_file.exists():
            return
        kept: list[str] = []
        for number, line in enumerate(self.logged(), start=1):
            if not isinstance(line.get("step"), int):
                raise UserError(f"{self.log_file} line {number} has no step that is a number; delete that line")
            kept += [json.dumps(line) + "\n"] if line["step"] <= step else []
        write_atomic(self.log_file, "".join(kept))
        if self.samples.is_dir():
            for file in self.samples.glob("[0-9]" * 8 + ".png"):
                if int(file.stem) > step:
                    file.unlink()


def circumstances() -> dict[str, Any]:
    """When, with what and on which kind of machine: for the record; a run may go on under others."""
    return {
        "versions": {
            "python": platform.python_version(),
            "gander": __version__,
            **{name: version(name) for name in ("torch", "numpy", "pillow")},
        },
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "command": shlex.join(["gander", *sys.argv[1:]]),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def free_name(folder: Path) -> Path:
    """The first of folder-2, folder-3, ... that does not exist."""
    folder, number = folder if folder.name else Path(folder.resolve().name or "run"), 2
    while (free := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return free


def _refuse_foreign(folder: Path) -> None:
    """UserError where `folder` is neither a run nor free to become one."""
    if (folder / "run.json").exists():
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the run with --run")
    foreign = [f.name for f in folder.iterdir() if f.name != "lock" and f.name[0] != "."] if folder.is_dir() else []
    if foreign:
        raise UserError(f"{folder} is a folder of something else (it holds {foreign[0]!r}); take --run {free_name(folder)}")


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if path or key not in FREE:
                yield from _flat(item, f"{path}.{key}" if path else key)
    elif path.rpartition(".")[2] not in FREE:
        yield path, value
