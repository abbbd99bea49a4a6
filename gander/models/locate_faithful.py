"""LocAtE v1.3 (2020): the forward of its code with the gradients that belong to it. The mended form is `gander.models.locate`.

    y = skip(x) · (1 + g · f(norm(x) · s + b)):   f a convolution unit, or an attention whose shares are not rescaled

Kept: one mean and variance for the whole batch, without eps, also in eval mode; the latent's vector s in the place of the norm's
gain; feature pooling that scrambles positions; g born 0 or 2 (attention, the discriminator's stem), 3 or 5 (convolutions); a
constant input drawn once, which here is a buffer, so that a checkpoint holds it. Weights are torch's own at birth: the source's
orthogonal ones never reached them.

Not kept: the gradient of g that its code has by mistake, and RootTanh's. Spectral norm is applied from outside, to both.

At 128 px and width 48: 56,398,266 and 46,846,560 parameters.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.attention import FeatureAttention, SpatialSoftmaxGate, build
from gander.layers.activations import RootTanh
from gander.layers.blocks import Skip, bottleneck
from gander.layers.scalar_norm import ScalarNorm
from gander.models.locate import Chain, sides
from gander.models.sides import attention_sides


class Block(nn.Module):
    """y = skip(x) · (1 + g · conv(norm(x))). `scale` (b, before), where given, is the norm's gain; g is `least` or 2 more."""

    def __init__(self, before: int, after: int, change: str, *, least: int, normed: bool = True) -> None:
        super().__init__()
        self.skip = Skip(before, after, change, scrambled=True)
        self.norm = _norm(before) if normed else None
        self.conv = bottleneck(before, after, change, kernel=5 if change == "down" else 4)
        self.gamma = nn.Parameter(_born(least))

    def forward(self, x: Float[Tensor, "b c h w"], scale: Float[Tensor, "b c"] | None = None) -> Float[Tensor, "b d h2 w2"]:
        y = x if self.norm is None else self.norm(x, scale)
        return self.skip(x) * (1 + self.gamma * self.conv(y))


class Gate(nn.Module):
    """y = x · (1 + g · a(norm(x))), a the shares of one of LocAtE's two attentions; g is 0 or 2."""

    def __init__(self, channels: int, layer: FeatureAttention | SpatialSoftmaxGate) -> None:
        super().__init__()
        self.norm, self.layer = _norm(channels), layer
        self.layer.gamma = nn.Parameter(_born(0))

    def forward(self, x: Float[Tensor, "b c h w"], scale: Float[Tensor, "b c"] | None = None) -> Float[Tensor, "b c h w"]:
        return self.layer(x, self.norm(x, scale))


def _norm(channels: int) -> ScalarNorm:
    norm = ScalarNorm(channels, eps=0.0)
    assert norm.weight is not None
    nn.init.uniform_(norm.weight, 0.998, 1.002)
    return norm


def _born(least: int) -> Float[Tensor, ""]:
    """An orthogonal 1×1 matrix, ±1, plus `least` + 1."""
    return torch.randint(2, ()) * 2.0 + least


def _attend(attention: str, channels: int, side: int) -> list[nn.Module]:
    """LocAtE's own two with norm and gain, in their order; others as they are."""
    layers: list[nn.Module] = []
    for key in (name.strip() for name in attention.split("+")):
        if key == "feature":
            layers.append(Gate(channels, FeatureAttention(channels, size=(side, side), rescale=False)))
        elif key == "gate":
            layers.append(Gate(channels, SpatialSoftmaxGate(channels, rescale=False)))
        else:
            layers.append(build(key, channels, (side, side)))
    return layers


def _places(at: Sequence[int] | None, resolution: int, attention: str, known: Sequence[int]) -> tuple[int, ...]:
    """As asked; else every second of `known`, the sides behind this network's blocks, that is 8 or more."""
    if at is None:
        return tuple(side for side in known[::2] if side >= 8) if attention != "none" else ()
    return attention_sides(at, resolution, attention, sides(resolution))


def _four(width: int) -> int:
    """A multiple of 4, at least 4."""
    return max(4, width // 4 * 4)


class Generator(nn.Module):
    """latent (b, latent_dim) -> a constant 2×2, [block ×2, gates], RootTanh, conv 3×3, RootTanh, conv 1×1, tanh.

    Widths are width·2^k, k counted from the image, down to a multiple of 4; the constant has `latent_dim` channels. Labels are
    ignored. Raises UserError for an unknown attention, a resolution or an attention side that it cannot have.
    """

    num_classes = 0
    constant: Tensor

    def __init__(
        self,
        resolution: int = 128,
        *,
        channels: int = 3,
        width: int = 48,
        latent_dim: int = 128,
        attention: str = "feature+gate",
        attention_at: Sequence[int] | None = None,
    ):
        super().__init__()
        self.resolution, self.latent_dim = resolution, latent_dim
        at = _places(attention_at, resolution, attention, sides(resolution))
        self.register_buffer("constant", torch.randn(1, latent_dim, 2, 2))
        blocks: list[nn.Module] = []
        before, widths = latent_dim, []
        for side in sides(resolution):
            after = _four(width * resolution // side)
            layers = _attend(attention, after, side) if side in at else []
            blocks += [Block(before, after, "up", least=3), *layers]
            widths += [before, *(after for layer in layers if isinstance(layer, Gate))]  # of what each norm gets
            before = after
        self.blocks = nn.ModuleList(blocks)
        self.chain = Chain(latent_dim, widths)
        inner, outer = nn.Conv2d(before, before, 3, padding=1, bias=False), nn.Conv2d(before, channels, 1, bias=False)
        self.to_image = nn.Sequential(RootTanh(), inner, RootTanh(), outer, nn.Tanh())
        self.apply(_zero_biases)

    def forward(self, latent: Float[Tensor, "b d"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b c h w"]:
        x, scales = self.constant.expand(len(latent), -1, -1, -1), iter(self.chain(latent))
        for block in self.blocks:
            x = block(x, next(scales)) if isinstance(block, (Block, Gate)) else block(x)
        return self.to_image(x)


class Discriminator(nn.Module):
    """images -> [block / 2, gates] down to 1×1, RootTanh, conv 3×3, RootTanh, conv 1×1 -> logits (b,).

    Widths are 2/3·width·2^k, k counted from half the image's side, down to a multiple of 4; the last block keeps its width. The
    first has no norm.
    """

    num_classes = 0

    def __init__(
        self,
        resolution: int = 128,
        *,
        channels: int = 3,
        width: int = 48,
        attention: str = "feature+gate",
        attention_at: Sequence[int] | None = None,
    ):
        super().__init__()
        self.resolution = resolution
        below = [resolution >> k for k in range(2, resolution.bit_length())]  # behind the stem: resolution / 4 ... 1
        at = _places(attention_at, resolution, attention, below)
        before = _four(2 * width // 3)
        layers: list[nn.Module] = [Block(channels, before, "down", least=0, normed=False)]
        layers += _attend(attention, before, resolution // 2) if resolution // 2 in at else []
        for k, side in enumerate(below, start=1):
            after = _four(2 * width * 2 ** min(k, len(below) - 1) // 3)
            layers += [Block(before, after, "down", least=3), *(_attend(attention, after, side) if side in at else [])]
            before = after
        inner, outer = nn.Conv2d(before, before, 3, padding=1, bias=False), nn.Conv2d(before, 1, 1, bias=False)
        self.layers = nn.Sequential(*layers, RootTanh(), inner, RootTanh(), outer)
        self.apply(_zero_biases)

    def forward(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b"]:
        return self.layers(images).flatten()


def _zero_biases(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
