"""What a step of an experiment costs, found by taking two on the meta device: shapes without numbers."""

import time
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gander import draws
from gander.recipes.experiment import Experiment
from gander.train.gan import Gan

REACHED = 0.5  # of the matrix rate: what small convolutional networks were seen to reach on a CPU
# What resident memory holds beside tensors, as seen on Linux (benchmarks/memory.py): code and tables that torch loads when it
# trains, and in proportion to the tensors the holes that they leave in the heap and what convolutions put aside.
LOADED, HOLES = 0.1e9, 0.2


def estimate(experiment: Experiment, channels: int) -> list[str]:
    """Lines about FLOPs, memory and time. `experiment` was made on the meta device and is used up.

    Memory is the most that a process grows by in training on a CPU, over what it was after its imports.
    """
    meter, weights = measured(experiment, channels)
    beside = LOADED + HOLES * meter.most
    rate = matrix_rate()
    seconds = meter.flops / (rate * REACHED)
    return [
        f"a step            {meter.flops / 1e9:,.1f} GFLOP at batch {experiment.batch}",
        f"memory            about {(meter.most + beside) / 1e9:.2f} GB: weights, gradients and optimisers {weights / 1e9:.2f}, "
        f"activations {(meter.most - weights) / 1e9:.2f}, torch and its allocator {beside / 1e9:.2f} (fp32, on a CPU)",
        f"time on this CPU  about {seconds:.2g} s a step, {span(seconds * experiment.steps)} for {experiment.steps:,} steps "
        f"(its matrix rate is {rate / 1e9:,.0f} GFLOP/s on {torch.get_num_threads()} threads, of which {REACHED:.0%} was taken)",
    ]


def measured(experiment: Experiment, channels: int) -> tuple["_Meter", int]:
    """What the second of two steps did, and the bytes of weights, gradients and optimisers that it left.

    The second, since the first finds neither gradients nor the optimisers' state: it makes them.
    """
    learner, meter = experiment.learner.to(torch.device("meta")), _Meter()
    side = experiment.side or experiment.resolution
    networks = list(learner.networks.values())
    meter.watch([tensor for network in networks for tensor in (*network.parameters(), *network.buffers())])
    share = experiment.batch // learner.accumulate
    with meter:
        images = [torch.empty(share, channels, side, side, device="meta") for _ in range(learner.accumulate)]
        labels = torch.empty(share, dtype=torch.int64, device="meta")
        batches = [[(part, labels) for part in images]] * learner.draws_per_step
        if isinstance(learner, Gan) and learner.cutmix:  # of all steps those that have composites, where any has
            learner.cutmix = replace(learner.cutmix, often=float(learner.cutmix.often > 0), warm_up=0)
        for _ in range(2):
            meter.flops = 0
            learner.step(experiment.steps - 1, batches, draws.at_step(0, experiment.steps - 1))  # of all the largest images
    weights = sum(p.nbytes + (0 if p.grad is None else p.grad.nbytes) for network in networks for p in network.parameters())
    return meter, weights + sum(leaf.nbytes for leaf in tree_leaves(learner.state_dict()) if isinstance(leaf, Tensor))


def matrix_rate(seconds: float = 0.2, n: int = 1024) -> float:
    """FLOP/s of an n×n×n fp32 product on this CPU, the best of those that fit in the time."""
    a, best, end = torch.ones(n, n), float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


class _Meter(TorchDispatchMode):
    """FLOPs of the products and convolutions that run, and bytes of the tensors that live: now and at their most.

    A storage counts once, from the operation that makes it until nothing holds it; what an operation makes and frees inside
    itself is not seen. Torch's own counting mode cannot be used around `autograd.grad`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.now = self.most = 0
        self.alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        self.watch(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.is_meta)
        return out

    def watch(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self.alive:  # the address, which is free for others when the storage is gone
                self.alive[key] = weakref.finalize(storage, self._release, key, storage.nbytes())
                self.alive[key].atexit = False
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)

    def _release(self, key: int, size: int) -> None:
        del self.alive[key]
        self.now -= size


def span(seconds: float) -> str:
    """40 s, 12 min, 3.1 h, 27 days: two figures are all that an estimate has."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def worded(value: Any) -> str:
    """A knob's value as it is typed on the command line."""
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return "by size" if value is None else str(value)
