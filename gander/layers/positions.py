"""Where a pixel stands, told to layers that do not see it: attention is the same for any order of its positions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gander.errors import UserError


def sinusoidal(channels: int, size: Sequence[int], device: torch.device | None = None) -> Float[Tensor, "c h w"]:
    """Sines and cosines of the row, then of the column, at channels / 4 frequencies from 1 down to 1/10,000.

    With i = 0 ... c/4 - 1 and ω_i = 10,000^(-4i/c), channels i and c/4 + i are sin and cos of ω_i · row, the second half likewise
    of the column. Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, of two axes: Carion et al. 2020 (DETR). float32.

    Raises:
        UserError: for channels that 4 does not divide.
    """
    if channels < 4 or channels % 4:
        raise UserError(f"sinusoidal positions have 4 channels a frequency, and {channels} were asked for; take a multiple of 4")
    h, w = size
    rates = 10_000.0 ** (-torch.arange(channels // 4, device=device) * 4 / channels)
    of_row, of_column = (torch.arange(side, device=device) * rates[:, None] for side in (h, w))
    row = torch.cat([of_row.sin(), of_row.cos()])[:, :, None].expand(-1, h, w)
    column = torch.cat([of_column.sin(), of_column.cos()])[:, None].expand(-1, h, w)
    return torch.cat([row, column])


def rotary(t: Float[Tensor, "b heads n d"], size: Sequence[int], base: float = 100.0) -> Float[Tensor, "b heads n d"]:
    """Turn pairs of channels by angles that grow with the row (first half of d) and the column (second half) of a position.

    Of q and k turned so, the product of two positions hangs on how far apart they lie, not on where. Rotations: Su et al. 2021,
    https://arxiv.org/abs/2104.09864; axial, with this base: Heo et al. 2024, https://arxiv.org/abs/2403.13298. With d // 4 = f
    frequencies base^(-i/f), channels i and f + i of each half are a pair. Channels past 4 f are left alone: with d < 4, all.

    Args:
        t: queries or keys of h·w positions, row-major.
        size: (h, w).
        base: 1 / the slowest frequency, nearly; the slowest wave is 2π·base pixels long at most.
    """
    (h, w), count = size, t.shape[-1] // 4
    rates = base ** (-torch.arange(count, device=t.device, dtype=torch.promote_types(t.dtype, torch.float32)) / max(count, 1))
    row, column = torch.arange(h, device=t.device), torch.arange(w, device=t.device)
    places = torch.stack([row.repeat_interleave(w), column.repeat(h)], 1)  # n 2
    angles = places[..., None] * rates  # n 2 f
    cos, sin = angles.cos(), angles.sin()
    turned, rest = t.split([4 * count, t.shape[-1] - 4 * count], -1)
    a, b = turned.unflatten(-1, (2, 2, count)).unbind(-2)  # b heads n 2 f
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -2).flatten(-3)
    return torch.cat([turned.to(t.dtype), rest], -1)


class SinusoidalPositions(nn.Module):
    """x + `sinusoidal`, for images of any size; no parameters.

    Raises:
        UserError: for channels that 4 does not divide.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + sinusoidal(x.shape[1], x.shape[2:], x.device).to(x.dtype)


class LearnedPositions(nn.Module):
    """x + p, p a learned image of the size (h, w), born N(0, 0.02²): Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929.

    Args:
        channels: c.
        size: (h, w).

    Raises:
        UserError: for images of another size.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(channels, *size))
        nn.init.normal_(self.table, std=0.02)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if x.shape[1:] != self.table.shape:
            made, came = ("×".join(map(str, shape)) for shape in (self.table.shape, x.shape[1:]))
            raise UserError(f"learned positions of {made} got an input of {came}; make them for its size, or take sinusoidal ones")
        return x + self.table
