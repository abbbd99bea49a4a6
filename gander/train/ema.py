"""The exponential moving average of a network's weights: the copy that samples and scores are made with."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from gander.errors import UserError
from gander.layers.norms import has_batch_statistics
from gander.layers.spectral_norm import refresh


def decay_of(half_life: float, batch: int) -> float:
    """The decay with which a weight counts half after `half_life` thousand images: 0.5^(batch / 1000 half_life); 0 is no averaging.

    Karras et al. 2018, https://arxiv.org/abs/1710.10196: 10 thousand; a number of images means the same at any batch.
    """
    return 0.5 ** (batch / (1000 * half_life)) if half_life else 0.0


class EMA:
    """average <- d·average + (1 - d)·weights,  d = min(decay, (1 + step) / (10 + step)): early steps are soon forgotten.

    Parameters are averaged, buffers are copied: an average of spectral norm's vectors would be no singular vector.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise UserError(f"ema {decay} is not from 0 up to, and without, 1; 0 is no averaging, 0.999 the usual one")
        self.decay = decay
        self.network = deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)


@torch.no_grad()
def ready(network: nn.Module, batches: Iterable[tuple[Tensor, ...]] = (), refreshes: int = 5) -> nn.Module:
    """A copy of `network` to sample from: spectral norm refreshed for these weights, in eval mode.

    With `batches` of its inputs the batch statistics are estimated again, as their mean over these batches ("standing
    statistics"). The network itself keeps every bit of its state.
    """
    copy = deepcopy(network).requires_grad_(False)
    for _ in range(refreshes):
        refresh(copy)
    batches = list(batches)
    if batches and has_batch_statistics(copy):
        norms: list[Any] = [m for m in copy.modules() if hasattr(m, "running_mean")]
        before = [(m.momentum, getattr(m, "statistics", None)) for m in norms]
        copy.train()
        for count, inputs in enumerate(batches, start=1):
            for norm in norms:
                norm.momentum = 1 / count  # the running mean of the batches so far
                norm.statistics = "process"  # one process may ask for samples while the others wait
            copy(*inputs)
        for norm, (momentum, statistics) in zip(norms, before, strict=True):
            norm.momentum, norm.statistics = momentum, statistics
    return copy.eval()
