"""What each process says when one of several goes wrong in a step. A script: `python ranks.py FOLDER WAY...`, prints JSON.

It holds the store in which they meet, as torchrun's agent does, and forks three processes that train one small game.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from games import make

from gander import distributed
from gander.errors import UserError
from gander.run import Run
from gander.train.fit import fit

PROCESSES, CULPRIT, STEP = 3, 1, 4  # steps are counted from 0 here: the log says 5
DESCRIBED = {"recipe": "sagan", "knobs": {"steps": 12}, "facts": {}, "seed": 0}


class Faulty:
    """A learner that goes wrong in one process."""

    def __init__(self, learner, way):
        self.__dict__.update(learner=learner, way=way)

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def step(self, step, batches, draw):
        log = self.learner.step(step, batches, draw)
        if step != STEP or distributed.rank() != CULPRIT:
            return log
        if self.way == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.way == "hangs":
            time.sleep(60)
        elif self.way == "stands still":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.way == "fails":
            raise ZeroDivisionError("a bug in one of them")
        elif self.way == "NaN":
            log["discriminator_loss"] = torch.tensor(torch.nan)
        elif self.way == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        return log


def member(rank, way, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    try:
        with distributed.session(torch.device("cpu")):
            learner, batches = make("article")
            run = distributed.chief_first(lambda: Run.start(folder, DESCRIBED)[0])
            if way == "disk full" and rank == 0:
                run.checkpoints.write_text("a file where a folder should be")
            how = {"steps": 12, "batch": 12, "log_every": 3, "save_every": 3, "sample_every": 0}
            outcome = fit(Faulty(learner, way), batches, run, **how)
            print(f"step {outcome.step}, signal {outcome.signal}")
            return 0
    except UserError as error:
        print(f"gander: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def trial(way, folder):
    """What the processes said, and which of them ended."""
    folder.mkdir()
    children = []
    for rank in range(PROCESSES):
        if not (child := os.fork()):
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT), number)
            code = 1
            try:
                code = member(rank, way, folder / "run")
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        children.append(child)
    codes = [None] * PROCESSES
    until = time.monotonic() + 60
    while time.monotonic() < until and None in codes:
        for rank, child in enumerate(children):
            if codes[rank] is None and (ended := os.waitpid(child, os.WNOHANG))[0]:
                codes[rank] = os.waitstatus_to_exitcode(ended[1])
                if None not in codes[:CULPRIT] + codes[CULPRIT + 1 :]:
                    until = min(until, time.monotonic() + 5)  # the culprit may stand still for ever
        time.sleep(0.05)
    for rank, child in enumerate(children):
        if codes[rank] is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    told = {name: [(folder / f"{rank}.{name}").read_text() for rank in range(PROCESSES)] for name in ("out", "err")}
    checkpoints = folder / "run" / "checkpoints"
    return {"codes": codes, **told, "saved": sorted(os.listdir(checkpoints)) if checkpoints.is_dir() else None}


def main(folder, ways):
    found = {}
    for way in ways:
        store = dist.TCPStore("localhost", 0, is_master=True)
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(PROCESSES)}
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "GANDER_PATIENCE": "3"}
        found[way] = trial(way, folder / way)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
