"""What networks without convolution are built of: blocks on tokens (b, n, d), all of linear layers and attention.

    h ← h + α₁ · Attention(Norm(h; w)),   h ← h + α₂ · MLP(Norm(h; w)),   Norm(h; w) = γ(w) · (h - μ) / σ + β(w)

The norm modulated by a style w: Chen et al. 2019, https://arxiv.org/abs/1810.01365; of tokens, ViTGAN, Lee et al. 2021,
https://arxiv.org/abs/2107.04589. α: LayerScale, Touvron et al. 2021, https://arxiv.org/abs/2103.17239.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.attention.heads import Queries, maps, normed
from gander.attention.kernels import attend
from gander.attention.l2 import as_products, by_distance
from gander.attention.lsh import buckets, by_hash, met
from gander.attention.window import in_windows, together, windows
from gander.errors import UserError, unknown
from gander.layers.positions import rotary
from gander.layers.reversible import ReversibleSequence

KINDS = ("product", "l2", "window", "lsh")
SCALE = 1e-2  # LayerScale at birth


class Attention(nn.Module):
    """tokens -> output(o),   o_h = softmax(q_h k_hᵀ / √d_h) v_h for each head h: linear layers without biases, Glorot-uniform.

    | kind    | what differs                                                                                               |
    |---------|------------------------------------------------------------------------------------------------------------|
    | product | queries and keys have root mean square 1 times a learned gain; see `gander.attention.MultiHeadAttention`     |
    | window  | the same inside squares of pixels, those of half of the heads shifted by half: `WindowAttention`           |
    | l2      | softmax(-|q_i - q_j|² / √d_h): query and key are one, born ⁴√d_h smaller: `L2Attention`, values untied        |
    | lsh     | query and key are one; only pairs of one bucket, in training by a hash of each forward: `LSHAttention`     |

    Shapes: (b, n, d), context (b, m, c) -> (b, n, d); without a context keys and values are those of the tokens themselves.

    Where the tokens are an image, which `size` or `prefix` says, `gander.look` can ask for `weights`, and `map_kind` is "rows".
    Of other tokens, as those of a latent, and of a context it is None: they have no places to draw.

    Args:
        d: of a token.
        heads: of 64 channels by default, at least 1, and 2 for windows. The width of one is d / heads, rounded down.
        context: c, where keys and values come from elsewhere.
        kind: of the table; all but `product` look at the tokens themselves alone.
        size: (h, w), where tokens are the pixels of an image, row by row: then queries and keys of `product` and `window` are
            turned by their place, see `gander.layers.rotary`. `window` needs it.
        prefix: where tokens are those of a square image, their places not told to attention: how many others stand before them,
            as 1 for a score token.
        window: the side of a window.
        bucket: the most positions of a chunk of `lsh`, with `rounds` hashes.

    Raises:
        UserError: for an unknown kind, more heads than channels, a context for another kind than `product`, windows without a size.
    """

    def __init__(
        self,
        d: int,
        heads: int | None = None,
        *,
        context: int | None = None,
        kind: str = "product",
        size: tuple[int, int] | None = None,
        prefix: int | None = None,
        window: int = 8,
        bucket: int = 64,
        rounds: int = 4,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown("attention on tokens", kind, KINDS)
        least = 2 if kind == "window" else 1
        if not least <= (least if heads is None else heads) <= d:
            raise UserError(f"{kind} attention on tokens got heads={heads} for {d} channels; take {least} to {d}")
        if context is not None and kind != "product":
            raise UserError(f"{kind} attention has its queries for keys, and no context; take kind product")
        if kind == "window" and size is None:
            raise UserError("window attention on tokens needs the size (h, w) of the image that they are")
        self.kind, self.size, self.window, self.bucket, self.rounds = kind, size, window, bucket, rounds
        self.prefix = 0 if size is not None or prefix is None else prefix
        self.map_kind = "rows" if context is None and (size, prefix) != (None, None) else None
        self.heads = max(least, d // 64) if heads is None else heads
        width = d // self.heads
        self.scale = width**-0.5
        source, inner, tied = d if context is None else context, self.heads * width, kind in ("l2", "lsh")
        self.query = nn.Linear(d, inner, bias=False)
        self.key = None if tied else nn.Linear(source, inner, bias=False)
        self.value = nn.Linear(source, inner, bias=False)
        self.output = nn.Linear(inner, d, bias=False)
        self.gains = None if tied else nn.Parameter(torch.ones(2, width))
        for part in (self.query, self.key, self.value, self.output):
            if part is not None:
                nn.init.xavier_uniform_(part.weight)
        if kind == "l2":  # at the others' scale |q_i - q_j|² / √d_h is 2 √d_h between normed tokens: each would see itself alone
            nn.init.xavier_uniform_(self.query.weight, width**-0.25)

    def forward(self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m c"] | None = None) -> Float[Tensor, "b n d"]:
        q, k = self.operands(x, context)
        v = self._split(self.value(x if context is None else context))
        if self.kind == "l2":
            o = by_distance(q, v, self.scale)
        elif self.kind == "lsh":
            o = by_hash(q, v, self.scale, self.bucket, self.rounds, fixed=not self.training)
        elif self.kind == "window" and self.size is not None:
            q, k, v = (t.unflatten(2, self.size) for t in (q, k, v))
            o = in_windows(q, k, v, windows(self.heads, self.size, self.window), self.scale).flatten(2, 3)
        else:
            o = attend(q, k, v, self.scale)
        return self.output(o.transpose(1, 2).flatten(2))

    def operands(self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m c"] | None = None) -> tuple[Tensor, Tensor]:
        """q (b, heads, n, d_h) and k (b, heads, m, d_h): for `l2` and `lsh` the same."""
        q = self._split(self.query(x))
        if self.key is None or self.gains is None:
            return q, q
        q, k = normed(q, self.gains[0]), normed(self._split(self.key(x if context is None else context)), self.gains[1])
        if self.size is None:
            return q, k
        return rotary(q, self.size), k if context is not None else rotary(k, self.size)

    def weights(self, x: Float[Tensor, "b n d"], queries: Queries = None) -> Float[Tensor, "b heads q h w"]:
        """What the `queries` (flat row-major positions of the image; all by default) attend to in it, in each head.

        Maps of sum 1, less what goes to the tokens before the image. `lsh` is under the hash of eval mode, in any mode.

        Raises:
            UserError: for tokens that are no square image.
        """
        size = self.grid(x)
        q, k = self.operands(x)
        rows = torch.arange(self.prefix, x.shape[1], device=x.device)
        rows = rows if queries is None else rows[torch.as_tensor(queries, dtype=torch.long, device=x.device)]
        seen = None
        if self.kind == "l2":
            q, k = as_products(q)
        elif self.kind == "lsh":
            q = q.to(torch.promote_types(q.dtype, torch.float32))
            k, seen = F.normalize(q, dim=-1), met(q, self.bucket, self.rounds, rows)
        elif self.kind == "window":
            seen = together(windows(self.heads, size, self.window), size, rows, x.device)
        return maps(q, k, self.scale, x.shape[1:2], rows, seen)[..., self.prefix :].unflatten(-1, size)

    @torch.no_grad()
    def buckets(self, x: Float[Tensor, "b n d"]) -> Int[Tensor, "b heads rounds h w"] | None:
        """Of `lsh` the bucket of each pixel in each round, under the hash of eval mode; else None."""
        if self.kind != "lsh":
            return None
        return buckets(self.operands(x)[0], self.bucket, self.rounds)[..., self.prefix :].unflatten(-1, self.grid(x))

    def grid(self, x: Float[Tensor, "b n d"]) -> tuple[int, int]:
        """(h, w) of the image that the tokens are. UserError where they are none."""
        if self.size is not None:
            return self.size
        side = isqrt(x.shape[1] - self.prefix)
        if side**2 != x.shape[1] - self.prefix:
            raise UserError(f"{x.shape[1] - self.prefix} tokens are no square image, where attention could look; take a square one")
        return side, side

    def _split(self, t: Float[Tensor, "b n inner"]) -> Float[Tensor, "b heads n d"]:
        return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"{self.kind!r}, heads={self.heads}" + (f", size={self.size}" if self.size else "")


class MLP(nn.Sequential):
    """linear to `ratio` · d, GELU, linear to `out`, d by default. Glorot-uniform, biases 0."""

    def __init__(self, d: int, ratio: int = 4, out: int | None = None) -> None:
        super().__init__(linear(d, ratio * d), nn.GELU(), linear(ratio * d, out or d))


def linear(before: int, after: int) -> nn.Linear:
    """Glorot-uniform, its bias 0."""
    layer = nn.Linear(before, after)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ModulatedNorm(nn.Module):
    """γ(w) · (h - μ) / σ + β(w), μ and σ those of a token; γ and β linear in the style w (b, `style`), born 1 and 0 for any w.

    Without `style`, γ and β are learned vectors: layer norm.
    """

    def __init__(self, d: int, style: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d, elementwise_affine=style is None)
        self.modulation = None if style is None else nn.Linear(style, 2 * d)
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            self.modulation.bias.data[:d], self.modulation.bias.data[d:] = 1.0, 0.0

    def forward(self, h: Float[Tensor, "b n d"], w: Float[Tensor, "b style"] | None = None) -> Float[Tensor, "b n d"]:
        if self.modulation is None:
            return self.norm(h)
        if w is None:
            raise ValueError("a modulated norm needs the style that it was made for")
        gain, shift = self.modulation(w)[:, None].chunk(2, -1)
        return self.norm(h) * gain + shift


class Branch(nn.Module):
    """α · inner(Norm(h; w)), α a vector, born `scale`: what a block adds. `inner` is attention or an MLP, of d channels.

    A context, where attention has one, goes through a layer norm of its own.
    """

    def __init__(
        self, d: int, inner: nn.Module, *, style: int | None = None, context: int | None = None, scale: float = SCALE
    ) -> None:
        super().__init__()
        self.norm, self.inner = ModulatedNorm(d, style), inner
        self.context_norm = None if context is None else nn.LayerNorm(context)
        self.alpha = nn.Parameter(torch.full((d,), float(scale)))

    def forward(
        self,
        h: Float[Tensor, "b n d"],
        w: Float[Tensor, "b style"] | None = None,
        context: Float[Tensor, "b m c"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        h = self.norm(h, w)
        return self.alpha * (self.inner(h) if self.context_norm is None else self.inner(h, self.context_norm(context)))


class Block(nn.Module):
    """h ← h + α₁ · Attention(Norm(h; w)),   h ← h + α₂ · MLP(Norm(h; w)).

    Args:
        d: of a token; `heads` of attention, as for `Attention`.
        style: the width of w; None for plain layer norms.
        ratio: of the MLP.
        scale: of both α at birth.
        more: for `Attention`: kind, size, window, bucket, rounds.
    """

    def __init__(
        self,
        d: int,
        heads: int | None = None,
        *,
        style: int | None = None,
        ratio: int = 4,
        scale: float = SCALE,
        **more: Any,
    ) -> None:
        super().__init__()
        self.attention = Branch(d, Attention(d, heads, **more), style=style, scale=scale)
        self.mlp = Branch(d, MLP(d, ratio), style=style, scale=scale)

    def forward(self, h: Float[Tensor, "b n d"], w: Float[Tensor, "b style"] | None = None) -> Float[Tensor, "b n d"]:
        h = h + self.attention(h, w)
        return h + self.mlp(h, w)


class Stack(nn.Module):
    """Blocks as reversible ones: h twice side by side, F their attention and G their MLPs, and the mean of the two at the end.

    tokens (b, n, d), styles (b, depth, style) -> (b, n, d). Weights are those of `depth` blocks of width d. Memory in training does
    not grow with depth: see `gander.layers.ReversibleSequence`; styles get their gradients. No second derivative.

    Args:
        d: of a token.
        kinds: the attention of each block.
        reversible: False is the same function by a plain stack, which has second derivatives.
        more: for `Block`.
    """

    def __init__(self, d: int, kinds: Sequence[str], *, reversible: bool = True, **more: Any) -> None:
        super().__init__()
        blocks = [Block(d, kind=kind, **more) for kind in kinds]
        halves = [(_Half(block.attention, i), _Half(block.mlp, i)) for i, block in enumerate(blocks)]
        self.sequence = ReversibleSequence(halves, dim=-1, reversible=reversible)

    def forward(self, h: Float[Tensor, "b n d"], styles: Float[Tensor, "b depth style"] | None = None) -> Float[Tensor, "b n d"]:
        first, second = self.sequence(torch.cat([h, h], -1), styles).chunk(2, -1)
        return (first + second) / 2


class _Half(nn.Module):
    def __init__(self, branch: Branch, i: int) -> None:
        super().__init__()
        self.branch, self.i = branch, i

    def forward(self, h: Tensor, styles: Tensor | None) -> Tensor:
        return self.branch(h, None if styles is None else styles[:, self.i])
