"""Who is where. Each process tells the others how far it is; when one dies or hangs, the others end with a line that names it.

A thread of each process writes its step, and how many collectives it has entered, to the store in which the processes met,
and reads what the others wrote. All enter the same collectives in the same order, so the one that has entered the fewest is
the one that the others wait for.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any

import torch.distributed as dist

from gander.files import seconds

SILENT = 30.0  # seconds without a sign of life after which a process counts as dead
GONE = 3.0  # the same, once a collective has failed: gloo notices at once when a process is gone


class Pulse:
    """This process's sign of life, and its watch over the others'. `entered` and `step` are written by the main thread."""

    def __init__(self, store: dist.Store, rank: int, size: int):
        self.rank, self.size = rank, size
        self.patience = seconds("GANDER_PATIENCE", 600.0)  # that a process may keep the others waiting in training
        self.step: int | None = None  # until training starts nobody hangs: the first process may prepare images for hours
        self.entered = 0
        self.period = max(0.5, size / 64)  # every process reads what all others wrote
        self.silent = max(SILENT, 4 * self.period)
        self._store = dist.PrefixStore("gander", store.clone())  # type: ignore[attr-defined]  # its own: a store serves one thread at a time
        self._over = threading.Event()
        self._seen: dict[int, dict[str, Any]] = {}
        self._changed: dict[tuple[int, str], float] = {}
        self._looked = time.monotonic()
        self._tell()
        self._threads = [threading.Thread(target=f, name="gander's pulse", daemon=True) for f in (self._watch, self._watch_store)]
        for thread in self._threads:
            thread.start()

    def stop(self, last_words: str = "") -> None:
        """The end of this process's part: with its reason where it is not a good one. Silence means nothing from now on."""
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)
        with contextlib.suppress(RuntimeError):  # the store may be gone before us
            self._tell(f"{self._who(self.rank)} failed{self._when()}: {last_words}" if last_words else "done")

    def missing(self, error: Exception) -> str:
        """Who is to blame for a collective that failed, in words. Waits a little: a death shows as silence."""
        until = time.monotonic() + GONE + 4 * self.period
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < until:
                self._look()
                if culprit := self._dead(GONE + self.period):
                    return culprit
                time.sleep(self.period / 2)
        return f"the processes lost each other{self._when()} ({(str(error).splitlines() or ['no reason given'])[0]})"

    def _watch(self) -> None:
        while not self._over.wait(self.period):
            # Twice, with a while in between: all may have stood still and go on now, and where the main thread has heard
            # of it too, it ends by its own word.
            if self._culprit() and not self._over.wait(GONE) and (culprit := self._culprit()):
                with contextlib.suppress(RuntimeError):
                    self._tell(culprit if culprit.startswith(f"rank {self.rank} ") else "done")
                self._end(culprit)

    def _watch_store(self) -> None:
        """A store that stands still lets nobody ask it the time."""
        before = time.monotonic()
        while not self._over.wait(self.period):
            now = time.monotonic()
            if now - before > 10 * self.period:  # we stood still ourselves
                self._looked = now
            before = now
            if now - self._looked > max(self.silent, self.patience):
                self._end("the process that the others met at does not answer")

    def _culprit(self) -> str | None:
        try:
            self._tell()
            self._look()
            return self._dead(self.silent) or self._hung()
        except RuntimeError:  # the store lives in the launcher, or in rank 0
            return "the process that the others met at is gone"

    def _end(self, culprit: str) -> None:
        print(f"gander: {with_advice(culprit)}", file=sys.stderr, flush=True)
        os._exit(1)  # the main thread waits inside a collective and hears nothing

    def _tell(self, end: str = "") -> None:
        now = {"step": self.step, "entered": self.entered, "beat": time.monotonic(), "host": socket.gethostname(), "end": end}
        self._store.set(str(self.rank), json.dumps(now))

    def _look(self) -> None:
        there = [rank for rank in range(self.size) if rank in self._seen or self._store.check([str(rank)])]
        now = self._looked = time.monotonic()
        for rank, text in zip(there, self._store.multi_get([str(rank) for rank in there]), strict=True):
            told = json.loads(text)
            for key in ("beat", "entered"):
                if told[key] != self._seen.get(rank, {}).get(key):
                    self._changed[rank, key] = now
            self._seen[rank] = told

    def _dead(self, silent: float) -> str | None:
        now = time.monotonic()
        for told in self._seen.values():
            if told["end"] not in ("", "done"):
                return told["end"]
        for rank, told in self._seen.items():
            if rank != self.rank and not told["end"] and now - self._changed[rank, "beat"] > silent:
                return f"{self._who(rank)} died{self._when()}: no sign of life (killed, out of memory, or stopped)"
        return None

    def _hung(self) -> str | None:
        if any(told["step"] is None or told["end"] for told in self._seen.values()):
            return None
        fewest = min(told["entered"] for told in self._seen.values())
        slow = [rank for rank, told in self._seen.items() if told["entered"] == fewest]
        if time.monotonic() - max(self._changed[rank, "entered"] for rank in slow) < self.patience:
            return None
        if len(slow) == len(self._seen):
            return f"all {self.size} processes have waited{self._when()} for {self.patience:g} s: is the network between them up?"
        return f"{self._who(slow[0])} hangs{self._when()}: the others have waited for it for {self.patience:g} s"

    def _who(self, rank: int) -> str:
        return f"rank {rank} on {self._seen[rank]['host']}" if rank in self._seen else f"rank {rank}"

    def _when(self) -> str:
        return f" in step {self.step}" if self.step else ""  # no process is a step ahead of another: they meet in each


def with_advice(culprit: str) -> str:
    return f"{culprit}; the last checkpoint is whole: say the same command again"
