"""A discriminator that says where: of the image, of every pixel, and in boxes. Attention and linear layers alone.

    patches -> encoder, blocks at each scale -> image logit
                 |  \\-> queries that read the deepest tokens -> boxes of what is fake
                 \\-> decoder, blocks at each scale beside the encoder's -> a logit for every pixel

A U-Net as discriminator: Schönfeld et al. 2020, https://arxiv.org/abs/2002.12655. Boxes as a set: Carion et al. 2020 (DETR),
https://arxiv.org/abs/2005.12872. Both in one network, without convolution, is a proposal of 2020 that gander builds. What the heads
are paid is in `gander.cutmix`. Spectral norm, where it is wanted, is applied from outside, as for `vit`.

By default at 32 px: tokens of 2×2 pixels, at 16×16, 8×8 and 4×4; 13.6 million parameters, 7.1 of them the boxes'.
"""

from itertools import pairwise
from math import isqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.cutmix import Verdicts
from gander.errors import UserError
from gander.layers.positions import sinusoidal
from gander.models.all_attention.tokens import MLP, Attention, Block, Branch, linear
from gander.models.all_attention.vit import ImageHead, Patches, embedding, needed

FULL = 16  # the largest side whose tokens all look at each other; above it they look within windows
HEAD = 32  # channels of a head


def merged(tokens: Float[Tensor, "b n d"], k: int = 2) -> Float[Tensor, "b m e"]:
    """The tokens of a square image, each k×k neighbours as one, side by side: (b, n, d) -> (b, n / k², k²·d)."""
    side = isqrt(tokens.shape[1]) // k
    return tokens.unflatten(1, (side, k, side, k)).transpose(2, 3).flatten(3).flatten(1, 2)


def parted(tokens: Float[Tensor, "b m e"], k: int = 2) -> Float[Tensor, "b n d"]:
    """The inverse of `merged`: (b, m, k²·d) -> (b, k²·m, d)."""
    side = isqrt(tokens.shape[1])
    return tokens.unflatten(1, (side, side)).unflatten(3, (k, k, -1)).transpose(2, 3).flatten(1, 4)


