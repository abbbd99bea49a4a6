"""Optimisers: torch's, called so that they are fast and take the numbers that people write; and AdaBound, which torch lacks."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gander.errors import UserError

Number = float | int
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


def adam(parameters: Parameters, lr: Number, betas: tuple[Number, Number], eps: Number = 1e-8) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015), fused where all parameters are floats on a CPU or a CUDA device, else torch's own choice.

    Tensors or parameter groups, as torch takes them. The numbers may be integers: torch 2.13 refuses betas of (0, 0.9).
    UserError for betas outside [0, 1).
    """
    betas = _betas(betas)
    groups, fused = _listed(parameters)
    return torch.optim.Adam(groups, lr=float(lr), betas=betas, eps=float(eps), fused=fused)


def adamw(
    parameters: Parameters, lr: Number, betas: tuple[Number, Number], eps: Number = 1e-8, weight_decay: Number = 1e-2
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay, w ← (1 - lr · weight_decay) w (Loshchilov & Hutter 2019). Else as `adam`.

    Give it `decay_groups(network)`, whose second group has none.
    """
    betas = _betas(betas)
    groups, fused = _listed(parameters)
    return torch.optim.AdamW(groups, lr=float(lr), betas=betas, eps=float(eps), weight_decay=float(weight_decay), fused=fused)


def decay_groups(network: nn.Module) -> list[dict[str, Any]]:
    """The parameters of a network as two groups: matrices and kernels, and those without weight decay.

    These are biases, gates such as attention's γ, and the gains of norms: all with fewer than two axes, and those of queries and
    keys, `gains`.
    """
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[parameter.ndim >= 2 and name.rpartition(".")[2] != "gains"].append(parameter)
    return [{"params": groups[True]}, {"params": groups[False], "weight_decay": 0.0}]


def _listed(parameters: Parameters) -> tuple[list[Any], bool | None]:
    """Tensors or groups as lists, and whether the fused form takes them all: None leaves the choice to torch."""
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
    return groups, fused or None


def nadam(parameters: Parameters, lr: Number, betas: tuple[Number, Number], eps: Number = 1e-8) -> torch.optim.NAdam:
    """NAdam (Dozat 2016), torch's: Adam with Nesterov's momentum. LocAtE's. Arguments and errors as for `adam`.

    Torch has no fused form of it: on a CPU a step takes about four times as long as `adam`'s.
    """
    return torch.optim.NAdam(parameters, lr=float(lr), betas=_betas(betas), eps=float(eps))


def adabound(
    parameters: Parameters, lr: Number, betas: tuple[Number, Number], eps: Number = 1e-8, amsbound: bool = False
) -> "AdaBound":
    """`AdaBound` with the usual final rate, 100 · lr (so in its paper, 0.1 for 0.001, and in LocAtE's notebook)."""
    return AdaBound(parameters, lr=lr, betas=betas, eps=eps, final_lr=100 * lr, amsbound=amsbound)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": adam, "nadam": nadam, "adabound": adabound}


class AdaBound(torch.optim.Optimizer):
    """Adam whose rate of each weight is held between bounds that close in on one number: it begins as Adam and ends as SGD.

        m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²,   t = 1, 2, ...
        η = clip(lr · sqrt(1 - β₂ᵗ) / (1 - β₁ᵗ) / (sqrt(v) + eps),  final_lr · (1 - 1 / (γ t + 1)),  final_lr · (1 + 1 / (γ t)))
        w ← w - η m

    Luo et al. 2019, https://arxiv.org/abs/1902.09843, as in its authors' code, whose amsbound takes the largest v so far. Both
    bounds are within a share s of final_lr once t > 1 / (γ s): with γ = 1e-3, 10 % after 10,000 steps. LocAtE's first version
    trained with it, final_lr = 100 · lr, and gave it up for Adam since it overshot.

    A change of a group's `lr` (a schedule, a slow-down) changes its final rate in the same proportion.

    Args:
        parameters: tensors or groups, as torch takes them.
        lr, betas, eps: Adam's.
        final_lr: the rate of the SGD that it becomes.
        gamma: how fast the bounds close in.
        amsbound: v never falls, as in AMSGrad.

    Raises:
        UserError: for rates, eps or gamma that are not above zero and finite, betas outside [0, 1).
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        final_lr: Number = 0.1,
        gamma: Number = 1e-3,
        amsbound: bool = False,
    ) -> None:
        for name, value in {"lr": lr, "final_lr": final_lr, "eps": eps, "gamma": gamma}.items():
            if not 0 < value < math.inf:
                raise UserError(f"AdaBound's {name} of {value} is no number above 0; lr 0.001, final_lr 0.1, gamma 0.001 are usual")
        numbers = {"lr": float(lr), "betas": _betas(betas), "eps": float(eps), "final_lr": float(final_lr), "gamma": float(gamma)}
        super().__init__(parameters, {**numbers, "amsbound": amsbound})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        param_group.setdefault("first_lr", param_group.get("lr", self.defaults["lr"]))  # final_lr belongs to this one
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if parameters := [parameter for parameter in group["params"] if parameter.grad is not None]:
                self._move(parameters, group)
        return loss

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        (beta1, beta2), amsbound, gamma = group["betas"], group["amsbound"], group["gamma"]
        names = ["exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * amsbound]
        for parameter in parameters:
            if not (state := self.state[parameter]):
                state["step"] = torch.zeros(())  # on the CPU, so that nothing waits for a device
                state |= {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in names}
        steps, means, squares, *most = ([self.state[p][name] for p in parameters] for name in ("step", *names))
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        if amsbound:
            torch._foreach_maximum_(most[0], squares)
        rates = torch._foreach_sqrt(most[0] if amsbound else squares)
        torch._foreach_add_(rates, group["eps"])
        torch._foreach_reciprocal_(rates)
        times = [float(step) for step in steps]
        final = group["final_lr"] * group["lr"] / group["first_lr"]
        torch._foreach_mul_(rates, [group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t) for t in times])
        torch._foreach_clamp_min_(rates, [final * (1 - 1 / (gamma * t + 1)) for t in times])
        torch._foreach_clamp_max_(rates, [final * (1 + 1 / (gamma * t)) for t in times])
        torch._foreach_addcmul_(parameters, rates, means, -1)


def _betas(betas: tuple[Number, Number]) -> tuple[float, float]:
    if not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"betas {betas[0]} {betas[1]} do not both lie from 0 up to, and without, 1; (0.0, 0.9) is usual for a GAN")
    return float(betas[0]), float(betas[1])
