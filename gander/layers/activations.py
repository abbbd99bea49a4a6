import torch
from jaxtyping import Float
from torch import Tensor, nn

from gander.errors import UserError


class RootTanh(nn.Module):
    """y = (x² + 1)^(1/a) · tanh x: odd, slope 1 at zero and nowhere steeper, and it grows on, as |x|^(2/a).

    dy/dx = (x² + 1)^(1/a) · (sech² x + 2/a · x · tanh x / (x² + 1))

    From LocAtE (2020). Of x ~ N(0, 1) it makes, with a = 4, a mean of 0 and a standard deviation of 0.806.

    Shapes: any, of any floating type; bfloat16 and float16 are computed in float32. Every finite x has a finite value and finite
    derivatives: where x² overflows (in float32 above 1.8e19) the first factor grows no more. Keeps x and nothing else for
    backward. Derivatives of any order; under `torch.compile` the first.

    What differs: LocAtE's backward was right for one a only, raised when differentiated again, and made NaN of large x in float16.

    Args:
        growth: a, from 3 on. The larger, the flatter the tails.

    Raises:
        UserError: for a below 3.
    """

    def __init__(self, growth: float | int = 4) -> None:
        super().__init__()
        if not growth >= 3:
            raise UserError(f"RootTanh's growth a is {growth}; below 3 its slope exceeds 1 somewhere: take 3 or more, 4 is usual")
        self.growth = float(growth)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _RootTanh.apply(x, self.growth)

    def extra_repr(self) -> str:
        return f"growth={self.growth:g}"


class _RootTanh(torch.autograd.Function):
    """In place where it can be: on a CPU fresh memory costs more than the arithmetic. Where the gradient shall have one itself,
    by autograd.

    expm1 takes half of tanh's time, sigmoid a fifth; the latter is wrong by 1e-7 near zero, which a slope of 1 does not feel and
    a small value would.
    """

    @staticmethod
    def forward(x: Tensor, growth: float) -> Tensor:
        wide = _wide(x)
        y = wide.clamp(max=30).mul_(2).expm1_()
        scratch = y + 2
        y.div_(scratch)  # tanh
        return y.mul_(_root(scratch.fill_(1).addcmul_(wide, wide), growth)).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, ctx.growth = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        wide = _wide(x)
        if torch.is_grad_enabled():
            t, h = wide.tanh(), torch.hypot(wide, wide.new_ones(()))
            slope = h.pow(2 / ctx.growth) * (1 - t * t + 2 / ctx.growth * t * (wide / h / h))
            return (gradient * slope).to(x.dtype), None
        return _slope(wide, ctx.growth).mul_(gradient).to(x.dtype), None

    @staticmethod
    def vmap(info, in_dims, x: Tensor, growth: float) -> tuple[Tensor, int]:
        return _RootTanh.apply(x, growth), in_dims[0]


def _slope(x: Tensor, growth: float) -> Tensor:
    square = torch.addcmul(x.new_ones(()), x, x)
    half = x.mul(2).sigmoid_().sub_(0.5)  # tanh / 2
    slope = torch.addcmul(x.new_ones(()), half, half, value=-4)  # sech²
    slope.addcdiv_(half.mul_(x), square, value=4 / growth)
    return slope.mul_(_root(square, growth))


def _root(square: Tensor, growth: float) -> Tensor:
    """(x² + 1)^(1/a) of x² + 1, in place. Where x² overflows it stays what it is at the largest x² that does not."""
    root = square.rsqrt_().rsqrt_() if growth == 4 else square.pow_(1 / growth)  # the latter by logarithms
    return root.clamp_(max=torch.finfo(square.dtype).max ** (1 / growth))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
