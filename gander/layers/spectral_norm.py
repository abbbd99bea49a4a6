"""Spectral norm, done to a finished network: `network = spectral_norm(network)`.

    W̄ = W / σ,   σ = uᵀ W v,   u ← W v / ‖W v‖,   v ← Wᵀ u / ‖Wᵀ u‖

W is the weight as a matrix, (out, everything else); u and v are its first singular vectors as power iteration knows them.
Gradients flow through σ, never through u and v. Miyato et al. 2018, https://arxiv.org/abs/1802.05957.

With `scale="initial"` the quotient is times σ at birth: ViTGAN's improved spectral norm, W̄ = σ(W_init) · W / σ(W).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.parametrize import ParametrizationList

from gander.errors import unknown

EPS = 1e-12
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SCALES = ("one", "initial")
NORMED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Linear, nn.Embedding)


class SpectralNorm(nn.Module):
    """The parametrisation of one weight: W -> W / σ. `spectral_norm` puts it in place.

    Born as torch's is: u and v start normal (drawn from torch's global generator, u first) and go through 15 iterations, 50 for an
    initial scale.
    With `by_step` False (a foreign loop) each forward in training mode makes one iteration, as torch's does; with
    `by_step` True no forward does, and `refresh` is the only moment u and v change. In eval mode they never move.

    The iteration and σ are computed in float32 at least, autocast or not. A weight of zeros has no direction: u and v
    stay, and σ counts as 1.

    Args:
        weight: the weight to come, of any layout; on the meta device u and v are as empty as it is.
        transposed: the out axis is the second, as in transposed convolutions; else the first.
        groups: of a transposed convolution, so that its matrix is (out, in/groups · k · k), as for a convolution.
        scale: what the largest singular value becomes: one, or the initial one, kept as a buffer.
    """

    u: Tensor
    v: Tensor
    initial: Tensor | None

    def __init__(self, weight: Tensor, *, transposed: bool = False, groups: int = 1, scale: str = "one") -> None:
        super().__init__()
        self.transposed, self.groups = transposed, groups
        self.by_step = False
        with torch.no_grad():
            rows, columns = _out_first(weight, transposed, groups).flatten(1).shape
            u, v = weight.new_empty(rows).normal_(), weight.new_empty(columns).normal_()
            self.register_buffer("u", F.normalize(u, dim=0, eps=EPS))
            self.register_buffer("v", F.normalize(v, dim=0, eps=EPS))
        if not weight.is_meta:
            self.iterate(weight, 15 if scale == "one" else 50)  # what is kept for good should be nearer to the truth
        self.register_buffer("initial", _alive(self.sigma(weight.detach())).to(weight.dtype) if scale == "initial" else None)

    def forward(self, weight: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        if self.training and not self.by_step:
            self.iterate(weight)
        u, v, initial = self.u, self.v, self.initial
        if not self.by_step:  # DistributedDataParallel writes into buffers before each forward: the graph needs its own
            u, v, initial = u.clone(), v.clone(), None if initial is None else initial.clone()
        # apply alone takes as long as the work on a small weight: only where a gradient is wanted
        divide = _Divide.apply if torch.is_grad_enabled() and weight.requires_grad else _Divide.forward
        normed = divide(weight, u, v, self.transposed, self.groups)[0]
        return normed if initial is None else normed * initial

    def sigma(self, weight: Float[Tensor, " *shape"]) -> Float[Tensor, ""]:
        """uᵀ W v as it stands."""
        with _no_autocast(weight):
            return _sigma(weight, self.u, self.v, self.transposed, self.groups)

    def iterate(self, weight: Float[Tensor, " *shape"], times: int = 1) -> None:
        """Power iteration. u and v are replaced, not written: an earlier forward may still need the old ones."""
        with _training_tensors(), torch.no_grad(), _no_autocast(weight):
            out_first = _out_first(weight, self.transposed, self.groups)
            matrix, v = _matrix(out_first, self.v)
            u = self.u.to(matrix.dtype)
            for _ in range(times):
                u = _unit(torch.mv(matrix, v), u)
                v = _unit(torch.mv(matrix.t(), u), v)
            if _channels_last(out_first):
                channels, *kernel = out_first.shape[1:]
                v = v.view(*kernel, channels).movedim(-1, 0).flatten()
            self.u, self.v = u.to(self.u.dtype), v.to(self.v.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.u)}×{len(self.v)}" + (", by step" if self.by_step else "")


class _Divide(torch.autograd.Function):
    """W -> W / σ, σ. The gradient of the first, G / σ - (⟨G, W⟩ / σ²) u vᵀ, is written out: autograd's takes five times as
    long on a CPU.

    Made of differentiable steps, σ computed anew where it shall have a gradient of its own.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, u: Tensor, v: Tensor, transposed: bool, groups: int) -> tuple[Tensor, Tensor]:
        with _no_autocast(weight):
            sigma = _sigma(weight, u, v, transposed, groups)
            # a product: a division of all entries is not as quick
            return (weight * _alive(sigma).reciprocal()).to(weight.dtype), sigma

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:3], output[1])
        ctx.form = inputs[3:]

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor):
        weight, u, v, sigma = ctx.saved_tensors
        transposed, groups = ctx.form
        with _no_autocast(weight):
            if torch.is_grad_enabled():
                sigma = _sigma(weight, u, v, transposed, groups)
            wide, alive = sigma.dtype, sigma.abs() > EPS
            inverse = _alive(sigma).reciprocal()
            gradient = gradient.to(wide)
            through_sigma = torch.where(alive, -_inner(gradient, weight.to(wide)) * inverse.square(), 0)
            result = gradient * inverse
            blocks = _grouped(result, transposed, groups)  # the blocks of (out, all the rest), one under another
            rows = u.to(wide).view(*blocks.shape[:2], *[1] * (blocks.ndim - 2))
            columns = (v.to(wide) * through_sigma).view(blocks.shape[2:])
            if _channels_last(blocks[0]):  # a strided column would take ten times as long to add
                columns = columns.movedim(0, -1).contiguous().movedim(-1, 0)
            blocks.addcmul_(rows, columns)
        return result.to(weight.dtype), None, None, None, None


