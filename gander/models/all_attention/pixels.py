"""From tokens to pixels without convolution: tokens of a square image, (b, side², d) row by row, larger ones, and their colours."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gander.errors import UserError, unknown
from gander.models.all_attention.tokens import MLP, ModulatedNorm, Stack, linear

UPSAMPLES = ("shuffle", "nearest")
HEADS = ("linear", "fourier")
RESOLUTIONS = (16, 32, 64, 128, 256, 512)


def doubled(first: int, resolution: int, patch: int = 1) -> list[int]:
    """first, 2·first, ..., resolution / patch. UserError where these are no such sides."""
    if resolution not in RESOLUTIONS:
        raise UserError(
            f"resolution {resolution} is not one of {', '.join(map(str, RESOLUTIONS))} (a power of two); take the nearest of them"
        )
    found = [first << k for k in range(10) if first << k <= resolution]
    if patch < 1 or resolution // patch not in found or resolution % patch:
        fitting = ", ".join(str(resolution // side) for side in reversed(found))
        raise UserError(
            f"patches of {patch} do not tile images of {resolution} px that grow from {first}×{first}; take one of {fitting}"
        )
    return found[: found.index(resolution // patch) + 1]


def whole(width: float) -> int:
    """The nearest multiple of 8, at least 8: what positions and two heads can share."""
    return max(8, round(width / 8) * 8)


def unfolded(t: Float[Tensor, "b h w p q d"]) -> Float[Tensor, "b n d"]:
    """p × q pixels in the place of each of h × w, row by row."""
    return t.transpose(2, 3).flatten(1, 4)


class Upsample(nn.Module):
    """tokens (b, side², before) -> (b, (factor · side)², after).

    `shuffle`: linear to factor² · after, cut up into the pixels of a square (Shi et al. 2016, https://arxiv.org/abs/1609.05158);
    `nearest`: linear to after, and each pixel repeated, in this order: the same function at 1 / factor² of the work. A shuffle is
    born as one that repeats, so that images begin without a checkerboard (Aitken et al. 2017, https://arxiv.org/abs/1707.02937).
    """

    def __init__(self, before: int, after: int, side: int, *, factor: int = 2, kind: str = "shuffle") -> None:
        super().__init__()
        if kind not in UPSAMPLES:
            raise unknown("upsampling", kind, UPSAMPLES)
        self.side, self.factor, self.kind = side, factor, kind
        copies = factor**2 if kind == "shuffle" else 1
        self.linear = linear(before, copies * after)
        self.linear.weight.data.copy_(linear(before, after).weight.data.repeat(copies, 1))

    def forward(self, h: Float[Tensor, "b n before"]) -> Float[Tensor, "b m after"]:
        h = self.linear(h).unflatten(1, (self.side, self.side))
        if self.kind == "shuffle":
            return unfolded(h.unflatten(-1, (self.factor, self.factor, -1)))
        return unfolded(h[:, :, :, None, None].expand(-1, -1, -1, self.factor, self.factor, -1))

    def extra_repr(self) -> str:
        return f"{self.kind!r}, side={self.side}, factor={self.factor}"


class PatchHead(nn.Module):
    """tokens (b, side², d) -> Norm(h; w) -> patch × patch pixels each -> images (b, channels, side · patch, side · patch).

    `linear`: one layer to channels · patch². `fourier`: MLP(sin(A p + a) · token) for the places p in [-1, 1]² of a patch's
    pixels, A and a learned (Lee et al. 2021, ViTGAN). Pixels are born with a standard deviation of about 0.3.
    """

    def __init__(self, d: int, side: int, *, style: int, channels: int = 3, patch: int = 1, kind: str = "linear") -> None:
        super().__init__()
        if kind not in HEADS:
            raise unknown("head", kind, HEADS)
        if kind == "fourier" and patch == 1:
            raise UserError(
                "a Fourier head tells the pixels of a patch apart, and patch is 1; take head linear, or patch 2 or more"
            )
        self.side, self.patch, self.kind = side, patch, kind
        self.norm = ModulatedNorm(d, style)
        if kind == "fourier":
            self.places = nn.Linear(2, d)
            nn.init.normal_(self.places.weight, std=torch.pi)
            nn.init.uniform_(self.places.bias, -torch.pi, torch.pi)
        self.pixels = MLP(d, 1, channels) if kind == "fourier" else nn.Sequential(linear(d, channels * patch**2))
        nn.init.normal_(self.pixels[-1].weight, std=0.3 * d**-0.5)  # type: ignore[arg-type]

    def forward(self, h: Float[Tensor, "b n d"], w: Float[Tensor, "b style"]) -> Float[Tensor, "b c height width"]:
        h, patch = self.norm(h, w), self.patch
        if self.kind == "fourier":
            line = torch.linspace(-1, 1, patch, device=h.device, dtype=h.dtype)
            waves = self.places(torch.cartesian_prod(line, line)).sin()
            pixels = self.pixels(h[:, :, None] * waves)
        else:
            pixels = self.pixels(h).unflatten(-1, (patch**2, -1))
        pixels = unfolded(pixels.unflatten(2, (patch, patch)).unflatten(1, (self.side, self.side)))
        return pixels.mT.unflatten(2, (self.side * patch, self.side * patch))


class Stage(nn.Module):
    """h + `places`, through a `Stack` of blocks on side × side pixels, `kinds` their attention."""

    def __init__(self, d: int, side: int, kinds: Sequence[str], **more: Any) -> None:
        super().__init__()
        self.layers, self.d, self.side = len(kinds), d, side
        self.stack = Stack(d, kinds, size=(side, side), **more)

    def forward(self, h: Float[Tensor, "b n d"], styles: Float[Tensor, "b layers style"]) -> Float[Tensor, "b n d"]:
        return self.stack(h + places(self.d, self.side, h), styles)


def places(d: int, side: int, like: Tensor) -> Float[Tensor, "n d"]:
    """Fourier features of the pixels of a square: sines and cosines of row and column, of the device and type of `like`.

    At d / 4 frequencies, from a wave of 4 pixels to one of twice the side, each as much longer than the one before. DETR's, of
    `gander.layers.sinusoidal`, go up to 60,000 pixels: at these sides half of them and more are all but constant.
    """
    # float32 and up: half precision does not tell far places apart
    line = torch.arange(side, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    steps = torch.linspace(0, 1, d // 4, device=like.device, dtype=line.dtype)
    angles = line[:, None] * (torch.pi / 2 * (2 / side) ** steps)
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # side d/2
    return torch.cat([waves.repeat_interleave(side, 0), waves.repeat(side, 1)], 1).to(like.dtype)
