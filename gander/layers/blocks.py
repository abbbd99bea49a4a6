"""What LocAtE (2020) is put together from: convolution units, which may change the side and the width, and what skips them.

All of (before, after, change): channels in, channels out, and `up` (side ×2), `down` (side / 2) or `same`. A unit is

    RootTanh, convolution k×k of `before` channels, RootTanh, convolution 1×1 to `after` channels;   no biases

with k = 4 where the side changes, transposed to go up, and 3 where it stays. `CONVOLUTIONS` names the kinds of the first:

| name                   | the k×k convolution                                                                           |
|------------------------|-----------------------------------------------------------------------------------------------|
| bottleneck             | plain                                                                                         |
| factorized             | k×1, then 1×k                                                                                 |
| separable              | of each channel by itself                                                                     |
| inception3c            | three branches: 1×1 to min(before, after) / 4, k×k, none, one or two more 3×3, 3×3 to after/3 |
| factorized_inception3c | the same, each k×k as k×1, 1×k                                                                |

With spectral norm from outside, as everything here.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from gander.layers.activations import RootTanh


def convolution(
    before: int, after: int, change: str = "same", *, kernel: int = 4, groups: int = 1, factorized: bool = False
) -> nn.Module:
    """k×k without bias, k = `kernel` where it changes the side and 3 where it does not; or k×1 and then 1×k."""
    kind = nn.ConvTranspose2d if change == "up" else nn.Conv2d
    k, s = (3, 1) if change == "same" else (kernel, 2)
    p = (k - 1) // 2
    if not factorized:
        return kind(before, after, k, s, p, groups=groups, bias=False)
    return nn.Sequential(
        kind(before, after, (k, 1), (s, 1), (p, 0), bias=False), kind(after, after, (1, k), (1, s), (0, p), bias=False)
    )


def bottleneck(before: int, after: int, change: str = "same", *, kernel: int = 4, factorized: bool = False) -> nn.Module:
    wide = convolution(before, before, change, kernel=kernel, factorized=factorized)
    return nn.Sequential(RootTanh(), wide, RootTanh(), nn.Conv2d(before, after, 1, bias=False))


def separable(before: int, after: int, change: str = "same") -> nn.Module:
    wide = convolution(before, before, change, groups=before)
    return nn.Sequential(RootTanh(), wide, RootTanh(), nn.Conv2d(before, after, 1, bias=False))


class Inception3C(nn.Module):
    """Three branches side by side, each deeper than the one before, joined by a 1×1 convolution.

    RootTanh stands before every convolution but the branches' own 1×1, whose input has passed it.
    """

    def __init__(self, before: int, after: int, change: str = "same", *, factorized: bool = False) -> None:
        super().__init__()
        conv = partial(convolution, factorized=factorized)
        inner, third = max(1, min(before, after) // 4), -(-after // 3)
        self.activation = RootTanh()
        self.branches = nn.ModuleList()
        for deeper in range(3):
            parts = [nn.Conv2d(before, inner, 1, bias=False), RootTanh(), conv(inner, inner, change)]
            for _ in range(deeper):
                parts += [RootTanh(), conv(inner, inner)]
            self.branches.append(nn.Sequential(*parts, RootTanh(), conv(inner, third)))
        self.join = nn.Conv2d(3 * third, after, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        x = self.activation(x)
        return self.join(self.activation(torch.cat([branch(x) for branch in self.branches], 1)))


CONVOLUTIONS: dict[str, Callable[[int, int, str], nn.Module]] = {
    "bottleneck": bottleneck,
    "factorized": partial(bottleneck, factorized=True),
    "separable": separable,
    "inception3c": Inception3C,
    "factorized_inception3c": partial(Inception3C, factorized=True),
}


class Skip(nn.Module):
    """The input at another width and side, with few weights: the identity where neither changes.

    Fewer channels: the mean of each `before / after` neighbours, where that is a whole number, else a 1×1 convolution with bias.
    More: the input and a 1×1 convolution with bias of it, side by side. Up is bilinear, down the mean of 2×2.

    `scrambled` pools features as LocAtE's code does by mistake: the mean of `before / after` numbers that are neighbours in a
    row of one channel, laid out anew as if they had been of several.
    """

    def __init__(self, before: int, after: int, change: str = "same", *, scrambled: bool = False) -> None:
        super().__init__()
        self.after, self.change, self.scrambled = after, change, scrambled
        self.more = nn.Conv2d(before, after - before, 1) if after > before else None
        self.fewer = nn.Conv2d(before, after, 1) if after < before and before % after else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        if self.change == "down":
            x = F.avg_pool2d(x, 2)  # before the 1×1 convolution: the same function at a quarter of the work
        if self.more is not None:
            x = torch.cat([x, self.more(x)], 1)
        elif self.fewer is not None:
            x = self.fewer(x)
        elif x.shape[1] > self.after:
            x = pool_features(x, self.after, scrambled=self.scrambled)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear") if self.change == "up" else x

    def extra_repr(self) -> str:
        return f"{self.after}, {self.change!r}"


def pool_features(x: Float[Tensor, "b c h w"], channels: int, *, scrambled: bool = False) -> Float[Tensor, "b d h w"]:
    """The mean of each c / channels neighbouring channels; see `Skip` for `scrambled`."""
    b, c, h, w = x.shape
    if scrambled:
        return x.reshape(b, channels, h, w, c // channels).mean(-1)
    return x.unflatten(1, (channels, c // channels)).mean(2)