def _alive(sigma: Tensor) -> Tensor:
    return torch.where(sigma.abs() > EPS, sigma, 1)


def _sigma(weight: Tensor, u: Tensor, v: Tensor, transposed: bool, groups: int) -> Tensor:
    matrix, v = _matrix(_out_first(weight, transposed, groups), v)
    return torch.dot(u.to(matrix.dtype), torch.mv(matrix, v))


def _grouped(weight: Tensor, transposed: bool, groups: int) -> Tensor:
    """A view (groups, out/groups, in/groups, k...), where groups is 1 for all but transposed convolutions."""
    if not transposed:
        return weight.unsqueeze(0)
    return weight.unflatten(0, (groups, -1)).transpose(1, 2)


def _out_first(weight: Tensor, transposed: bool, groups: int) -> Tensor:
    """(out, in/groups, k...), a view but for transposed convolutions with groups."""
    return _grouped(weight, transposed, groups).flatten(0, 1) if transposed else weight


def _channels_last(out_first: Tensor) -> bool:
    """Whether the columns of the matrix must be (k..., in) instead of (in, k...) to be a view."""
    return out_first.ndim > 2 and out_first.stride(1) < out_first.stride(-1)


def _matrix(out_first: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix (out, everything else), and v in the order of its columns; float32 at least.

    A view, but for transposed convolutions that are contiguous, where the out axis lies in the middle.
    """
    if _channels_last(out_first):
        v = v.view(out_first.shape[1:]).movedim(0, -1).flatten()
        out_first = out_first.movedim(1, -1)
    matrix = out_first.flatten(1)
    if matrix.dtype in (torch.bfloat16, torch.float16):
        matrix = matrix.float()
    return matrix, v.to(matrix.dtype)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The sum of a · b; without a copy where both lie alike in memory."""
    order = sorted(range(b.ndim), key=b.stride, reverse=True)
    return torch.dot(a.permute(order).flatten(), b.permute(order).flatten())


def _no_autocast(weight: Tensor) -> contextlib.AbstractContextManager:
    device = weight.device.type
    if weight.is_meta or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def _training_tensors() -> contextlib.AbstractContextManager:
    """Leave inference mode, so that the u and v made in it can still serve in training."""
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():  # dynamo cannot ask the second
        return contextlib.nullcontext()
    return torch.inference_mode(False)


def _unit(x: Tensor, otherwise: Tensor) -> Tensor:
    """x / ‖x‖, or `otherwise` where x is zero: from a zero vector power iteration never comes back."""
    norm = torch.linalg.vector_norm(x)
    return torch.where(norm > EPS, x / norm, otherwise)


def everywhere(name: str, module: nn.Module) -> bool:
    return True


def spectral_norm(module: nn.Module, where: Callable[[str, nn.Module], bool] = everywhere, *, scale: str = "one") -> nn.Module:
    """Divide every weight of `module` by its largest singular value, in place, and hand `module` back.

    The weights are those of Conv1d-3d, ConvTranspose1d-3d, Linear and Embedding, each as the matrix (out, everything
    else): (out, in·k·k) for a convolution, transposed or not (with groups, (out, in/groups·k·k)), (out, in) for a linear
    layer, (entries, width) for an embedding. A weight that has a spectral norm, ours or torch's, is passed over. The
    parameters stay the same objects, so an optimiser made before still holds them.

    In a loop that knows nothing of gander this behaves as `torch.nn.utils.parametrizations.spectral_norm`: one power
    iteration each time a weight is read in training mode (once a forward), none in eval mode. Layers recomputed by
    activation checkpointing would iterate twice: call `by_step`, and `refresh` before each step of the optimiser.

    What differs from torch's: transposed convolutions with groups, zero weights (finite here), float32 under autocast,
    and u and v are replaced instead of written in place, which torch.compile needs when a network is called twice.

    Args:
        module: a finished network, or one layer.
        where: of (name, layer), as from `module.named_modules()`: which layers to take; all by default.
        scale: `one`, or `initial`: the weights stay as they are, and their largest singular values are held where they are
            now (Lee et al. 2021, ViTGAN, https://arxiv.org/abs/2107.04589: at one, discriminators of attention collapse).

    Raises:
        ValueError: for a lazy layer that has no shape yet.
        UserError: for another `scale`.
    """
    if scale not in SCALES:
        raise unknown("scale of spectral norm", scale, SCALES)
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, NORMED) or _has_spectral_norm(layer) or not where(name, layer):
            continue
        weight = layer.weight
        if isinstance(weight, nn.UninitializedParameter):
            raise ValueError(f"{name or 'the layer'} has no shape yet: run one batch through it, then apply spectral_norm")
        groups = layer.groups if isinstance(layer, TRANSPOSED) else 1
        norm = SpectralNorm(weight, transposed=isinstance(layer, TRANSPOSED), groups=groups, scale=scale)
        _own_class(layer)
        # unsafe: the check would read the weight, which is an iteration
        parametrize.register_parametrization(layer, "weight", norm, unsafe=True)
    return module