def _blocks(depth: int, d: int, side: int, attention: str) -> nn.Sequential:
    kind = attention if side <= FULL else "window"
    return nn.Sequential(*(Block(d, max(2, d // HEAD), kind=kind, size=(side, side), scale=1.0) for _ in range(depth)))


class Reader(nn.Module):
    """A layer of DETR's decoder: queries look at each other, then at the tokens, then MLP; each added to them."""

    def __init__(self, d: int) -> None:
        super().__init__()
        heads = max(1, d // HEAD)
        self.queries = Branch(d, Attention(d, heads), scale=1.0)
        self.tokens = Branch(d, Attention(d, heads, context=d), context=d, scale=1.0)
        self.mlp = Branch(d, MLP(d), scale=1.0)

    def forward(self, queries: Float[Tensor, "b q d"], tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b q d"]:
        queries = queries + self.queries(queries)
        queries = queries + self.tokens(queries, context=tokens)
        return queries + self.mlp(queries)


class BoxHead(nn.Module):
    """tokens (b, side², d) -> boxes (b, q, 4) in (0, 1) and scores (b, q): learned queries through layers of `Reader`."""

    places: Tensor

    def __init__(self, d: int, side: int, queries: int, layers: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, d))
        self.register_buffer("places", sinusoidal(d, (side, side)).flatten(1).mT.contiguous(), persistent=False)
        self.layers = nn.ModuleList(Reader(d) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.box, self.score = MLP(d, 1, out=4), linear(d, 1)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b q 4"], Float[Tensor, "b q"]]:
        queries, tokens = self.queries.expand(len(tokens), -1, -1), tokens + self.places
        for layer in self.layers:
            queries = layer(queries, tokens)
        queries = self.norm(queries)
        return self.box(queries).sigmoid(), self.score(queries).squeeze(2)


class PixelHead(nn.Module):
    """tokens (b, n, d), labels -> a logit for every pixel (b, 1, h, w), `patch`² from each token.

    With classes <embedding of the label, token> is added to those of a token: the source adds it to each pixel.
    """

    def __init__(self, d: int, patch: int, num_classes: int) -> None:
        super().__init__()
        self.patch, self.norm, self.linear = patch, nn.LayerNorm(d), linear(d, patch**2)
        self.embedding = embedding(num_classes, d)

    def forward(self, tokens: Float[Tensor, "b n d"], labels: Int[Tensor, "b"] | None) -> Float[Tensor, "b 1 h w"]:
        tokens = self.norm(tokens)
        logits = self.linear(tokens)
        if self.embedding is not None:
            logits = logits + tokens @ self.embedding(needed(labels))[..., None]
        logits, side = parted(logits, self.patch), isqrt(tokens.shape[1]) * self.patch
        return logits.view(-1, 1, side, side)


class Discriminator(nn.Module):
    """images, labels (b,) -> logits (b,); `verdicts(images, labels)` -> image, pixels, boxes, scores.

    `forward` runs no more than the image's logit needs: the encoder. Without the image's head it is the mean of the pixels' logits.

    Args:
        resolution: of the images.
        channels: of the images.
        num_classes: 0 for none.
        width: of a token at the largest scale, a multiple of 4; at each next one it is doubled.
        scales: how many; each has half the side of the one before.
        depth: blocks at each scale, in the encoder and in the decoder.
        patch: its side in pixels; overlap: on each of its sides. By default 2 up to 32 px, 4 above; and half of it.
        attention: a kind of `gander.models.all_attention.tokens.Attention`; sides above 16 tokens have windows.
        image, pixels: whether there is a head.
        queries: of the boxes' head; 0 is none. layers: through which they go.
        stddev: mini-batch standard deviation, before the image's logit.

    Raises:
        UserError: for a resolution, patch or number of scales that do not fit, an unknown attention, no head for image or pixels.
        ValueError: where labels are needed and missing.
    """

    def __init__(
        self,
        resolution: int = 32,
        *,
        channels: int = 3,
        num_classes: int = 0,
        width: int = 96,
        scales: int = 3,
        depth: int = 2,
        patch: int | None = None,
        overlap: int | None = None,
        attention: str = "l2",
        image: bool = True,
        pixels: bool = True,
        queries: int = 16,
        layers: int = 3,
        stddev: bool = True,
    ) -> None:
        super().__init__()
        if not (image or pixels):
            raise UserError("a discriminator of boxes alone has no logit for an image; leave it the image's head or the pixels'")
        if width < 4 or width % 4:
            raise UserError(
                f"width {width} is no multiple of 4, which windows and the sines of places need; take {max(4, width + -width % 4)}"
            )
        patch = (2 if resolution <= 32 else 4) if patch is None else patch
        self.resolution, self.num_classes = resolution, num_classes
        self.patches = Patches(resolution, patch, patch // 2 if overlap is None else overlap, channels, width)
        sides = _sides(resolution, patch, scales)
        widths = [width << i for i in range(scales)]
        self.down = nn.ModuleList(_blocks(depth, d, side, attention) for d, side in zip(widths, sides, strict=True))
        self.merge = nn.ModuleList(linear(4 * d, after) for d, after in pairwise(widths))
        self.norm = nn.LayerNorm(widths[-1])
        self.image = ImageHead(widths[-1], num_classes, stddev) if image else None
        self.boxes = BoxHead(widths[-1], sides[-1], queries, layers) if queries else None
        self.pixels = PixelHead(width, patch, num_classes) if pixels else None
        steps = list(zip(widths, sides, strict=True))[-2::-1] if pixels else []
        self.part = nn.ModuleList(linear(2 * d, 4 * d) for d, _ in steps)
        self.join = nn.ModuleList(linear(2 * d, d) for d, _ in steps)
        self.up = nn.ModuleList(_blocks(depth, d, side, attention) for d, side in steps)

    def forward(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b"]:
        *scales, deepest = self._encode(images)
        if self.image is not None:
            return self.image(deepest.mean(1), labels)
        return self._decode(scales, deepest, labels).mean((1, 2, 3))

    def verdicts(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b"] | None = None) -> Verdicts:
        """What every head says; None for those that are off."""
        *scales, deepest = self._encode(images)
        image = None if self.image is None else self.image(deepest.mean(1), labels)
        pixels = None if self.pixels is None else self._decode(scales, deepest, labels)
        boxes, scores = (None, None) if self.boxes is None else self.boxes(deepest)
        return Verdicts(image, pixels, boxes, scores)

    def _encode(self, images: Tensor) -> list[Tensor]:
        """The tokens of each scale, from the largest to the smallest, which is normed."""
        found = [self.down[0](self.patches(images))]
        for merge, blocks in zip(self.merge, list(self.down)[1:], strict=True):
            found.append(blocks(merge(merged(found[-1]))))
        return [*found[:-1], self.norm(found[-1])]

    def _decode(self, scales: list[Tensor], tokens: Tensor, labels: Tensor | None) -> Tensor:
        assert self.pixels is not None
        for beside, part, join, blocks in zip(reversed(scales), self.part, self.join, self.up, strict=True):
            tokens = blocks(join(torch.cat([parted(part(tokens)), beside], -1)))
        return self.pixels(tokens, labels)


def _sides(resolution: int, patch: int, scales: int) -> list[int]:
    side = resolution // patch
    if scales < 1 or side % 2 ** (scales - 1):
        fit = ", ".join(str(1 + k) for k in range(side.bit_length()) if side % 2**k == 0)
        raise UserError(f"{scales} scales of {side}×{side} tokens (resolution {resolution}, patch {patch}) cannot be halved so; "
                        f"numbers of scales that can: {fit}")  # fmt: skip
    return [side >> i for i in range(scales)]
