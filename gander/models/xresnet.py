"""xresnet, with attention at the end of any of its stages (He et al. 2018, "Bag of Tricks", arXiv:1812.01187; fastai).

The network that SimpleSelfAttention was tried in (https://github.com/sdoria/SimpleSelfAttention): a ResNet whose first 7×7
convolution is three of 3×3, whose shortcuts pool before they convolve, and whose blocks are born as their shortcuts.

For 10 classes: xresnet18 11,228,586 parameters, xresnet34 21,336,746, xresnet50 23,575,466. Attention in the first stage adds to
xresnet50 65,537 (simple) or 81,921 (full), to xresnet18 4,097 or 5,121.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from gander.attention import ATTENTION, build
from gander.errors import UserError, unknown
from gander.layers.blur_pool import BlurPool2d
from gander.layers.norms import BatchNorm

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),  # neither a batch norm nor a sum keeps what it made
    "mish": nn.Mish,
}
PLACES = ("branch", "after")


def _convolution(
    before: int, after: int, kernel: int = 3, *, stride: int = 1, activation: str | None = None, gain: float = 1.0
) -> nn.Sequential:
    """Convolution, batch norm born with this gain, and an activation where one is named."""
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    norm = BatchNorm(after)
    if norm.weight is not None:
        nn.init.constant_(norm.weight, gain)
    return nn.Sequential(convolution, norm, *([ACTIVATIONS[activation]()] if activation else []))


class Block(nn.Module):
    """f(attention(convs(x)) + shortcut(x)), or with attention `after` it: attention(f(convs(x) + shortcut(x))).

    `convs` are two 3×3 (expansion 1), or 1×1, 3×3 and 1×1; the last batch norm's gain is born 0, so that the block is born as its
    shortcut: the mean of 2×2 where the stride is 2, and a 1×1 convolution where the width changes. The attention is the identity
    until another is put in its place.
    """

    def __init__(self, before: int, inner: int, after: int, stride: int, activation: str, where: str = "branch") -> None:
        super().__init__()
        if inner == after:
            first = [_convolution(before, inner, stride=stride, activation=activation)]
        else:
            first = [_convolution(before, inner, 1, activation=activation)]
            first += [_convolution(inner, inner, stride=stride, activation=activation)]
        self.convs = nn.Sequential(*first, _convolution(inner, after, 3 if inner == after else 1, gain=0.0))
        pool = [nn.AvgPool2d(2, ceil_mode=True)] if stride == 2 else []
        self.shortcut = nn.Sequential(*pool, *([_convolution(before, after, 1)] if before != after else []))
        self.activation = ACTIVATIONS[activation]()
        self.attention: nn.Module = nn.Identity()
        self.where = where

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        y = self.convs(x)
        if self.where == "branch":
            return self.activation(self.attention(y) + self.shortcut(x))
        return self.attention(self.activation(y + self.shortcut(x)))


class XResNet(nn.Module):
    """images (b, channels, h, w) -> logits (b, num_classes); any h and w.

    A stem of three 3×3 convolutions, the first of stride 2, a 3×3 max pool of stride 2, the stages, the mean over positions, and a
    linear layer. Stage i is `width`·2^i·expansion wide; all but the first halve the sides.

    The gain of a block's last batch norm is born 0: attention in the branch first gets zeros, and then what grows slowly, which the
    source found essential. It has spectral norm on its attention and nowhere else. Here that is applied from outside:
    `spectral_norm(network, where=lambda name, layer: ".attention" in name)`. Networks of one seed and different attention are born
    alike in all the rest.

    What differs: batch norm over the images of all processes. The source has its attention in the first stage and in the branch;
    other stages and `after` are ours.

    Args:
        depths: blocks of each stage.
        expansion: 1 for blocks of two 3×3 convolutions, 4 for those of 1×1, 3×3, 1×1.
        num_classes: of the logits.
        channels: of the images.
        width: of the stem's end and of the first stage, even; 64 in all that is published.
        attention: a key of `gander.attention.ATTENTION`; None, as "none", is none.
        stages: attention ends the last block of these, counted from 0.
        where: `branch`, before the addition, or `after` it and its activation.
        blur_pool: the stem's max pool as a max of stride 1 and a blur of stride 2, as leaderboards' entries have it.
        activation: relu or mish.
        resolution: h and w of the images: for attention that is made for one size, and not asked otherwise.

    Raises:
        UserError: for an attention, stage, place or activation that there is not, an odd width, and attention for one size without
            a resolution.
    """

    def __init__(
        self,
        depths: Sequence[int],
        expansion: int,
        num_classes: int = 10,
        *,
        channels: int = 3,
        width: int = 64,
        attention: str | None = None,
        stages: Sequence[int] = (0,),
        where: str = "branch",
        blur_pool: bool = False,
        activation: str = "relu",
        resolution: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.resolution = num_classes, resolution
        _check(len(depths), width, stages, where, activation)
        self.stem = nn.Sequential(
            _convolution(channels, width // 2, stride=2, activation=activation),
            _convolution(width // 2, width, activation=activation),
            _convolution(width, width, activation=activation),
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), BlurPool2d()) if blur_pool else nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        before = width
        for i, depth in enumerate(depths):
            blocks, inner = [], width * 2**i
            for j in range(depth):
                blocks.append(Block(before, inner, inner * expansion, 2 if i and not j else 1, activation, where))
                before = inner * expansion
            self.stages.append(nn.Sequential(*blocks))
        self.linear = nn.Linear(before, num_classes)
        nn.init.kaiming_normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        for i in sorted(set(stages)):  # last, so that of one seed the rest is born alike with and without
            side = None if resolution is None else -(-resolution // (4 * 2**i))
            last: Any = self.stages[i]
            last[-1].attention = _attention(attention or "none", width * 2**i * expansion, side)

    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """What the linear layer sees: the last stage's mean over positions."""
        x = self.pool(self.stem(images))
        for stage in self.stages:
            x = stage(x)
        return x.mean((2, 3))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.linear(self.features(images))


