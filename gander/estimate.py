"""What a step of an experiment costs, found by taking one on the meta device: shapes without numbers."""

import time
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gander import draws
from gander.recipes.experiment import Experiment

REACHED = 0.5  # of the matrix rate: what small convolutional networks were seen to reach on a CPU


def estimate(experiment: Experiment, channels: int) -> list[str]:
    """Lines about FLOPs, memory and time. `experiment` was made on the meta device and is used up."""
    learner, side, kept = experiment.learner.to(torch.device("meta")), experiment.resolution, _Kept()
    share = experiment.batch // learner.accumulate
    images, labels = torch.empty(share, channels, side, side, device="meta"), torch.empty(share, dtype=torch.int64, device="meta")
    batches = [[(images, labels)] * learner.accumulate] * learner.draws_per_step
    with _Flops() as counted, torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        learner.step(0, batches, draws.at_step(0, 0))
    flops, activations = counted.total, kept.most
    weights = sum(p.nbytes for network in learner.networks.values() for p in network.parameters())
    state = 3 * sum(p.nbytes for network in learner.networks.values() for p in network.parameters() if p.requires_grad)
    rate = matrix_rate()
    seconds = flops / (rate * REACHED)
    return [
        f"a step            {flops / 1e9:,.1f} GFLOP at batch {experiment.batch}",
        f"memory            about {(weights + state + activations) / 1e9:.2f} GB: weights, gradients and optimisers "
        f"{(weights + state) / 1e9:.2f}, activations {activations / 1e9:.2f} (fp32)",
        f"time on this CPU  about {seconds:.2g} s a step, {span(seconds * experiment.steps)} for {experiment.steps:,} steps "
        f"(its matrix rate is {rate / 1e9:,.0f} GFLOP/s on {torch.get_num_threads()} threads, of which {REACHED:.0%} was taken)",
    ]


def matrix_rate(seconds: float = 0.2, n: int = 1024) -> float:
    """FLOP/s of an n×n×n fp32 product on this CPU, the best of those that fit in the time."""
    a, best, end = torch.ones(n, n), float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


class _Flops(TorchDispatchMode):
    """FLOPs of the products and convolutions that run; torch's own counting mode cannot be used around `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


class _Kept:
    """Bytes that autograd keeps for backward, and the most it kept at once. A storage that is kept twice counts once."""

    def __init__(self) -> None:
        self.users: dict[int, int] = {}
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if isinstance(tensor, torch.nn.Parameter):
            return (tensor,)
        self.users[key] = self.users.get(key, 0) + 1
        if self.users[key] == 1:
            self.now += size
            self.most = max(self.most, self.now)
        holder = _Holder(tensor)
        weakref.finalize(holder, self._release, key, size)
        return holder

    def unpack(self, packed: Any) -> Tensor:
        return packed.tensor if isinstance(packed, _Holder) else packed[0]

    def _release(self, key: int, size: int) -> None:
        self.users[key] -= 1
        if not self.users[key]:
            self.now -= size


class _Holder:
    def __init__(self, tensor: Tensor):
        self.tensor = tensor


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