def by_step(network: nn.Module) -> nn.Module:
    """Forwards of `network` leave u and v alone from now on: only `refresh` moves them. Hands `network` back."""
    for _, _, norm, _ in _sites(network):
        norm.by_step = True
    return network


def refresh(network: nn.Module, iterations: int = 1) -> None:
    """Power iteration on every spectral norm of `network`, in any mode: once before the first forward of a step."""
    for _, chain, norm, i in _sites(network):
        norm.iterate(_before(chain, i), iterations)


@torch.no_grad()
def sigmas(network: nn.Module) -> dict[str, Tensor]:
    """Each layer's name and its σ = uᵀ W v as it stands: tensors on the device, so nothing waits for them."""
    return {name: norm.sigma(_before(chain, i)) for name, chain, norm, i in _sites(network)}


def fold(network: nn.Module) -> nn.Module:
    """Replace each normalised weight by a plain one, W / σ, for export, in place; hands `network` back.

    u and v do not move. Any other parametrisation of the same weight is folded in too. A copy is folded without harm
    to its original: `fold(copy.deepcopy(network))`.
    """
    layers = [(chain, layer) for layer in network.modules() if (chain := _spectral_chain(layer)) is not None]
    for chain, layer in layers:
        chain.eval()
        _own_class(layer)
        parametrize.remove_parametrizations(layer, "weight")
    return network


def _spectral_chain(layer: nn.Module) -> ParametrizationList | None:
    """The parametrisations of the layer's weight, if a spectral norm of ours is among them."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    chain: Any = layer.parametrizations["weight"]  # type: ignore[index]
    return chain if any(isinstance(part, SpectralNorm) for part in chain) else None


def _sites(network: nn.Module) -> Iterator[tuple[str, ParametrizationList, SpectralNorm, int]]:
    """(name of the layer, parametrisations of its weight, the spectral norm, its place among them)."""
    for name, layer in network.named_modules():
        if (chain := _spectral_chain(layer)) is not None:
            yield from ((name, chain, part, i) for i, part in enumerate(chain) if isinstance(part, SpectralNorm))


@torch.no_grad()
def _before(chain: ParametrizationList, i: int) -> Tensor:
    """The weight as it comes to parametrisation `i`."""
    weights: list[Any] = [chain.original] if chain.is_tensor else [getattr(chain, f"original{j}") for j in range(chain.ntensors)]
    for part in list(chain)[:i]:
        weights = [part(*weights)]
    return weights[0]


def _has_spectral_norm(layer: nn.Module) -> bool:
    if "weight" in layer._parameters:
        return False
    theirs = parametrizations._SpectralNorm
    # a weight that is neither a parameter nor parametrised is made by a hook: torch's old spectral_norm, and others
    if not parametrize.is_parametrized(layer, "weight"):
        return True
    return any(isinstance(part, (SpectralNorm, theirs)) for part in layer.parametrizations["weight"])  # type: ignore


def _own_class(layer: nn.Module) -> None:
    """Give a parametrised layer a class of its own.

    Parametrised weights are properties of the layer's class, and a deep copy shares that class with its original: what
    `register_parametrization` and `remove_parametrizations` do to one would be done to both.
    """
    if parametrize.is_parametrized(layer):
        shared: Any = type(layer)
        members = {key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")}
        layer.__class__ = type(shared)(shared.__name__, shared.__bases__, members)
