from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gander.attention.self_attention import convolved
from gander.errors import UserError
from gander.layers.positions import rotary

Queries = Int[Tensor, "q"] | Sequence[int] | None


class Heads(nn.Module):
    """What the layers of several heads share: 1×1 convolutions to the operands of each head, and back: y = x + γ · output(o).

    `query`, `key` (none where `tied`: a key is made of the query's features) and `value` give every head its d = c / heads
    channels, rounded down, at least 1; `output` takes the heads, side by side, back to c. No biases. Born Glorot-uniform, γ = 0.

    Args:
        channels: c.
        heads: of 64 channels by default, at least `least`.
        tied: no `key`.
        qk_norm: queries and keys are divided by their root mean square and multiplied by a learned gain of each of the d
            channels, all heads alike, born 1: what keeps scores from growing without end.
        rotary: see `gander.layers.rotary`.

    Raises:
        UserError: for less than `least` heads, or more than channels.
    """

    map_kind = "rows"

    def __init__(
        self, channels: int, heads: int | None, *, least: int = 1, tied: bool = False, qk_norm: bool = False, rotary: bool = False
    ) -> None:
        super().__init__()
        most = max(least, channels)
        if heads is not None and not least <= heads <= most:
            raise UserError(f"{type(self).__name__} got heads={heads} for {channels} channels; take {least} to {most}")
        self.heads = heads or max(least, channels // 64)
        self.width = max(1, channels // self.heads)
        self.scale, self.rotary = self.width**-0.5, rotary
        inner = self.heads * self.width
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        if not tied:
            self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, inner, 1, bias=False)
        self.output = nn.Conv2d(inner, channels, 1, bias=False)
        self.gains = nn.Parameter(torch.ones(2, self.width)) if qk_norm else None
        self.gamma = nn.Parameter(torch.zeros(()))
        for conv in self.children():
            nn.init.xavier_uniform_(conv.weight)  # type: ignore[arg-type]

    def operands(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, each (b, heads, h·w, d)."""
        q, k, v = self.split(x, self.query, self.key, self.value)
        if self.gains is not None:
            q, k = (normed(t, gain) for t, gain in zip((q, k), self.gains, strict=True))
        if self.rotary:
            q, k = (rotary(t, x.shape[2:]) for t in (q, k))
        return q, k, v

    def split(self, x: Float[Tensor, "b c h w"], *convs: nn.Module) -> list[Tensor]:
        """conv(x) for each of `convs`, as (b, heads, h·w, d)."""
        found = convolved(x, convs, torch.channels_last)
        return [t.flatten(2).mT.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in found]

    def back(self, x: Float[Tensor, "b c h w"], o: Float[Tensor, "b heads n d"]) -> Float[Tensor, "b c h w"]:
        """x + γ · output(o)."""
        o = o.transpose(1, 2).flatten(2).mT.unflatten(2, x.shape[2:])
        (o,) = convolved(o, [self.output], torch.contiguous_format if x.is_contiguous() else torch.channels_last, self.gamma)
        return x + o

    def extra_repr(self) -> str:
        return f"heads={self.heads}, width={self.width}"


def maps(
    q: Float[Tensor, "b heads n d"],
    k: Float[Tensor, "b heads n d"],
    scale: float,
    size: Sequence[int],
    queries: Queries,
    seen: Bool[Tensor, "... n"] | None = None,
) -> Float[Tensor, "b heads q *size"]:
    """softmax(scale · q kᵀ) of the `queries` over the keys that are `seen`, all by default, as images of `size`."""
    scores = asked(q, queries) * scale @ k.mT
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).unflatten(-1, tuple(size))


def asked(t: Tensor, queries: Queries) -> Tensor:
    """The rows `queries` of (..., n, d), all of them by default."""
    return t if queries is None else t[..., torch.as_tensor(queries, dtype=torch.long, device=t.device), :]


def normed(t: Float[Tensor, "... d"], gain: Float[Tensor, "d"]) -> Float[Tensor, "... d"]:
    """t / its root mean square · gain, of float32 at least."""
    wide = t.to(torch.promote_types(t.dtype, torch.float32))
    return (F.rms_norm(wide, wide.shape[-1:], eps=1e-6) * gain).to(t.dtype)
