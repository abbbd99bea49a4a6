"""What `fit` asks of a learner."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gander import draws


@runtime_checkable
class Learner(Protocol):
    """A step is one optimiser step of its main network; `draws_per_step` batches go into it.

    `step` and `details` return scalars on the device; `details` is asked at log steps only, `slow_down` multiplies all rates.
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
