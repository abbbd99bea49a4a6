from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from gander.attention.kernels import own_precision
from gander.errors import UserError

Order = Literal["channels", "positions"]


class SimpleSelfAttention(nn.Module):
    """y = x + γ · X Xᵀ (W X),   X = x as the matrix (c, n) of its n = h·w positions.

    S. Doria 2019, https://github.com/sdoria/SimpleSelfAttention: position q takes from every position k the features x_k as they
    are, x_kᵀ W x_q times, a weight of either sign; no softmax, no value convolution. W is a 1×1 convolution, born Kaiming-normal.
    γ is a scalar, 0 at birth. The branch is cubic in x and grows with n: keep x small, as after a batch norm whose gain is born 0.

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w. Parameters: c² + 1; 2 c² + 1 with `out_conv`; k² c² + 1 with a kernel of k.

    Cost, in multiplications for an image, of the order that `order` chooses; x is kept for backward in both:

    | order                        | forward       | backward        | kept besides x |
    |------------------------------|---------------|-----------------|----------------|
    | n ≥ c: ((X Xᵀ) W) X          | 2 n c² + c³   | 3 n c² + 2 c³   | 2 c²           |
    | n < c: X (Xᵀ (W X))          | n c² + 2 n² c | 2 n c² + 4 n² c | n c + n²       |
    | the source's (X Xᵀ) (W X)    | 3 n c²        | 6 n c²          | 3 n c + c²     |

    γ and 1/n go into W, a small matrix, not into a map. Precision: float16 is multiplied and summed in float32, for sums over n may
    overflow; bfloat16 in bfloat16, summed in float32. Second derivatives work; under torch.compile first ones only.

    What differs: the source keeps W symmetric by an assignment that its spectral norm undid before each use, so what it reports of
    "sym" is not of symmetric weights; here it is a parametrisation, which a spectral norm applied later sees: σ is that of the
    symmetric matrix. Its kernel runs along the flattened image, so that rows wrap; here it is a 2-D convolution. Spectral norm is
    applied from outside, to a finished network; on this layer only: `spectral_norm(layer)`.

    Args:
        channels: c.
        kernel: of the convolution W, odd. Above 1 a query is made of a position and its neighbours; products are not folded then.
        symmetric: W = (V + Vᵀ) / 2, so that k takes from q what q takes from k. V is learned.
        out_conv: a last 1×1 convolution, before γ: the values' of self-attention.
        normalize: divide by n, so that γ means the same at every resolution.

    Raises:
        UserError: for an even kernel, and for a symmetric one above 1.
    """

    map_kind = "signed"

    def __init__(
        self, channels: int, *, kernel: int = 1, symmetric: bool = False, out_conv: bool = False, normalize: bool = False
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise UserError(f"the kernel of simple attention is {kernel}; its middle is the position itself: take 1, 3 or 5")
        if symmetric and kernel != 1:
            raise UserError(
                f"symmetric simple attention with a kernel of {kernel}: only a 1×1 matrix can be symmetric; take kernel=1"
            )
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.output = nn.Conv2d(channels, channels, 1, bias=False) if out_conv else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(()))
        self.normalize = normalize
        for conv in self.children():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight)
        if symmetric:
            register_parametrization(self.conv, "weight", _Symmetric())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        flat, dtype, alone = _flat(x), _summed(x), isinstance(self.output, nn.Identity)
        scale = self.gamma / flat.shape[2] if self.normalize else self.gamma
        conv: Any = self.conv
        # what is put in the convolution's place, and what hooks do, must be called
        plain = type(conv).forward is nn.Conv2d.forward and not (conv._forward_hooks or conv._forward_pre_hooks)
        if plain and conv.kernel_size == (1, 1) and conv.bias is None:
            way = _formula if torch.compiler.is_compiling() else ORDERS[order(*flat.shape[1:])]
            with own_precision(x.device.type):
                y = way(flat, scale * conv.weight.flatten(1), dtype, alone)
        else:
            asked = _flat(conv(x))
            with own_precision(x.device.type):
                y = _products(flat.to(dtype), asked.to(dtype), scale)
                y = flat + y if alone else y
        y = y.unflatten(2, x.shape[2:]).to(x.dtype)
        return y if alone else x + self.output(y)

    def weights(
        self, x: Float[Tensor, "b c h w"], queries: Int[Tensor, "q"] | Sequence[int] | None = None
    ) -> Float[Tensor, "b 1 q h w"]:
        """x_kᵀ (W x)_q, the weight with which position q (flat row-major; all by default) takes x_k: maps over k, of either sign.

        Their sums with x are X Xᵀ (W X), with `normalize` the n-th part of it: what γ, and `out_conv` before it, multiply.
        """
        asked = self.conv(x).flatten(2)
        if queries is not None:
            asked = asked[:, :, torch.as_tensor(queries, dtype=torch.long, device=x.device)]
        wide = torch.promote_types(x.dtype, torch.float32)
        with own_precision(x.device.type):
            maps = asked.mT.to(wide) @ x.flatten(2).to(wide)
        if self.normalize:
            maps = maps / maps.shape[-1]
        return maps.unflatten(2, x.shape[2:])[:, None]

    def extra_repr(self) -> str:
        return f"normalize={self.normalize}"


