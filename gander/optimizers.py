"""Optimisers: torch's, called so that they are fast and take the numbers that people write."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gander.errors import UserError

Number = float | int


def adam(
    parameters: Iterable[Tensor] | Iterable[dict[str, Any]], lr: Number, betas: tuple[Number, Number], eps: Number = 1e-8
) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015), fused where all parameters are floats on a CPU or a CUDA device, else torch's own choice.

    Tensors or parameter groups, as torch takes them. The numbers may be integers: torch 2.13 refuses betas of (0, 0.9).
    UserError for betas outside [0, 1).
    """
    if not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"betas {betas[0]} {betas[1]} do not both lie from 0 up to, and without, 1; (0.0, 0.9) is usual for a GAN")
    groups: list[Any] = list(parameters)
    tensors: list[Tensor] = []
    for i, group in enumerate(groups):
        if isinstance(group, dict):
            inside = group["params"]
            groups[i] = {**group, "params": [inside] if isinstance(inside, Tensor) else list(inside)}
            tensors += groups[i]["params"]
        else:
            tensors.append(group)
    fused = all(tensor.is_floating_point() and tensor.device.type in ("cpu", "cuda") for tensor in tensors)
    return torch.optim.Adam(groups, lr=float(lr), betas=(float(betas[0]), float(betas[1])), eps=float(eps), fused=fused or None)
