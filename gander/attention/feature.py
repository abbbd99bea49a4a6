from collections.abc import Sequence
from math import gcd

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.errors import UserError
from gander.layers.activations import RootTanh


class FeatureAttention(nn.Module):
    """y = x · (1 + γ · c · a),   a = softmax over the c channels of output(f(rows(f(columns(x))))),   f = RootTanh.

    LocAtE (2020): a gate for each channel, from filters that see the whole image and know each position apart. `columns` is a
    convolution of c to c/4 channels with a kernel as high as the image, `rows` one of c/4 to c/4 as wide as what is left,
    `output` a 1×1 convolution back to c; no biases. So it is squeeze-and-excitation (1709.01507) whose squeeze is a factorised
    fully connected layer instead of a mean. `separable` has one convolution with a kernel of the image's size and groups in the
    place of columns and rows, and no f. γ is a scalar, 0 at birth.

    Shapes: (b, c, h, w) -> (b, c, h, w), for the one size (h, w) that it was made for. c/4 is rounded down, to at least 1.

    Parameters: h c²/4 + w (c/4)² + c²/4 + 1; separable, where 4 | c: h w c + c²/4 + 1. Cost: O(h w c²) time, O(h w c) memory.

    What differs: the softmax makes each channel's share about 1/c, so that LocAtE's y = x · (1 + γ · a) is nearly x; here the
    shares are multiplied by c unless `rescale` is off. Spectral norm, which LocAtE has on every convolution, is applied from
    outside. LocAtE's γ is born as a whole number.

    Args:
        channels: c.
        size: (h, w).
        separable: the second form.
        rescale: multiply the shares by c.

    Raises:
        UserError: without a size, and for images of another.
    """

    map_kind = "channels"

    def __init__(
        self, channels: int, *, size: tuple[int, int] | None = None, separable: bool = False, rescale: bool = True
    ) -> None:
        super().__init__()
        if size is None:
            raise UserError("feature attention is made for one size of its input: give size=(height, width)")
        (h, w), inner = size, max(1, channels // 4)
        self.size, self.factor = (h, w), channels if rescale else 1
        self.squeeze: nn.Module
        if separable:
            self.squeeze = nn.Conv2d(channels, inner, (h, w), groups=gcd(channels, inner), bias=False)
        else:
            columns = nn.Conv2d(channels, inner, (h, 1), bias=False)
            rows = nn.Conv2d(inner, inner, (1, w), bias=False)
            self.squeeze = nn.Sequential(columns, RootTanh(), rows, RootTanh())
        self.output = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "b c h w"], seen: Float[Tensor, "b c h w"] | None = None) -> Float[Tensor, "b c h w"]:
        """`seen` is what the gate is made of, where that is not x: LocAtE's is x normalised."""
        gate = self.weights(x if seen is None else seen)
        return x * (1 + self.gamma * self.factor * gate).to(x.dtype)

    def weights(
        self, x: Float[Tensor, "b c h w"], queries: Int[Tensor, "q"] | Sequence[int] | None = None
    ) -> Float[Tensor, "b c 1 1"]:
        """Each channel's share: the sum over channels is 1. There is one answer for all `queries`."""
        if x.shape[2:] != self.size:
            (h, w), (height, width) = self.size, x.shape[2:]
            raise UserError(
                f"feature attention made for {h}×{w} got an input of {height}×{width}; make it with size=({height}, {width})"
            )
        scores = self.output(self.squeeze(x))
        return scores.softmax(1, dtype=torch.promote_types(scores.dtype, torch.float32))

    def extra_repr(self) -> str:
        return f"size={self.size}, factor={self.factor}"
