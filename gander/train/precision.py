"""fp32, bf16 or fp16: what a forward runs in, and how its gradient becomes a step."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from gander.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(asked: str | None, device: torch.device) -> str:
    """The precision that was asked for; else bf16 on CUDA devices that have it without emulation, else fp32.

    UserError for a precision that the device has not.
    """
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if asked is None:
        return "bf16" if native else "fp32"
    if asked not in DTYPES:
        raise UserError(f"no precision called {asked!r}; there are: {', '.join(DTYPES)}")
    if asked != "fp32" and device.type == "mps":
        raise UserError(f"precision {asked} is not tried on MPS; take --precision fp32")
    return asked


def full(x: Tensor) -> Tensor:
    """fp32 where a forward ran in less: losses and penalties are made of it. float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Precision:
    """Autocast for forwards, loss scaling for fp16. Penalties, losses and norms of the batch stay in fp32."""

    def __init__(self, name: str, device: torch.device, players: Sequence[str]):
        self.name, self.device = name, device
        # one scale each: what overflows in one network says nothing of the other
        self.scalers = {player: torch.amp.GradScaler(device.type, enabled=name == "fp16") for player in players}

    def autocast(self) -> AbstractContextManager:
        # no weight cache: under no_grad it would keep copies without a graph, and a parametrised weight is new at each forward
        kind = "cpu" if self.device.type == "meta" else self.device.type
        return torch.autocast(kind, DTYPES[self.name], enabled=self.name != "fp32", cache_enabled=False)

    def backward(self, player: str, loss: Tensor) -> None:
        self.scalers[player].scale(loss).backward()

    def step(self, player: str, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], clip: float = 0.0) -> Tensor:
        """Take the step (fp16: not where the scaled gradient overflowed) and return the norm of the gradient.

        With `clip` a gradient whose norm is larger is shrunk to it; the norm returned is that before.
        """
        scaler = self.scalers[player]
        if self.name == "fp16":
            scaler.unscale_(optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        scaler.step(optimizer)
        scaler.update()
        # an overflow is the scaler's business: the step was not taken, the scale will fall
        return torch.nan_to_num(norm, nan=0.0, posinf=0.0) if self.name == "fp16" else norm

    def check(self) -> None:
        """UserError where no scale keeps fp16's gradients finite. Asks the device, so not for every step."""
        for player, scaler in self.scalers.items():
            if scaler.is_enabled() and scaler.get_scale() < 1:
                raise UserError(
                    f"the {player}'s gradient is not finite in fp16 at any scale; take --precision bf16 or fp32 and another --run"
                )

    def state_dict(self) -> dict[str, Any]:
        return {player: scaler.state_dict() for player, scaler in self.scalers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for player, scaler in self.scalers.items():
            if scaler.is_enabled():
                scaler.load_state_dict(state[player])
