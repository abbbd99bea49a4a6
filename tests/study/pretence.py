"""A recipe for trying studies: a learner that does no work, whose exam has a planted result. Also run as a recipe file."""

import math
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from gander.errors import unknown
from gander.recipes.experiment import Experiment, Facts

KINDS = ("none", "good", "same", "nan", "dies")


class Pretence:
    draws_per_step = accumulate = 1
    columns = 0

    def __init__(self, kind, wait):
        self.kind, self.wait, self.luck = kind, wait, 0.0
        self.network = nn.Linear(3 if kind == "none" else 4, 1)

    @property
    def networks(self):
        return {"network": self.network}

    def to(self, device, precision="fp32"):
        return self

    def step(self, step, batches, draw):
        time.sleep(self.wait)
        self.luck = torch.randn((), generator=draw("luck")).item()
        mark = Path(os.environ.get("PRETENCE_MARK", ""))
        if self.kind == "dies" and step > 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"loss": torch.tensor(math.nan if self.kind == "nan" and step > 1 else 0.0)}

    def examine(self, batches):
        for _ in batches:
            pass
        return {"exam/top-1 accuracy": 0.5 + 0.02 * self.luck + (0.05 if self.kind == "good" else 0.0)}

    def details(self):
        return {}

    def samples(self, seed, count=None):
        raise AssertionError("it has none")

    def slow_down(self, factor): ...

    def state_dict(self):
        return {"luck": self.luck}

    def load_state_dict(self, state):
        self.luck = state["luck"]


def recipe(facts: Facts, *, kind: str = "none", steps: int = 4, batch: int = 4, resolution: int = 16, wait: float = 0.0):
    """Nothing is learnt.

    Args:
        kind: none, good, same, nan or dies.
        steps: how many.
        batch: images.
        resolution: side.
        wait: seconds that a step takes.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    return Experiment(Pretence(kind, wait), batch, steps, resolution, exam_every=2)
