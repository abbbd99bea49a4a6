"""Many processes, without any: order, places, what is tried again, what stops all."""

import re
from pathlib import Path

import pytest

from gander.errors import UserError
from gander.files import lock
from gander.study import runs
from gander.study.runs import Job


class Worker:
    """A process that ends at its third look with a planted code, or soon after it was asked to stop."""

    def __init__(self, job, code):
        self.job, self.code, self.looks, self.asked = job, code, 0, 0

    def poll(self):
        self.looks += 1
        if self.asked:
            return 143 if self.looks > 1 else None
        return self.code if self.looks > 2 else None

    def stop(self):
        self.asked += 1


class Machine:
    """Where workers go: what was begun, and how many ran side by side."""

    def __init__(self, codes=None):
        self.codes, self.begun, self.most, self.workers = codes or {}, [], 0, []

    def start(self, jobs):
        made = [Worker(job, self.codes.get(job.known_by, [0]).pop(0) if job.known_by in self.codes else 0) for job, _ in jobs]
        self.begun += [job.known_by for job, _ in jobs]
        self.workers += made
        self.most = max(self.most, sum(w.looks < 3 for w in self.workers))
        return made


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(runs, "LOOK", 0)


def jobs(tmp_path, *names):
    return [Job(["train"], tmp_path / name, tmp_path / f"{name}.log", name) for name in names]


@pytest.mark.parametrize("side_by_side", [1, 2, 3])
def test_runs_are_begun_in_order_so_many_at_once(tmp_path, side_by_side):
    machine, ended = Machine(), []
    todo = jobs(tmp_path, *"abcde")
    runs.make(todo, lambda job, code, seconds: ended.append(job.known_by), start=machine.start, side_by_side=side_by_side)
    assert machine.begun == list("abcde")
    assert sorted(ended) == list("abcde")
    assert machine.most == side_by_side


def test_what_is_to_be_made_again_goes_first(tmp_path):
    machine = Machine({"b": [-9, 0]})
    runs.make(jobs(tmp_path, *"abc"), lambda job, code, seconds: code == -9, start=machine.start)
    assert machine.begun == list("abbc")


def test_a_stop_asks_each_once_waits_for_it_and_begins_no_other(tmp_path):
    machine, codes = Machine(), []
    stopped = lambda: len(machine.begun) == 2  # noqa: E731
    runs.make(
        jobs(tmp_path, *"abcd"),
        lambda job, code, seconds: bool(codes.append(code)),
        start=machine.start,
        side_by_side=2,
        stopped=stopped,
    )
    assert machine.begun == list("ab")
    assert codes == [143, 143]
    assert [worker.asked for worker in machine.workers] == [1, 1]


def test_a_mistake_in_one_run_stops_the_others(tmp_path):
    machine = Machine({"a": [2]})

    def ended(job, code, seconds):
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        runs.make(jobs(tmp_path, *"abc"), ended, start=machine.start, side_by_side=2)
    assert machine.begun == list("ab")
    assert machine.workers[1].asked == 1
    assert machine.workers[1].poll() is not None


def test_a_run_that_another_process_writes_is_waited_for(tmp_path):
    """Its turn comes when its lock is free; the others go on meanwhile."""
    machine, said = Machine(), []
    held = lock(tmp_path / "a" / "lock", "held")
    held.__enter__()

    def ended(job, code, seconds):
        if job.known_by == "c":
            held.__exit__(None, None, None)

    runs.make(jobs(tmp_path, *"abc"), ended, start=machine.start, say=said.append)
    assert machine.begun == list("bca")
    assert said == [f"{tmp_path / 'a'} is still written by a process of before; waiting for its end"]


def test_cores_and_gpus_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(runs.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert runs.share(0, 1) == {}
    assert [runs.share(place, 3) for place in range(3)] == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("3", "5", "3")
    ]
    assert runs.share(0, 99)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert runs.share(1, 3) == {}


@pytest.mark.parametrize(
    ("code", "said", "state", "why"),
    [
        (0, "runs/a is finished: 4 steps", "finished", ""),
        (143, "stopped and saved at step 3 of 4; say the same command again to go on", "stopped", "stopped and saved"),
        (-15, "", "stopped", ""),
        (2, "gander: step 3: the loss is nan; the run was stopped, and nothing of this ...", "failed", "^step 3: the loss is nan"),
        (2, "gander: step 9: so; it went back 3 times, to 0.125 of the rates: take ...", "failed", "it went back 3 times"),
        (2, "gander: runs/a is being written by another process; wait for it", "held", "another process"),
        (2, "gander: No space left on device; nothing that was saved before is lost", "mistaken", "^No space left"),
        (-9, "step 1", "died", "its process died .signal 9"),
        (1, "KeyError: 'x'", "died", "exit code 1: KeyError: 'x'"),
        (2, "gander: the device's memory is full; take a smaller --batch, or ...", "died", "^the device's memory is full"),
        (2, "gander: that takes more memory than there is here; take a smaller network ...", "died", "more memory"),
        (2, "gander: No space left on device; and so on\nsys:1: ResourceWarning: leaked", "mistaken", "^No space left"),
        (1, "gander: of a run before\nKeyError: 'x'", "died", "exit code 1: KeyError: 'x'"),
    ],
)
def test_how_a_run_ended(tmp_path, code, said, state, why):
    log = tmp_path / "log"
    log.write_text(f"training\n{said}\n\n")
    found = runs.verdict(code, log)
    assert found.state == state
    assert re.search(why, found.why)
    assert runs.last_words(Path("nowhere")) == ""
