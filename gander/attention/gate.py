from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.layers.activations import RootTanh


class SpatialSoftmaxGate(nn.Module):
    """y = x · (1 + γ · n · a),   a = softmax over the n = h·w positions, for each channel, of outer(RootTanh(inner(x))).

    LocAtE (2020), who calls it self-attention: there are no queries and keys, a position's share follows from its own features
    and the sum over all. `inner` and `outer` are 1×1 convolutions of c to c channels without biases. γ is a scalar, 0 at birth.

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w. Parameters: 2 c² + 1. Cost: O(h w c²) time, O(h w c) memory.

    What differs: LocAtE's y = x · (1 + γ · a) has shares of about 1/n and is nearly x; here they are multiplied by n unless
    `rescale` is off. Spectral norm is applied from outside. LocAtE's γ is born as a whole number.

    Args:
        channels: c.
        rescale: multiply the shares by n.
    """

    map_kind = "positions"

    def __init__(self, channels: int, *, rescale: bool = True) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 1, bias=False)
        self.outer = nn.Conv2d(channels, channels, 1, bias=False)
        self.activation = RootTanh()
        self.gamma = nn.Parameter(torch.zeros(()))
        self.rescale = rescale

    def forward(self, x: Float[Tensor, "b c h w"], seen: Float[Tensor, "b c h w"] | None = None) -> Float[Tensor, "b c h w"]:
        """`seen` is what the gate is made of, where that is not x: LocAtE's is x normalised."""
        factor = self.gamma * x[0, 0].numel() if self.rescale else self.gamma
        return x * (1 + factor * self.weights(x if seen is None else seen)).to(x.dtype)

    def weights(
        self, x: Float[Tensor, "b c h w"], queries: Int[Tensor, "q"] | Sequence[int] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Each position's share of each channel: the sum over positions is 1. There is one answer for all `queries`."""
        scores = self.outer(self.activation(self.inner(x)))
        wide = torch.promote_types(scores.dtype, torch.float32)
        if scores.is_contiguous():
            return scores.flatten(2).softmax(2, dtype=wide).unflatten(2, x.shape[2:])
        # in channels_last over the other axis: as it lies in memory, for a copy costs twice the softmax
        return scores.movedim(1, -1).flatten(1, 2).softmax(1, dtype=wide).unflatten(1, x.shape[2:]).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"rescale={self.rescale}"
