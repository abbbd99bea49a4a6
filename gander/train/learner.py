"""What `fit` asks of a learner."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gander import draws
from gander.layers.spectral_norm import sigmas


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


def gammas_and_sigmas(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """γ of each attention layer and σ of each normalised weight, for the log: `gamma/<prefix><layer>`, `sigma/<prefix><layer>`."""
    found = {
        f"gamma/{prefix}{name.removesuffix('.gamma')}": parameter.detach().reshape(()).clone()
        for name, parameter in network.named_parameters()
        if name.endswith("gamma") and parameter.numel() == 1
    }
    return found | {f"sigma/{prefix}{name}": sigma for name, sigma in sigmas(network).items()}
