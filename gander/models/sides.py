"""Resolution is a number; which feature maps a network has follows from it.

A *side* is the height and width of a square feature map: 4, 8, 16, ... up to the resolution.
"""

from collections.abc import Sequence

from torch import nn

from gander.attention import build
from gander.errors import UserError


def sides(resolution: int) -> list[int]:
    """4, 8, ..., resolution. UserError unless it is a power of two from 16 to 256."""
    if resolution not in (16, 32, 64, 128, 256):
        raise UserError(f"resolution {resolution} is not one of 16, 32, 64, 128, 256 (a power of two); take the nearest of them")
    return [4 << k for k in range(resolution.bit_length() - 2)]


def attention_sides(at: Sequence[int] | None, resolution: int, attention: str, known: Sequence[int]) -> tuple[int, ...]:
    """Where attention goes: as asked, else at min(32, resolution / 2) in both networks.

    `known` are the sides that one of the two networks has: UserError for another. Of attention none nothing is placed: an arm of a
    comparison.
    """
    if at is None:
        return (min(32, resolution // 2),)
    for side in at:
        if side not in known:
            raise UserError(f"attention at {side}, but a network of resolution {resolution} has no such feature map; "
                            f"there are: {', '.join(map(str, known))}")  # fmt: skip
    return tuple(sorted(set(at)))


def attend_at(side: int, at: Sequence[int], attention: str, channels: int) -> list[nn.Module]:
    """The attention layer for this side, or nothing: made to be unpacked into a list of layers."""
    return [build(attention, channels, (side, side))] if side in at and attention != "none" else []
