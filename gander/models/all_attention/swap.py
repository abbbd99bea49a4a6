"""A style-based generator whose convolutions are replaced by attention in windows, all else left as it is.

Its source: Karras et al. 2019 (StyleGAN2), https://arxiv.org/abs/1912.04958: a learned 4×4, two layers at each side, colours at
each side that are enlarged and added up. A 3×3 convolution there has a matrix for the pixel itself and one for each of eight
neighbours; here there is one for the pixel itself, and attention for those around it:

    h ← √2 · lrelu(W n + Attention(n) + a),   n = Norm(h; w)

What differs beside that: norms modulated by w stand for modulated and demodulated weights; there is no noise, no low-pass filter
after pixels are repeated (sines of each pixel's place at every side instead, as in StyleSwin, Zhang et al. 2021,
https://arxiv.org/abs/2112.10762), and tanh at the end.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gander.errors import UserError
from gander.models.all_attention.pixels import PatchHead, Upsample, doubled, places, whole
from gander.models.all_attention.styles import SLOPE, Mapping, StyleGenerator
from gander.models.all_attention.tokens import Attention, ModulatedNorm


class Layer(nn.Module):
    """√2 · lrelu(W n + Attention(n) + a), n = Norm(h; w): what stands for a convolution."""

    def __init__(self, d: int, side: int, *, style: int, window: int) -> None:
        super().__init__()
        self.norm = ModulatedNorm(d, style)
        self.attention = Attention(d, kind="window", size=(side, side), window=window)
        self.itself = nn.Linear(d, d)
        nn.init.kaiming_normal_(self.itself.weight, nonlinearity="linear")
        nn.init.zeros_(self.itself.bias)

    def forward(self, h: Float[Tensor, "b n d"], w: Float[Tensor, "b style"]) -> Float[Tensor, "b n d"]:
        n = self.norm(h, w)
        return F.leaky_relu(self.itself(n) + self.attention(n), SLOPE) * 2**0.5


class Generator(StyleGenerator):
    """latent (b, latent_dim), labels (b,) -> images (b, channels, resolution, resolution) in [-1, 1].

    Widths are width·2^k counted from the image, capped at 16·width. `layers` of w: two a side; a side's colours are modulated as
    its second. w enters through the norms alone, so that the weights of γ and β are born as in the source, N(0, 1 / style).

    Args:
        window: the side of windows, those of half of the heads shifted; a smaller image is one window.
        upsample: nearest or shuffle.
        mapping: connected is the source's.

    Raises:
        UserError: for an impossible resolution, mapping or upsampling, and an empty window.
    """

    def __init__(
        self,
        resolution: int = 128,
        *,
        channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 512,
        style: int = 512,
        width: int = 32,
        window: int = 8,
        mapping: str = "connected",
        mapping_depth: int = 8,
        mapping_tokens: int = 16,
        upsample: str = "nearest",
    ):
        super().__init__(resolution, latent_dim, num_classes)
        sides = doubled(4, resolution)
        if window < 1 or width < 8:
            raise UserError(f"a generator of windows got window={window} and width={width}; take 1 or more, and 8 of width")
        self.mapping = Mapping(latent_dim, style, num_classes=num_classes, kind=mapping, depth=mapping_depth, tokens=mapping_tokens)
        widths = [whole(float(width * min(16, resolution // side))) for side in sides]
        self.constant = nn.Parameter(torch.randn(1, 16, widths[0]))
        self.sides, self.widths = sides, widths
        self.ups = nn.ModuleList(Upsample(a, b, side, kind=upsample) for a, b, side in zip(widths, widths[1:], sides, strict=False))
        self.blocks = nn.ModuleList(
            Layer(d, side, style=style, window=window) for d, side in zip(widths, sides, strict=True) for _ in range(2)
        )
        self.heads = nn.ModuleList(
            PatchHead(d, side, style=style, channels=channels) for d, side in zip(widths, sides, strict=True)
        )
        for layer in self.blocks:
            nn.init.normal_(layer.norm.modulation.weight, std=style**-0.5)  # type: ignore[union-attr, arg-type]
        self.layers = len(self.blocks)

    def synthesis(self, w: Float[Tensor, "b *layers k style"]) -> Float[Tensor, "b c h w"]:
        styles = self.styles(w).unbind(1)
        h, image = self.constant.expand(len(w), -1, -1), None
        for i, (side, d, head) in enumerate(zip(self.sides, self.widths, self.heads, strict=True)):
            h = h if i == 0 else self.ups[i - 1](h)
            h = h + places(d, side, h)
            for layer, style in zip(self.blocks[2 * i : 2 * i + 2], styles[2 * i : 2 * i + 2], strict=True):
                h = layer(h, style)
            colours = head(h, styles[2 * i + 1])
            image = colours if image is None else colours + F.interpolate(image, size=colours.shape[2:])
        return image.tanh()  # type: ignore[union-attr]
