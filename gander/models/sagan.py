"""SAGAN as its authors released it (Zhang et al. 2018, arXiv:1805.08318; brain-research/self-attention-gan).

Residual blocks, conditional batch norm in the generator, a projection discriminator with sum pooling. Without classes the
same networks are unconditional: plain batch norm, no projection. Spectral norm is applied from outside, to both.

At 128 px, 1000 classes and width 64: 42,078,852 and 39,463,618 parameters.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gander.layers.norms import BatchNorm, ConditionalBatchNorm
from gander.layers.resampling import DownConv2d, UpConv2d
from gander.models.sides import attend_at, attention_sides, sides


def _width(side: int, top: int, width: int) -> int:
    """width·2^k, k counted from the `top` side, capped at 16·width."""
    return width * min(16, top // side)


def _initialise(layer: nn.Module) -> None:
    """Glorot-uniform weights, zero biases: torch's own defaults are others, and SAGAN is sensitive to them."""
    if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
        nn.init.xavier_uniform_(layer.weight)
        if not isinstance(layer, nn.Embedding) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


class UpBlock(nn.Module):
    """norm, ReLU, ×2, conv 3×3, norm, ReLU, conv 3×3; plus ×2, conv 1×1 of the input.

    The 1×1 convolution of the shortcut runs before the upsampling: the same function at a quarter of the work. So does
    `folded`, see `gander.layers.resampling`.
    """

    def __init__(self, before: int, after: int, num_classes: int, statistics: str, *, folded: bool = False):
        super().__init__()
        self.norm1 = _norm(before, num_classes, statistics)
        self.conv1 = UpConv2d(before, after, folded=folded)
        self.norm2 = _norm(after, num_classes, statistics)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Float[Tensor, "b c h w"], *labels: Int[Tensor, "b"]) -> Float[Tensor, "b d h2 w2"]:
        y = self.conv1(self.norm1(x, *labels).relu())
        y = self.conv2(self.norm2(y, *labels).relu())
        return y + F.interpolate(self.shortcut(x), scale_factor=2.0)


def _norm(channels: int, num_classes: int, statistics: str) -> nn.Module:
    if num_classes:
        return ConditionalBatchNorm(channels, num_classes, statistics=statistics)
    return BatchNorm(channels, momentum=0.001, statistics=statistics)


class Generator(nn.Module):
    """latent (b, latent_dim), labels (b,) -> images (b, channels, resolution, resolution) in [-1, 1].

    Labels enter through the conditional batch norms only. `statistics="process"` is the official code's batch norm (one
    set of statistics a tower); "global" is of the whole batch. `folded` computes upsampling and convolution as one, exactly.
    Raises UserError for an impossible resolution or attention side, ValueError where a conditional generator gets no labels.
    """

    def __init__(
        self,
        resolution: int = 128,
        *,
        channels: int = 3,
        num_classes: int = 0,
        width: int = 64,
        latent_dim: int = 128,
        attention: str = "self",
        attention_at: Sequence[int] | None = None,
        statistics: str = "global",
        folded: bool = False,
    ):
        super().__init__()
        self.resolution, self.latent_dim, self.num_classes = resolution, latent_dim, num_classes
        at = attention_sides(attention_at, resolution, attention, sides(resolution))
        before = _width(4, resolution, width)
        self.linear = nn.Linear(latent_dim, before * 16)
        self.blocks = nn.ModuleList()
        for side in sides(resolution)[1:]:
            after = _width(side, resolution, width)
            self.blocks.append(UpBlock(before, after, num_classes, statistics, folded=folded))
            self.blocks.extend(attend_at(side, at, attention, after))
            before = after
        self.norm = BatchNorm(before, momentum=0.0001, statistics=statistics)
        self.to_image = nn.Conv2d(before, channels, 3, padding=1)
        self.apply(_initialise)

    def forward(self, latent: Float[Tensor, "b d"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b c h w"]:
        if self.num_classes and labels is None:
            raise ValueError(f"this generator was made for {self.num_classes} classes and needs labels")
        condition = (labels,) if self.num_classes else ()
        x = self.linear(latent).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            x = block(x, *condition) if isinstance(block, UpBlock) else block(x)
        return self.to_image(self.norm(x).relu()).tanh()


class DownBlock(nn.Module):
    """[ReLU], conv 3×3, ReLU, conv 3×3, mean of 2×2; plus mean of 2×2, conv 1×1 of the input.

    `first` leaves out the ReLU at the image; `down=False` is the last block: no pooling, the input itself as shortcut.
    The mean comes before the 1×1 convolution: the same function at a quarter of the work. So does `folded`, which makes
    one of the second convolution and its mean, see `gander.layers.resampling`.
    """

    def __init__(self, before: int, after: int, *, first: bool = False, down: bool = True, folded: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = DownConv2d(after, after, folded=folded) if down else nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if down else nn.Identity()
        self.before = nn.Identity() if first else nn.ReLU()  # never in place: the shortcut needs the input as it came
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self.conv2(self.conv1(self.before(x)).relu()) + self.shortcut(self.pool(x))


class Discriminator(nn.Module):
    """images, labels (b,) -> logits (b,): w·h + bias + <embedding of the label, h>, h = sum over positions of relu(features).

    `folded` computes convolution and pooling as one, exactly.
    Raises UserError for an impossible resolution or attention side, ValueError where labels are needed and missing.
    """

    def __init__(
        self,
        resolution: int = 128,
        *,
        channels: int = 3,
        num_classes: int = 0,
        width: int = 64,
        attention: str = "self",
        attention_at: Sequence[int] | None = None,
        folded: bool = False,
    ):
        super().__init__()
        self.resolution, self.num_classes = resolution, num_classes
        at = attention_sides(attention_at, resolution, attention, sides(resolution))
        layers: list[nn.Module] = []
        before = channels
        for side in sides(resolution)[-2::-1]:
            after = _width(side, resolution // 2, width)
            block = DownBlock(before, after, first=not layers, folded=folded)
            layers += [block, *attend_at(side, at, attention, after)]
            before = after
        self.layers = nn.Sequential(*layers, DownBlock(before, before, down=False), nn.ReLU())
        self.linear = nn.Linear(before, 1)
        self.embedding = nn.Embedding(num_classes, before) if num_classes else None
        self.apply(_initialise)

    def forward(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b"]:
        h = self.layers(images).sum((2, 3))
        logits = self.linear(h).flatten()
        if self.embedding is None:
            return logits
        if labels is None:
            raise ValueError(f"this discriminator was made for {self.num_classes} classes and needs labels")
        return logits + torch.linalg.vecdot(self.embedding(labels), h)
