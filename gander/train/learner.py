"""What `fit` asks of a learner."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gander import distributed, draws, look
from gander.layers.spectral_norm import sigmas

SEEN, GRID = 4, 4  # images, and positions to each side of them, that the log measures attention over


@runtime_checkable
class Learner(Protocol):
    """A step is one optimiser step of its main network; `draws_per_step` batches go into it.

    `step` and `details` return scalars on the device; `details` is asked at log steps only, `slow_down` multiplies all rates.
    Where `columns`, those of a sheet of samples, are 0 there is nothing to show, and `samples` are not asked for. A learner that
    also has `examine(batches)`, means over held-out images by name, and maybe `confusion`, is examined by `Exam`.
    """

    draws_per_step: int
    accumulate: int

    @property
    def networks(self) -> dict[str, nn.Module]: ...
    def to(self, device: torch.device, precision: str = "fp32") -> "Learner": ...
    def step(self, step: int, batches: list, draw: draws.Draws) -> dict[str, Tensor]: ...
    def details(self) -> dict[str, Tensor]: ...
    @property
    def columns(self) -> int: ...
    def samples(self, seed: int, count: int | None = None) -> Tensor: ...
    def slow_down(self, factor: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def add(sums: dict[str, Tensor], values: Mapping[str, Tensor], weight: float) -> None:
    """Add values to their sums, by name; the first of a name begins one. What is kept has no graph."""
    for name, value in values.items():
        value = value.detach() * weight
        sums[name] = sums[name] + value if name in sums else value


def gammas_and_sigmas(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """γ of each attention layer and σ of each normalised weight, for the log: `gamma/<prefix><layer>`, `sigma/<prefix><layer>`."""
    found = {
        f"gamma/{prefix}{name.removesuffix('.gamma')}": parameter.detach().reshape(()).clone()
        for name, parameter in network.named_parameters()
        if name.endswith("gamma") and parameter.numel() == 1
    }
    return found | {f"sigma/{prefix}{name}": sigma for name, sigma in sigmas(network).items()}


@torch.no_grad()
def variety(x: Tensor) -> Tensor:
    """√ of the mean over all but the first axis of the variance over the first, that of all processes: 0 where all are one."""
    n = len(x) * distributed.processes()
    mean = distributed.all_reduce(x.sum(0)) / n
    return (distributed.all_reduce((x - mean).square().sum(0)) / n).mean().sqrt()


def attention(network: nn.Module, inputs: Sequence[Tensor | None], side: int, prefix: str = "") -> dict[str, Tensor]:
    """How far and how widely each layer looks, for the log: `distance/<prefix><layer>` in pixels, `entropy/<prefix><layer>` from 0
    (one place) to 1 (all alike), as in `gander.look`; of several heads each, `<layer>.0` and on.

    Means over the SEEN images of `inputs` and GRID × GRID positions. Nothing where there is no such layer.
    """
    if not look.layers(network):
        return {}
    places = [((2 * i + 1) * side // (2 * GRID), (2 * j + 1) * side // (2 * GRID)) for i in range(GRID) for j in range(GRID)]
    found: dict[str, Tensor] = {}
    for layer in look.maps(network, inputs, places).layers:
        for kind, values in (("entropy", layer.entropy), ("distance", layer.distance)):
            if values is None:
                continue
            heads = values.mean((0, 2)) if values.dim() == 3 else values.mean()[None]
            for head, value in enumerate(heads):
                found[f"{kind}/{prefix}{layer.name}" + (f".{head}" if len(heads) > 1 else "")] = value
    return found
