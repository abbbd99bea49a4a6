import torch
from jaxtyping import Float
from torch import Tensor

from gander.attention.heads import Heads, Queries, asked


class LinearAttention(Heads):
    """y = x + γ · output(o),   o_h = ρ(q_h) · (σ(k_h)ᵀ v_h),   ρ the softmax over the d channels, σ that over the n positions.

    "Efficient attention", Shen et al. 2018, https://arxiv.org/abs/1812.01243. The product of the keys' softmax and the values is a
    d × d summary of the image, which every position reads: no map is made. The map that it stands for, ρ(q) σ(k)ᵀ, has positive
    rows of sum 1, as softmax attention has, but rank d at most: it cannot point at one pixel alone unless a channel does. Of the
    published linear forms the one that needs no denominator, so none can vanish. γ is a scalar, 0 at birth.

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w; d = c / heads, rounded down. Parameters: 4 c² + 1 where heads divide c.
    Cost for n = h·w: O(n c² + n c d) time, O(n c) memory. Second derivatives work. In half precision softmaxes are of float32.

    Args:
        channels: c.
        heads: of 64 channels by default, at least 1.

    Raises:
        UserError: for no heads, or more than channels.
    """

    def __init__(self, channels: int, *, heads: int | None = None) -> None:
        super().__init__(channels, heads)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        q, k, v = self.features(x)
        return self.back(x, q @ (k.mT @ v))

    def features(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """ρ(q), σ(k) and v, each (b, heads, h·w, d)."""
        q, k, v = self.operands(x)
        wide = torch.promote_types(q.dtype, torch.float32)
        return q.softmax(-1, dtype=wide).to(v.dtype), k.softmax(-2, dtype=wide).to(v.dtype), v

    def weights(self, x: Float[Tensor, "b c h w"], queries: Queries = None) -> Float[Tensor, "b heads q h w"]:
        """ρ(q) σ(k)ᵀ, the map that is never made, for the `queries` (flat row-major positions; all by default)."""
        q, k, _ = self.features(x)
        return (asked(q, queries) @ k.mT).unflatten(-1, x.shape[2:])
