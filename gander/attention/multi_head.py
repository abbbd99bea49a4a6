from jaxtyping import Float
from torch import Tensor

from gander.attention.heads import Heads, Queries, maps
from gander.attention.kernels import attend


class MultiHeadAttention(Heads):
    """y = x + γ · output(o),   o_h = softmax(q_h k_hᵀ / √d) v_h for each head h,   q, k, v = query(x), key(x), value(x).

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, on the positions of an image. Queries and keys are normed first, each
    head's d channels to root mean square 1 times a learned gain (Henry et al. 2020, https://arxiv.org/abs/2010.04245; Dehghani et
    al. 2023, https://arxiv.org/abs/2302.05442): scores stay within √d · max|gain_q gain_k|, whatever x. γ is a scalar, 0 at birth.

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w; d = c / heads, rounded down. Parameters: 4 c² + 2 d + 1 where heads divide c;
    4 c² + 1 without the norms.

    Cost for n = h·w: O(n c² + n² c) time; O(n c) memory, and maps of n² only where they are small or under `create_graph` (see
    `kernels`). Second derivatives work.

    What differs: 1×1 convolutions without biases stand for linear layers; root mean squares in the place of Henry's norms and
    Dehghani's layer norm, as later models have it. Spectral norm is applied from outside.

    Args:
        channels: c.
        heads: of 64 channels by default, at least 1.
        qk_norm: norm queries and keys.
        rotary: turn queries and keys by their row and column, so that scores know how far apart two pixels lie; see
            `gander.layers.rotary`.

    Raises:
        UserError: for no heads, or more than channels.
    """

    def __init__(self, channels: int, *, heads: int | None = None, qk_norm: bool = True, rotary: bool = False) -> None:
        super().__init__(channels, heads, qk_norm=qk_norm, rotary=rotary)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        q, k, v = self.operands(x)
        return self.back(x, attend(q, k, v, self.scale))

    def weights(self, x: Float[Tensor, "b c h w"], queries: Queries = None) -> Float[Tensor, "b heads q h w"]:
        """What the `queries` (flat row-major positions; all by default) attend to in each head: maps of sum 1."""
        q, k, _ = self.operands(x)
        return maps(q, k, self.scale, x.shape[2:], queries)
