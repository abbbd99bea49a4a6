"""From gradients to a step of each network: averaged over processes, clipped, at a rate that warms up."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gander import distributed
from gander.errors import UserError
from gander.train.belief import load_optimizer
from gander.train.precision import Precision


class Descent:
    """One optimiser a network, by name.

    Args:
        networks, optimizers: by the same names.
        warm_up: over so many steps rates rise to the optimisers' own: step t, from 0, has min(1, (t + 1) / warm_up) of them.
        clip: the largest norm of a network's gradient, beyond which it is shrunk to it; 0 is any.

    Raises:
        UserError: for a warm-up below 0, and a clip that is below 0 or not finite.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        *,
        warm_up: int = 0,
        clip: float = 0.0,
    ) -> None:
        if warm_up < 0 or not 0 <= clip < math.inf:
            raise UserError(f"a warm-up of {warm_up} steps and gradients of norm {clip:g} are none; 0 is off for both")
        self.networks, self.optimizers, self.warm_up, self.clip = networks, optimizers, warm_up, clip

    def begin(self, name: str) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)

    def step(self, name: str, step: int, precision: Precision) -> dict[str, Tensor]:
        """Take it; the norm of the gradient before it was clipped, for the log."""
        parameters, groups = list(self.networks[name].parameters()), self.optimizers[name].param_groups
        distributed.average_gradients(parameters)
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= min(1.0, (step + 1) / max(1, self.warm_up))
        norm = precision.step(name, self.optimizers[name], parameters, self.clip)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate  # what a checkpoint keeps is the rate that was asked for
        return {f"{name}_gradient": norm}

    def slow_down(self, factor: float) -> None:
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] *= factor

    def state_dict(self) -> dict[str, Any]:
        return {f"{name}_optimizer": optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state[f"{name}_optimizer"])
