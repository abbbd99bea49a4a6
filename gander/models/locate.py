"""LocAtE ("location-based attention exhaustion", 2020) as its author meant it, with what its code got wrong mended.

Residual blocks of RootTanh and convolution; features weighed by where they are; the latent enters by a vector for each norm.
The form of the source is `gander.models.locate_faithful`. Mended here, besides the gradients:

| source (v1.3)                                                   | here                                                      |
|-----------------------------------------------------------------|-----------------------------------------------------------|
| y = x · (1 + g · f(x)), g born 0, 2, 3 or 5                     | y = x + γ · f(x), γ = 1 at birth; or multiplied, `mul`    |
| norm over the whole batch, so that images depend on companions  | norm of each image                                        |
| the latent's vector s in the place of the gain: near 0 at birth | 1 + s                                                     |
| constant input drawn once, 2×2, not saved                       | learned, 4×4, and scaled by 1 + s too                     |
| feature pooling that scrambles positions                        | the mean of neighbouring channels                         |
| softmax gates that sum to 1: next to nothing                    | gates of mean 1                                           |
| a first layer of 3 channels, a last one that sees 1×1           | a convolution of the image to 2·width, a logit from 4×4   |
| 48·2^k channels without end: 12,288 of them for 1024 px         | capped at 32·width, 1536                                  |

Spectral norm is applied from outside, to both.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.errors import UserError, unknown
from gander.layers.activations import RootTanh
from gander.layers.blocks import CONVOLUTIONS, Skip
from gander.layers.norms import BatchNorm
from gander.layers.reversible import ReversibleSequence
from gander.layers.scalar_norm import ScalarNorm
from gander.models.sides import attend_at, attention_sides

NORMS = ("sample", "scalar", "batch", "batch_last", "none")
RESIDUALS = ("add", "mul")


def sides(resolution: int) -> list[int]:
    """4, 8, ..., resolution. UserError unless it is a power of two from 16 to 1024."""
    if resolution not in (16, 32, 64, 128, 256, 512, 1024):
        raise UserError(
            f"resolution {resolution} cannot be reached from 4 by doubling; take one of 16, 32, 64, 128, 256, 512, 1024"
        )
    return [4 << k for k in range(resolution.bit_length() - 2)]


def _attention_sides(at: Sequence[int] | None, resolution: int, attention: str) -> tuple[int, ...]:
    """As asked; else every second side from 16 on that both networks have: 16, 64, 256. At 16 px, 8."""
    if at is None:
        return tuple(side for side in (16, 64, 256) if side < resolution) or (8,)
    return attention_sides(at, resolution, attention, sides(resolution))


def _width(side: int, resolution: int, width: int) -> int:
    """width·2^k, k counted from the images' side, capped at 32·width; in both networks."""
    if width % 2:
        raise UserError(f"width {width} is odd, and channels are cut in halves; take {width + 1}, or 48 as in the source")
    return width * min(32, resolution // side)


class Block(nn.Module):
    """y = skip(x) + γ · f(norm(x)),   or   y = skip(x) · (1 + γ · f(norm(x))):   f a unit of `CONVOLUTIONS`, γ = 1 at birth.

    `scale` (b, before), where given, is the gain of the norm, which then needs no `gain` of its own. `norm` is of each image
    (`sample`), of the batch (`scalar`), batch norm (`batch`), batch norm of f's output instead (`batch_last`: LocAtE's author saw
    it fail), or `none`.
    """

    def __init__(
        self,
        before: int,
        after: int,
        change: str,
        *,
        conv: str = "bottleneck",
        norm: str = "sample",
        residual: str = "add",
        gain: bool = True,
    ) -> None:
        super().__init__()
        for kind, name, known in (("conv", conv, CONVOLUTIONS), ("norm", norm, NORMS), ("residual", residual, RESIDUALS)):
            if name not in known:
                raise unknown(kind, name, known)
        self.residual = residual
        self.skip = Skip(before, after, change)
        self.norm = _Norm(before, norm, gain)
        self.conv = CONVOLUTIONS[conv](before, after, change)
        self.last = BatchNorm(after) if norm == "batch_last" else nn.Identity()
        self.gamma = nn.Parameter(torch.ones(()))  # of 0 it grew no faster than the rate: tried, and behind by as many steps

    def forward(self, x: Float[Tensor, "b c h w"], scale: Float[Tensor, "b c"] | None = None) -> Float[Tensor, "b d h2 w2"]:
        y, skipped = self.branch(x, scale), self.skip(x)
        return skipped + y if self.residual == "add" else skipped * (1 + y)

    def branch(self, x: Float[Tensor, "b c h w"], scale: Float[Tensor, "b c"] | None = None) -> Float[Tensor, "b d h2 w2"]:
        """γ · f(norm(x))."""
        return self.gamma * self.last(self.conv(self.norm(x, scale)))


class Half(nn.Module):
    """F or G of reversible block `i`: the branch of a block that keeps the side, on one half of the channels (`part` 0 or 1).

    Of `scales`, one (b, 2 · channels) for each reversible block of the stack, it takes its part of the i-th.
    """

    def __init__(self, channels: int, i: int, part: int, **options: Any) -> None:
        super().__init__()
        self.i, self.part = i, part
        self.block = Block(channels, channels, "same", **options)

    def forward(self, x: Float[Tensor, "b c h w"], *scales: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        return self.block.branch(x, scales[self.i].chunk(2, 1)[self.part])


class _Norm(nn.Module):
    """What stands before the convolution in one of `NORMS`; `scale` is a gain from outside."""

    def __init__(self, channels: int, kind: str, gain: bool) -> None:
        super().__init__()
        self.layer: nn.Module
        if kind in ("sample", "scalar"):
            self.layer = ScalarNorm(channels, per_sample=kind == "sample", gain=gain)
        else:
            self.layer = BatchNorm(channels, gain=gain) if kind == "batch" else nn.Identity()

    def forward(self, x: Tensor, scale: Tensor | None) -> Tensor:
        if isinstance(self.layer, ScalarNorm):
            return self.layer(x, scale)
        return self.layer(x) if scale is None else self.layer(x) * scale[..., None, None]


class Chain(nn.Module):
    """latent -> a vector s for each of `widths`: s₁ = L₁ z,  s_j = L_j [z, RootTanh(s_{j-1})];  L are linear, biases 0 at birth."""

    def __init__(self, latent_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        inputs = [latent_dim, *(latent_dim + width for width in widths[:-1])]
        linears = [nn.Linear(before, after) for before, after in zip(inputs, widths, strict=True)]
        for linear in linears:
            nn.init.zeros_(linear.bias)
        self.layers = nn.ModuleList(linears)
        self.activation = RootTanh()

    def forward(self, latent: Float[Tensor, "b d"]) -> list[Tensor]:
        vectors = [self.layers[0](latent)]
        for layer in self.layers[1:]:
            vectors.append(layer(torch.cat([latent, self.activation(vectors[-1])], 1)))
        return vectors


class Generator(nn.Module):
    """latent (b, latent_dim) -> a learned 4×4, [block ×2, attention], norm, RootTanh, conv 3×3, RootTanh, conv 1×1, tanh.

    The latent enters through the gains, 1 + s, of the 4×4 and of the norms. Widths are width·2^k counted from the image, capped
    at 32·width. `depth - 1` blocks that keep the side follow each that doubles it. Labels are ignored.

    `reversible` makes these blocks a stack y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁) on halves of the channels, each with its half of the
    latent's gains and half of a block's weights together: `gander.layers.reversible`, whose memory does not grow with `depth`.

    Raises UserError for an odd width, an unknown name, a resolution or an attention side that it cannot have, and for a norm or
    residual that cannot be reversed.
    """

    num_classes = 0

    def __init__(
        self,
        resolution: int = 128,
        *,
        channels: int = 3,
        width: int = 48,
        latent_dim: int = 128,
        depth: int = 1,
        conv: str = "bottleneck",
        norm: str = "sample",
        residual: str = "add",
        attention: str = "feature+gate",
        attention_at: Sequence[int] | None = None,
        reversible: bool = False,
    ):
        super().__init__()
        if reversible and residual == "mul":
            raise UserError("reversible blocks can only be undone where they add, and residual is mul; take residual add")
        if reversible and norm.startswith("batch"):
            raise UserError(f"reversible blocks are computed twice, and norm {norm} would count each batch twice; take norm sample")
        self.resolution, self.latent_dim = resolution, latent_dim
        at = _attention_sides(attention_at, resolution, attention)
        options: dict[str, Any] = {"conv": conv, "norm": norm, "residual": residual, "gain": False}
        before = _width(4, resolution, width)
        self.constant = nn.Parameter(torch.randn(1, before, 4, 4))
        self.blocks = nn.ModuleList(attend_at(4, at, attention, before))
        widths = [before]  # of what each vector scales
        for side in sides(resolution)[1:]:
            after = _width(side, resolution, width)
            self.blocks.append(Block(before, after, "up", **options))
            if reversible and depth > 1:
                halves = [(Half(after // 2, i, 0, **options), Half(after // 2, i, 1, **options)) for i in range(depth - 1)]
                self.blocks.append(ReversibleSequence(halves))
            else:
                self.blocks.extend(Block(after, after, "same", **options) for _ in range(depth - 1))
            self.blocks.extend(attend_at(side, at, attention, after))
            widths += [before, *[after] * (depth - 1)]
            before = after
        self.chain = Chain(latent_dim, [*widths, before])
        self.norm = _Norm(before, norm, False)
        inner = nn.Conv2d(before, before, 3, padding=1, bias=False)
        self.to_image = nn.Sequential(RootTanh(), inner, RootTanh(), nn.Conv2d(before, channels, 1), nn.Tanh())

    def forward(self, latent: Float[Tensor, "b d"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b c h w"]:
        scales = (1 + vector for vector in self.chain(latent))
        x = self.constant * next(scales)[..., None, None]
        for block in self.blocks:
            count = len(block.blocks) if isinstance(block, ReversibleSequence) else int(isinstance(block, Block))
            x = block(x, *islice(scales, count))
        return self.to_image(self.norm(x, next(scales)))


class Discriminator(nn.Module):
    """images -> conv 4×4 stride 2, [attention, block / 2] down to 4×4, RootTanh, conv 3×3, RootTanh, conv 4×4 -> logits (b,).

    Widths at each side, arguments and errors are the generator's.
    """

    num_classes = 0

    def __init__(
        self,
        resolution: int = 128,
        *,
        channels: int = 3,
        width: int = 48,
        depth: int = 1,
        conv: str = "bottleneck",
        norm: str = "sample",
        residual: str = "add",
        attention: str = "feature+gate",
        attention_at: Sequence[int] | None = None,
    ):
        super().__init__()
        self.resolution = resolution
        at = _attention_sides(attention_at, resolution, attention)
        options: dict[str, Any] = {"conv": conv, "norm": norm, "residual": residual}
        half = resolution // 2
        before = _width(half, resolution, width)
        layers: list[nn.Module] = [nn.Conv2d(channels, before, 4, 2, 1), *attend_at(half, at, attention, before)]
        for side in sides(resolution)[-3::-1]:
            after = _width(side, resolution, width)
            layers += [Block(before, after, "down", **options)]
            layers += [Block(after, after, "same", **options) for _ in range(depth - 1)]
            layers += attend_at(side, at, attention, after)
            before = after
        layers += [RootTanh(), nn.Conv2d(before, before, 3, padding=1, bias=False), RootTanh(), nn.Conv2d(before, 1, 4)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b"]:
        return self.layers(images).flatten()
