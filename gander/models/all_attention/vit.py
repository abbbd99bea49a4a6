"""A discriminator of attention alone: the vision transformer of ViTGAN (Lee et al. 2021, https://arxiv.org/abs/2107.04589).

Overlapping patches, so that it does not learn the borders of its own grid; L2 attention. The paper holds every weight at the
singular value it was born with: `spectral_norm(discriminator, scale="initial")`, from outside. Attention of products
(`attention="product"`) has no Lipschitz constant and asks for R1 and R2 instead; both have second derivatives.

At 32 px with the defaults: 10.0 million parameters. By default a patch is an eighth of the resolution, from 2 to 16 pixels, and
overlaps its neighbours by half of that: 8×8 tokens up to 128 px, 16×16 at 256.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gander.errors import UserError, unknown
from gander.layers.minibatch_stddev import MinibatchStddev
from gander.layers.positions import sinusoidal
from gander.models.all_attention.tokens import Block, linear

POOLS = ("token", "mean")


class Patches(nn.Module):
    """images -> tokens (b, n, d), row by row: a linear layer on squares of patch + 2·overlap pixels, one every `patch` pixels.

    What lies outside the image is zeros. To each its place is added: a learned vector of it, born N(0, 0.02²); without a resolution
    sines and cosines, for images of any size that the patch divides.

    Raises:
        UserError: for a patch that does not divide the image's side, an overlap below 0, and images of another size.
    """

    def __init__(self, resolution: int | None, patch: int, overlap: int, channels: int, d: int) -> None:
        super().__init__()
        if patch < 1 or overlap < 0:
            raise UserError(f"patches of {patch} pixels that overlap by {overlap} are none; take 1 and 0 at least")
        self.resolution, self.patch, self.overlap = resolution, patch, overlap
        self.linear = linear(channels * (patch + 2 * overlap) ** 2, d)
        self.places = None
        if resolution is not None:
            self._check(resolution, resolution)
            self.places = nn.Parameter(torch.empty((resolution // patch) ** 2, d))
            nn.init.normal_(self.places, std=0.02)

    def _check(self, *size: int) -> None:
        for side in size:
            if side % self.patch or not side:
                fit = ", ".join(str(p) for p in range(1, side // 2 + 1) if side % p == 0)
                raise UserError(f"patch {self.patch} does not divide the resolution {side}; those that do: {fit or 1}")

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        size = images.shape[2:]
        if self.resolution is not None and size != (self.resolution, self.resolution):
            raise UserError(
                f"images of {size[0]}×{size[1]} came to a network that was made for {self.resolution}×{self.resolution}"
            )
        self._check(*size)
        squares = F.unfold(images, self.patch + 2 * self.overlap, padding=self.overlap, stride=self.patch)
        tokens = self.linear(squares.mT)
        if self.places is not None:
            return tokens + self.places
        places = sinusoidal(tokens.shape[2], [side // self.patch for side in size], tokens.device)
        return tokens + places.flatten(1).mT.to(tokens.dtype)


class ImageHead(nn.Module):
    """h (b, d), labels -> logits (b,): v·φ + bias + <embedding of the label, φ>,   φ = gelu(linear([h, s])).

    s is the standard deviation of the image's group, see `gander.layers.minibatch_stddev`; without `stddev` there is none. The
    embedding is the projection of Miyato and Koyama 2018, https://arxiv.org/abs/1802.05637.
    """

    def __init__(self, d: int, num_classes: int, stddev: bool) -> None:
        super().__init__()
        self.stddev = MinibatchStddev() if stddev else nn.Identity()
        self.hidden, self.linear = linear(d + stddev, d), linear(d, 1)
        self.embedding = embedding(num_classes, d)

    def forward(self, h: Float[Tensor, "b d"], labels: Int[Tensor, "b"] | None) -> Float[Tensor, "b"]:
        h = F.gelu(self.hidden(self.stddev(h)))
        logits = self.linear(h).flatten()
        return logits if self.embedding is None else logits + torch.linalg.vecdot(self.embedding(needed(labels)), h)


def embedding(num_classes: int, d: int) -> nn.Embedding | None:
    """A vector for each class, Glorot-uniform; None where there are no classes."""
    if not num_classes:
        return None
    table = nn.Embedding(num_classes, d)
    nn.init.xavier_uniform_(table.weight)
    return table


def needed(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("this network was made for classes and needs labels")
    return labels


class Discriminator(nn.Module):
    """images, labels (b,) -> logits (b,).

    Patches, with a score token before them where the pool is one; blocks; a norm; the score token, or the mean; `ImageHead`.

    Args:
        resolution: of the images; the patch divides it.
        channels: of the images.
        num_classes: 0 for none.
        width: of a token; depth: blocks; heads: of 64 channels by default.
        patch: its side in pixels; overlap: on each of its sides. None is as said above.
        attention: a kind of `gander.models.all_attention.tokens.Attention`.
        pool: token or mean.
        stddev: mini-batch standard deviation.

    Raises:
        UserError: for a patch that does not fit, an unknown pool or attention, images of another size.
        ValueError: where labels are needed and missing.
    """

    def __init__(
        self,
        resolution: int = 32,
        *,
        channels: int = 3,
        num_classes: int = 0,
        width: int = 384,
        depth: int = 6,
        heads: int | None = None,
        patch: int | None = None,
        overlap: int | None = None,
        attention: str = "l2",
        pool: str = "token",
        stddev: bool = True,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        self.resolution, self.num_classes = resolution, num_classes
        patch = min(16, max(2, resolution // 8)) if patch is None else patch
        self.patches = Patches(resolution, patch, patch // 2 if overlap is None else overlap, channels, width)
        self.score = nn.Parameter(torch.empty(1, 1, width)) if pool == "token" else None
        if self.score is not None:
            nn.init.normal_(self.score, std=0.02)
        self.blocks = nn.ModuleList(
            Block(width, heads, kind=attention, prefix=int(pool == "token"), scale=1.0) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = ImageHead(width, num_classes, stddev)

    def forward(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b"]:
        tokens = self.patches(images)
        if self.score is not None:
            tokens = torch.cat([self.score.expand(len(tokens), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens.mean(1) if self.score is None else tokens[:, 0], labels)
