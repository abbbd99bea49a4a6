"""Runs as processes of their own: so many side by side, stopped together, each tried again once where its process dies."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gander import files
from gander.errors import UserError

LOOK = 0.2  # seconds between two looks at the processes
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # what a training ends with that was asked to
COLLAPSED = ("; the run was stopped", "; it went back")  # how `fit` says that a run went wrong
HELD = "is being written by another process"
WAITING = "is still written by a process of before; waiting for its end"
MEMORY = ("the device's memory is full", "takes more memory than there is")  # of which another may have taken a part


class Job(NamedTuple):
    """A run to make: `words` behind `gander`, the folder that it writes, the file for what it says, whatever it is known by."""

    words: list[str]
    folder: Path
    log: Path
    known_by: Any


@runtime_checkable
class Worker(Protocol):
    """A process somewhere. `poll` gives its exit code, None while it runs; `stop` asks it to save and end."""

    def poll(self) -> int | None: ...
    def stop(self) -> None: ...


Start = Callable[[Sequence[tuple[Job, Mapping[str, str]]]], Sequence[Worker]]  # of jobs with what their environment has of its own
Ended = Callable[[Job, int, float], bool]  # of the job, its exit code and its seconds: whether it is to be made again


class Here:
    """A process of this machine, in a group of its own: the terminal's Ctrl-C is not for it, but for its parent."""

    def __init__(self, job: Job, changes: Mapping[str, str]):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            if os.name == "posix":
                options["start_new_session"] = True
            words = [sys.executable, "-m", "gander", *job.words]
            self.process = subprocess.Popen(words, env={**os.environ, **changes}, **options)

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()


def here(jobs: Sequence[tuple[Job, Mapping[str, str]]]) -> list[Worker]:
    return [Here(job, changes) for job, changes in jobs]


def make(
    jobs: Sequence[Job],
    ended: Ended,
    *,
    start: Start = here,
    side_by_side: int = 1,
    stopped: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
) -> None:
    """Run them in their order. Where `stopped` says so, those that go are asked to save and waited for, and no other begins.

    A run that another process still writes (of a study that was killed) is passed over until that has ended. An exception of
    `ended` stops the others before it leaves.
    """
    waiting, told, asked = list(jobs), set[Path](), False
    going: dict[int, tuple[Job, Worker, float]] = {}  # by the place that each takes
    try:
        while going or (waiting and not stopped()):
            if stopped() and not asked:
                asked = True
                for _, worker, _ in going.values():
                    worker.stop()
            free = [place for place in range(side_by_side) if place not in going]
            due: list[Job] = []
            for job in [] if stopped() else waiting[:]:
                if len(due) == len(free):
                    break
                if is_free(job.folder):
                    waiting.remove(job)
                    due.append(job)
                elif job.folder not in told:
                    told.add(job.folder)
                    say(f"{job.folder} {WAITING}")
            begun = start([(job, share(place, side_by_side)) for place, job in zip(free, due, strict=False)]) if due else []
            for place, job, worker in zip(free, due, begun, strict=False):
                going[place] = (job, worker, time.monotonic())
            for place, (job, worker, began) in list(going.items()):
                if (code := worker.poll()) is not None:
                    del going[place]
                    if ended(job, code, time.monotonic() - began):
                        waiting.insert(0, job)
            time.sleep(LOOK)
    finally:
        for _, worker, _ in going.values():  # something went wrong here
            worker.stop()
        for _, worker, _ in going.values():
            while sys.exc_info()[0] is not KeyboardInterrupt and worker.poll() is None:
                time.sleep(LOOK)


def wait_for(folder: Path, stopped: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Until no process writes this run, or `stopped`."""
    if not is_free(folder):
        say(f"{folder} {WAITING}")
        while not is_free(folder) and not stopped():
            time.sleep(LOOK)


def is_free(folder: Path) -> bool:
    """Whether no process writes this run."""
    if not (folder / "lock").exists():
        return True
    try:
        with files.lock(folder / "lock", HELD):
            return True
    except UserError as error:
        if str(error) != HELD:
            raise
        return False


def share(place: int, side_by_side: int) -> dict[str, str]:
    """What a run's environment has of its own: its share of the cores, unless OMP_NUM_THREADS says otherwise; one GPU in turn."""
    changes = {}
    if side_by_side > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if "OMP_NUM_THREADS" not in os.environ:
            changes["OMP_NUM_THREADS"] = str(max(1, cores // side_by_side))
        gpus = named.split(",") if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) else _gpus()
        if len(gpus) > 1:
            changes["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    return changes


def _gpus() -> list[str]:
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def last_words(log: Path, start: str = "") -> str:
    """The last line of a log that begins with `start`, without it; else the last of all."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith(start)), lines[-1] if lines else "").removeprefix(start)


class Verdict(NamedTuple):
    """How a run ended: finished, stopped, held (by another process), failed (it went wrong), died, mistaken (a person can mend)."""

    state: str
    why: str = ""


def verdict(code: int, log: Path) -> Verdict:
    """What an exit code and a run's last words say."""
    why = last_words(log, "gander: " if code == 2 else "")  # behind which a library may have said more
    if code == 0:
        return Verdict("finished")
    if code in STOPPED:
        return Verdict("stopped", why)
    if code == 2 and HELD in why:
        return Verdict("held", why)
    if code == 2 and any(words in why for words in MEMORY):
        return Verdict("died", why)
    if code == 2:
        return Verdict("failed" if any(words in why for words in COLLAPSED) else "mistaken", why)
    return Verdict("died", f"its process died ({f'signal {-code}' if code < 0 else f'exit code {code}: {why[:200]}'})")
