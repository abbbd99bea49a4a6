from collections.abc import Sequence

from gander.attention.window import Grid, Windows


class AxialAttention(Windows):
    """y = x + γ · output(o): half of the heads attend along the row of a pixel, the others along its column.

    Attention along one axis: Ho et al. 2019, https://arxiv.org/abs/1912.12180, one axis after the other. Both at once, half of the
    heads each: Dong et al. 2021 (CSWin), https://arxiv.org/abs/2107.00652, whose stripes are here one pixel wide. At once, since
    one after the other is two layers: it would need other projections for the second axis, and no one map would tell what a pixel
    looks at. Two of these see the whole image. Queries and keys are normed as in `MultiHeadAttention`. γ is a scalar, 0 at birth.

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w. Parameters: 4 c² + 2 d + 1 where heads divide c.

    Cost for n = h·w: O(n c² + n (h + w) c) time, O(n c) memory; maps of n·h and n·w only where they are small or under
    `create_graph`. Second derivatives work.

    Args:
        channels: c.
        heads: of 64 channels by default, at least 2. An odd one more looks along the column.
        qk_norm: as for `MultiHeadAttention`, as is `rotary`.

    Raises:
        UserError: for one head, and more than channels.
    """

    def __init__(self, channels: int, *, heads: int | None = None, qk_norm: bool = True, rotary: bool = False) -> None:
        super().__init__(channels, heads, least=2, qk_norm=qk_norm, rotary=rotary)

    def grids(self, size: Sequence[int]) -> list[Grid]:
        (h, w), rows = size, self.heads // 2
        return [Grid(rows, (1, w), (0, 0)), Grid(self.heads - rows, (h, 1), (0, 0))]
