from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gander.attention.heads import Heads, Queries, asked, maps
from gander.attention.kernels import attend
from gander.errors import UserError, unknown

Pair = tuple[int, int]
# A score that leaves nothing, times √d: exp(-30000 / √d) is 0 also in float64 up to d = 1024, and float16 has the number.
NEVER = -3e4
SHIFTED = ("none", "half", "all")


class Grid(NamedTuple):
    heads: int  # so many of them
    window: Pair  # its height and width
    before: Pair  # how far above and left of the image the first one begins


class Windows(Heads):
    """Attention inside rectangles of the image, those of each head its own."""

    def grids(self, size: Sequence[int]) -> list[Grid]:
        """Those of an image of `size`, for all heads."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        q, k, v = (t.unflatten(2, x.shape[2:]) for t in self.operands(x))
        return self.back(x, in_windows(q, k, v, self.grids(x.shape[2:]), self.scale).flatten(2, 3))

    def weights(self, x: Float[Tensor, "b c h w"], queries: Queries = None) -> Float[Tensor, "b heads q h w"]:
        """What the `queries` (flat row-major positions; all by default) attend to in each head: maps of sum 1, 0 outside."""
        q, k, _ = self.operands(x)
        seen = together(self.grids(x.shape[2:]), x.shape[2:], queries, x.device)
        return maps(q, k, self.scale, x.shape[2:], queries, seen)


class WindowAttention(Windows):
    """y = x + γ · output(o): multi-head attention inside windows of `size` × `size`, those of half of the heads shifted by half.

    Windows: Liu et al. 2021 (Swin), https://arxiv.org/abs/2103.14030, who shift them in every second layer. Half of the heads:
    Zhang et al. 2021 (StyleSwin's double attention), https://arxiv.org/abs/2112.10762, where one layer already sees across every
    border. Queries and keys are normed as in `MultiHeadAttention`. γ is a scalar, 0 at birth.

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w: a side that windows do not divide ends in smaller ones (padded and masked),
    and shifted windows begin with them, at the image's border; none wraps around. A window longer than a side is cut to it.
    Parameters: 4 c² + 2 d + 1 where heads divide c.

    Cost for n = h·w and windows of s²: O(n c² + n s² c) time, O(n c) memory; maps of n·s² only where they are small or under
    `create_graph`. Second derivatives work. Shifted, the padded image has a window more on each axis.

    What differs: no bias of relative positions; take `rotary=True` for them. Swin rolls the image and masks pairs of pixels, which
    gives the same numbers.

    Args:
        channels: c.
        heads: of 64 channels by default, at least 1, and 2 where half of them are shifted.
        size: s, the side of a window.
        shifted: the windows of which heads: `half`, `none` or `all`. An odd head more stays.
        qk_norm: as for `MultiHeadAttention`, as is `rotary`.

    Raises:
        UserError: for an empty window, one head to be halved, and more heads than channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int | None = None,
        size: int = 8,
        shifted: str = "half",
        qk_norm: bool = True,
        rotary: bool = False,
    ) -> None:
        if size < 1:
            raise UserError(f"windows of attention got size={size}; take a side of 1 or more pixels, such as 8")
        if shifted not in SHIFTED:
            raise unknown("choice of shifted heads", shifted, SHIFTED)
        super().__init__(channels, heads, least=2 if shifted == "half" else 1, qk_norm=qk_norm, rotary=rotary)
        self.size, self.shifted = size, shifted

    def grids(self, size: Sequence[int]) -> list[Grid]:
        return windows(self.heads, size, self.size, self.shifted)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, size={self.size}, shifted={self.shifted!r}"


def windows(heads: int, size: Sequence[int], side: int, shifted: str = "half") -> list[Grid]:
    """Squares of `side` in an image of `size`, cut to it; those of `none`, `half` or `all` heads are shifted by half a side."""
    h, w = (min(side, whole) for whole in size)
    count = {"none": 0, "half": heads // 2, "all": heads}[shifted]
    both = Grid(heads - count, (h, w), (0, 0)), Grid(count, (h, w), (h // 2, w // 2))
    return [grid for grid in both if grid.heads]


def in_windows(
    q: Float[Tensor, "b heads h w d"],
    k: Float[Tensor, "b heads h w d"],
    v: Float[Tensor, "b heads h w e"],
    grids: Sequence[Grid],
    scale: float,
) -> Float[Tensor, "b heads h w e"]:
    """softmax(scale · q kᵀ) v inside the windows of each grid, which has its own of the heads."""
    groups = zip(*(t.split([grid.heads for grid in grids], 1) for t in (q, k, v)), strict=True)
    return torch.cat([_inside(q, k, v, grid, scale) for (q, k, v), grid in zip(groups, grids, strict=True)], 1)


def _inside(q: Tensor, k: Tensor, v: Tensor, grid: Grid, scale: float) -> Tensor:
    """Attention of (b, heads, h, w, d) inside the windows of one grid."""
    (h, w), window, (top, left) = q.shape[2:4], grid.window, grid.before
    down, right = -(h + top) % window[0], -(w + left) % window[1]
    around = (0, 0, left, right, top, down)
    if any(around):  # a key outside the image gets the score NEVER: from one channel more, which is 1 in every query
        bias = F.pad(k.new_zeros(1, 1, h, w, 1), around, value=NEVER).expand(*k.shape[:2], -1, -1, -1)
        q, k, v = (F.pad(t, around) for t in (q, k, v))
        q, k = F.pad(q, (0, 1), value=1.0), torch.cat([k, bias], -1)
    b, heads, height, width, _ = q.shape
    q, k, v = (_cut(t, window) for t in (q, k, v))
    o = attend(q, k, v, scale)
    o = o.view(b, height // window[0], width // window[1], heads, *window, v.shape[-1]).permute(0, 3, 1, 4, 2, 5, 6)
    return o.reshape(b, heads, height, width, v.shape[-1])[:, :, top : top + h, left : left + w]


def _cut(t: Tensor, window: Pair) -> Tensor:
    """(b, heads, h, w, d) -> (b · windows, heads, pixels of a window, d)."""
    t = t.unflatten(3, (-1, window[1])).unflatten(2, (-1, window[0]))  # b heads rows s columns s d
    return t.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(0, 2)


def together(grids: Sequence[Grid], size: Sequence[int], queries: Queries, device: torch.device) -> Bool[Tensor, "heads q n"]:
    """Whether each pixel of an image of `size` lies in the window of each of the `queries`, for each head."""
    seen = []
    for grid in grids:
        sides = zip(size, grid.before, grid.window, strict=True)
        row, column = ((torch.arange(side, device=device) + start) // step for side, start, step in sides)
        cell = (row[:, None] * (size[1] + 1) + column).flatten()
        seen.append((asked(cell[:, None], queries) == cell).expand(grid.heads, -1, -1))
    return torch.cat(seen)
