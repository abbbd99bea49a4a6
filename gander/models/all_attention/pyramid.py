"""Self-attention from 8×8 up: blocks at each side, doubled by pixel-shuffle or by repeating pixels.

TransGAN, Jiang et al. 2021, https://arxiv.org/abs/2102.07074, with what ViTGAN added: norms modulated by w, and the Fourier head.
What differs: w in every norm (`mapping="none"`: the latent itself), QK-norm and LayerScale as everywhere here; at every side sines
of each pixel's place, with rotary positions in attention; windows half of whose heads are shifted; a linear layer before pixels are
shuffled, so that any width can follow; tanh at the end.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gander.errors import UserError
from gander.models.all_attention.pixels import PatchHead, Stage, Upsample, doubled, whole
from gander.models.all_attention.styles import Mapping, StyleGenerator, tokens_of

FULL = 32  # the largest side whose pixels all attend to each other
WINDOW = 16  # the side of windows above it


class Generator(StyleGenerator):
    """latent (b, latent_dim), labels (b,) -> images (b, channels, resolution, resolution) in [-1, 1].

    8×8 tokens of `width`, each linear in w; at each further side a quarter of the width, no less than 1/16. Full attention up to
    32×32, windows of 16×16 above. `layers` of w: the 8×8, then the blocks; the head is modulated as the last of them.

    Args:
        depth: blocks at each side; the last number stands for all further ones. TransGAN's at 256 px: 5 4.
        upsample: shuffle or nearest.
        patch: the side of what a token of the last side paints, by the `head` linear or fourier.
        reversible: memory that does not grow with depth, but no second derivative.

    Raises:
        UserError: for an impossible resolution, patch, mapping, head or upsampling, and for no blocks.
    """

    def __init__(
        self,
        resolution: int = 32,
        *,
        channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 256,
        style: int = 256,
        width: int = 1024,
        depth: Sequence[int] = (5, 4, 2),
        mapping: str = "none",
        mapping_depth: int = 8,
        mapping_tokens: int = 16,
        upsample: str = "shuffle",
        head: str = "linear",
        patch: int = 1,
        reversible: bool = True,
    ):
        super().__init__(resolution, latent_dim, num_classes)
        sides = doubled(8, resolution, patch)
        if not depth or min(depth) < 1 or width < 8:
            raise UserError(f"a pyramid got depth={tuple(depth)} and width={width}; take 1 or more blocks a side, and 8 of width")
        self.mapping = Mapping(latent_dim, style, num_classes=num_classes, kind=mapping, depth=mapping_depth, tokens=mapping_tokens)
        widths = [whole(max(width / 4**i, width / 16)) for i in range(len(sides))]
        self.first = tokens_of(style, 64, widths[0])
        self.ups, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, (side, d) in enumerate(zip(sides, widths, strict=True)):
            if i:
                self.ups.append(Upsample(widths[i - 1], d, side // 2, kind=upsample))
            kinds = ["window" if side > FULL else "product"] * depth[min(i, len(depth) - 1)]
            self.stages.append(Stage(d, side, kinds, style=style, window=WINDOW, reversible=reversible))
        self.head = PatchHead(widths[-1], sides[-1], style=style, channels=channels, patch=patch, kind=head)
        self.counts = [1, *(stage.layers for stage in self.stages)]
        self.layers = sum(self.counts)  # type: ignore[arg-type]

    def synthesis(self, w: Float[Tensor, "b *layers k style"]) -> Float[Tensor, "b c h w"]:
        first, *styles = self.styles(w).split(self.counts, 1)
        h = self.first(first[:, 0])
        for i, (stage, style) in enumerate(zip(self.stages, styles, strict=True)):
            h = stage(h if i == 0 else self.ups[i - 1](h), style)
        return self.head(h, styles[-1][:, -1]).tanh()