class _Symmetric(nn.Module):
    """V -> (V + Vᵀ) / 2 for the weight (c, c, 1, 1) of a convolution."""

    def forward(self, v: Float[Tensor, "c c 1 1"]) -> Float[Tensor, "c c 1 1"]:
        return (v + v.transpose(0, 1)) / 2

    def right_inverse(self, weight: Float[Tensor, "c c 1 1"]) -> Float[Tensor, "c c 1 1"]:
        return weight


def order(channels: int, positions: int) -> Order:
    """In which order the product of three is computed: by the map of channels or by that of positions, the smaller one."""
    return "channels" if positions >= channels else "positions"


def _summed(x: Tensor) -> torch.dtype:
    """The type of the products' operands; what is summed in half precision inside a product is summed in float32."""
    device, dtype = x.device.type, x.dtype
    if dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)  # as autocast does for a product
    return torch.float32 if dtype == torch.float16 else dtype


def _flat(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c n"]:
    """A view of either memory format, else a copy: then `flat` or `flat.mT` is contiguous."""
    flat = x.flatten(2)
    return flat if flat.mT.is_contiguous() else flat.contiguous()


def _laid_as(t: Float[Tensor, "b c n"], x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
    return t.contiguous() if x.is_contiguous() else t.mT.contiguous().mT


def _times(
    matrix: Float[Tensor, "b c c"], x: Float[Tensor, "b c n"], plus: Float[Tensor, "b c n"] | None = None
) -> Float[Tensor, "b c n"]:
    """matrix · x + plus, laid out as x is."""
    if not x.is_contiguous():
        matrix, x = x.mT, matrix.mT
        return (matrix @ x if plus is None else torch.baddbmm(plus.mT, matrix, x)).mT
    return matrix @ x if plus is None else torch.baddbmm(plus, matrix, x)


def _each(batch: Float[Tensor, "b m c"], weight: Float[Tensor, "c d"]) -> Float[Tensor, "b m d"]:
    """batch · weight as one product."""
    return (batch.flatten(0, 1) @ weight).unflatten(0, batch.shape[:2])


def _products(x: Float[Tensor, "b c n"], asked: Float[Tensor, "b c n"], scale: Float[Tensor, ""]) -> Float[Tensor, "b c n"]:
    """scale · X Xᵀ asked, the map of channels or of positions between them, by autograd."""
    if order(*x.shape[1:]) == "channels":
        return _times(scale * (x @ x.mT), asked)
    return _laid_as(x @ (scale * (x.mT @ asked)), x)


def _formula(x: Tensor, weight: Tensor, dtype: torch.dtype, residual: bool) -> Tensor:
    """What both orders compute, by autograd."""
    wide, w = x.to(dtype), weight.to(dtype)
    if order(*x.shape[1:]) == "channels":
        y = _times(_each(wide @ wide.mT, w), wide)
    else:
        y = wide @ (wide.mT @ (w @ wide))
    return x + y if residual else y


class _ByChannels(torch.autograd.Function):
    """(x, W) -> ((X Xᵀ) W) X, and x added: two products of n c² and, backward, three.

    With G = X Xᵀ, M = G W and g the gradient of the result: P = g Xᵀ is that of M, Gᵀ P that of W, P Wᵀ that of G; and G meets x
    twice, so that Mᵀ g + (P Wᵀ + W Pᵀ) X is that of x. All in differentiable steps, G and M anew where the gradient shall itself be
    differentiated.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype, residual: bool) -> Tensor:
        wide = x.to(dtype)
        gram = wide @ wide.mT
        matrix = _each(gram, weight.to(dtype))
        ctx.save_for_backward(x, weight, gram, matrix)
        ctx.dtype, ctx.residual = dtype, residual
        if residual and x.dtype == dtype:
            return _times(matrix, wide, x)
        return x + _times(matrix, wide) if residual else _times(matrix, wide)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gram, matrix = ctx.saved_tensors
        with own_precision(x.device.type):
            grad = _laid_as(grad, x)
            wide, w, g = (t.to(ctx.dtype) for t in (x, weight, grad))
            if torch.is_grad_enabled():
                gram = wide @ wide.mT
                matrix = _each(gram, w)
            p = g @ wide.mT
            dx = dw = None
            if ctx.needs_input_grad[1]:
                dw = (gram.flatten(0, 1).mT @ p.flatten(0, 1)).to(weight.dtype)
            if ctx.needs_input_grad[0]:
                p = _each(p, w.mT)
                p = p + p.mT
                fused = ctx.residual and grad.dtype == ctx.dtype
                dx = _add_times(_times(matrix.mT, g, g if fused else None), p, wide)
                dx = (grad + dx if ctx.residual and not fused else dx).to(x.dtype)
        return dx, dw, None, None


def _add_times(to: Tensor, matrix: Tensor, x: Tensor) -> Tensor:
    """to + matrix · x, in place: at the peak of memory stands one gradient, not two."""
    if to.is_contiguous():
        return to.baddbmm_(matrix, x)
    return to.mT.baddbmm_(x.mT, matrix.mT).mT


class _ByPositions(torch.autograd.Function):
    """(x, W) -> X (Xᵀ (W X)), and x added: for few positions.

    In rows, one a position: T = R Wᵀ, S = T Rᵀ, result S R. With g the gradient of the result: D = g Rᵀ is that of S, D R that of
    T, and Sᵀ g + Dᵀ T + (D R) W that of R. T and S anew where the gradient shall itself be differentiated.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype, residual: bool) -> Tensor:
        rows = x.mT.to(dtype).contiguous()
        asked = _each(rows, weight.to(dtype).mT)
        scores = asked @ rows.mT
        ctx.save_for_backward(x, weight, asked, scores)
        ctx.dtype, ctx.residual = dtype, residual
        y = (scores @ rows).mT
        return x + y if residual else _laid_as(y, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, asked, scores = ctx.saved_tensors
        with own_precision(x.device.type):
            rows, g = (t.mT.to(ctx.dtype).contiguous() for t in (x, grad))
            w = weight.to(ctx.dtype)
            if torch.is_grad_enabled():
                asked = _each(rows, w.mT)
                scores = asked @ rows.mT
            d_scores = g @ rows.mT
            d_asked = d_scores @ rows
            dx = dw = None
            if ctx.needs_input_grad[1]:
                dw = (d_asked.flatten(0, 1).mT @ rows.flatten(0, 1)).to(weight.dtype)
            if ctx.needs_input_grad[0]:
                del rows  # what memory is at its peak is freed as soon as it can be
                d_asked = _each(d_asked, w)
                d_asked.baddbmm_(scores.mT, g).baddbmm_(d_scores.mT, asked)
                del g
                dx = _laid_as(d_asked.mT.to(x.dtype), x)
                dx = dx.add_(grad) if ctx.residual else dx
        return dx, dw, None, None


ORDERS: dict[Order, Callable[[Tensor, Tensor, torch.dtype, bool], Tensor]] = {
    "channels": _ByChannels.apply,
    "positions": _ByPositions.apply,
}
