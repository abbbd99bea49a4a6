"""A task over the images of a source, in this process or in several.

Workers are fresh interpreters that import the task's module and nothing else. Those of multiprocessing would import the
caller's main module too: torch in every one, and an endless loop where a script lacks its `__main__` guard.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, Any

from gander.data.images import Broken
from gander.data.sources import Read, Source, reader
from gander.errors import UserError

Job = dict[str, Any]  # "paths" of entries, and what else the task needs: all of it JSON
Task = Callable[[Read, Job], list]  # a function of a module; its answer is JSON too

WORTH = 2.0  # seconds of work from which on workers are started: one costs about a third
_JOB_BYTES = 2 << 20  # of files, as they are stored
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = sys.argv[3:]; "
    "import importlib; from gander.data.workers import serve; "
    "serve(getattr(importlib.import_module(sys.argv[1]), sys.argv[2]))"
)


def step_of(source: Source) -> int:
    """How many images make a job: little enough that a wish to stop is heard within a second."""
    size = sum(entry.size for entry in source.entries) / max(1, len(source))
    return int(max(1, min(64, _JOB_BYTES // max(1, size))))


def work(
    task: Task, source: Source, jobs: Sequence[Job], workers: int | None = None, stopped: Callable[[], bool] | None = None
) -> Generator[tuple[Job, list], None, None]:
    """Each job with the answer of `task(read, job)`, in any order.

    `workers` processes; by default as many as there are cores, once the first second shows that there is much to do.
    `stopped` is asked a few times a second: KeyboardInterrupt when it says True. No worker outlives this generator.
    """
    stopped = stopped or (lambda: False)
    waiting, cores = deque(jobs), _cores()
    most = workers if workers is not None else cores
    if most < 2 or workers is None:
        with reader(source.kind, source.root, source.rows) as read:
            began = time.monotonic()
            while waiting:
                spent, done = time.monotonic() - began, len(jobs) - len(waiting)
                if most > 1 and spent > 0.5 and spent / done * len(waiting) > WORTH:
                    break
                if stopped():
                    raise KeyboardInterrupt
                job = waiting.popleft()
                yield job, task(read, job)
    if waiting:
        yield from _spread(task, source, waiting, min(most, len(waiting)), stopped)


def _spread(
    task: Task, source: Source, waiting: deque[Job], count: int, stopped: Callable[[], bool]
) -> Generator[tuple[Job, list], None, None]:
    answers: queue.SimpleQueue[tuple[Job, list] | BaseException | None] = queue.SimpleQueue()
    processes: list[subprocess.Popen[bytes]] = []
    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            processes.append(_start(task))
            threads.append(threading.Thread(target=_feed, args=(processes[-1], source, waiting, answers), daemon=True))
            threads[-1].start()
        running = count
        while running:
            if stopped():
                raise KeyboardInterrupt
            try:
                answer = answers.get(timeout=0.2)
            except queue.Empty:
                continue
            if answer is None:
                running -= 1
            elif isinstance(answer, BaseException):
                if stopped():  # a signal to the whole group may end workers too
                    raise KeyboardInterrupt
                raise answer
            else:
                yield answer
    finally:
        waiting.clear()
        for process in processes:
            process.kill()
        for thread in threads:
            thread.join()
        for process in processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                try:
                    assert pipe is not None
                    pipe.close()
                except OSError:  # a job was still in the pipe
                    pass


def _start(task: Task) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _START, task.__module__, task.__name__, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _feed(process: "subprocess.Popen[bytes]", source: Source, waiting: deque[Job], answers: "queue.SimpleQueue[Any]") -> None:
    """Hand one worker job after job until there are none; runs in a thread of its own."""
    assert process.stdin is not None
    assert process.stdout is not None
    job: Job | None = None
    try:
        _send(process.stdin, {"kind": source.kind, "root": str(source.root)})
        while waiting:
            try:
                job = waiting.popleft()
            except IndexError:  # another thread was faster
                break
            if source.rows is None:
                _send(process.stdin, job)
            else:
                blobs = [_bytes(source.rows.read, path) for path in job["paths"]]
                _send(process.stdin, {**job, "paths": [str(len(blob)) for blob in blobs]}, *blobs)
            answer = json.loads(process.stdout.readline() or b'{"died": true}')
            if "mistake" in answer:
                raise UserError(answer["mistake"])
            if "died" in answer:
                raise BrokenPipeError
            if "bug" in answer:
                raise RuntimeError(f"a worker failed:\n{answer['bug']}")
            answers.put((job, answer["answer"]))
        answers.put(None)
    except (BrokenPipeError, ConnectionError):
        near = f" near {job['paths'][0]}" if job else ""
        answers.put(UserError(f"a worker died while it read {source.where}{near}, maybe for lack of memory; try --workers 1"))
    except BaseException as error:
        answers.put(error)


def _bytes(read: Read, path: str) -> bytes:
    try:
        return read(path)
    except Broken:
        return b""


def _send(pipe: IO[bytes], value: Job, *blobs: bytes) -> None:
    pipe.write(json.dumps(value).encode() + b"\n")
    for blob in blobs:
        pipe.write(blob)
    pipe.flush()


def serve(task: Task) -> None:
    """The life of a worker: where the images are, then a job a line; it ends with its standard input."""
    pipe, out = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever prints must not print among the answers
    try:
        first = json.loads(pipe.readline())
        with _worker_reader(pipe, first["kind"], Path(first["root"])) as read:
            for line in pipe:
                _send(out, {"answer": task(read, json.loads(line))})
    except UserError as mistake:
        _send(out, {"mistake": str(mistake)})
    except BrokenPipeError:  # nobody waits for the answer any more
        os._exit(1)
    except Exception:
        _send(out, {"bug": traceback.format_exc()})


def _worker_reader(pipe: IO[bytes], kind: Any, root: Path):
    if kind != "rows":
        return reader(kind, root)
    from contextlib import nullcontext

    return nullcontext(lambda length: pipe.read(int(length)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