def _check(count: int, width: int, stages: Sequence[int], where: str, activation: str) -> None:
    for stage in stages:
        if not 0 <= stage < count:
            raise UserError(f"attention at stage {stage}, but the stages are 0 to {count - 1}")
    if where not in PLACES:
        raise unknown("place for attention", where, PLACES)
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    if width < 2 or width % 2:
        raise UserError(
            f"width {width}: the stem begins with half of it; take an even one, {max(2, width + 1)}, or 64 as published"
        )


def _attention(keys: str, channels: int, side: int | None) -> nn.Module:
    """The layer, with one line that names the resolution where that is what it lacks."""
    try:
        return build(keys, channels, None if side is None else (side, side))
    except UserError:
        if side is None and all(key.strip() in ATTENTION for key in keys.split("+")):
            raise UserError(
                f"attention {keys!r} is made for one size of its input: say resolution=, as in resolution=128"
            ) from None
        raise


def xresnet18(num_classes: int = 10, **options: Any) -> XResNet:
    """Two blocks of two convolutions in each stage; `options` as for `XResNet`."""
    return XResNet((2, 2, 2, 2), 1, num_classes, **options)


def xresnet34(num_classes: int = 10, **options: Any) -> XResNet:
    """3, 4, 6 and 3 blocks of two convolutions; `options` as for `XResNet`."""
    return XResNet((3, 4, 6, 3), 1, num_classes, **options)


def xresnet50(num_classes: int = 10, **options: Any) -> XResNet:
    """3, 4, 6 and 3 blocks of three convolutions; `options` as for `XResNet`."""
    return XResNet((3, 4, 6, 3), 4, num_classes, **options)


def xresnet101(num_classes: int = 10, **options: Any) -> XResNet:
    """3, 4, 23 and 3 blocks of three convolutions; `options` as for `XResNet`."""
    return XResNet((3, 4, 23, 3), 4, num_classes, **options)


def xresnet152(num_classes: int = 10, **options: Any) -> XResNet:
    """3, 8, 36 and 3 blocks of three convolutions; `options` as for `XResNet`."""
    return XResNet((3, 8, 36, 3), 4, num_classes, **options)
