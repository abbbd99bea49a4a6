"""A deep, thin generator: a long stack of self-attention over a few latent tokens, then pixels in two or three big blocks.

Proposed by Gwern Branwen (2020, tensorfork): a mapping network in the limit, attention in the place of its fully connected layers,
and no pyramid; or one pass: each pixel reads the latent tokens, then pixels attend to each other in windows and by hashes.

    latent -> w -> M latent tokens -> `depth` reversible blocks -> side 1 -> [side 2] -> resolution / patch

Pixels ask by the sines of their place, and begin as what they read of the latent tokens; each further side is shuffled or repeated
from the one before. Every side has its colours, which are enlarged and added up (Karras et al. 2019,
https://arxiv.org/abs/1912.04958); then tanh.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gander.errors import UserError, unknown
from gander.models.all_attention.pixels import PatchHead, Stage, Upsample, doubled, places, whole
from gander.models.all_attention.styles import Mapping, StyleGenerator, tokens_of
from gander.models.all_attention.tokens import KINDS, MLP, Attention, Branch, Stack, linear

# Of the last side in tokens: the sides, and the width of each as a share of the latent tokens'.
STAGES: dict[int, list[tuple[int, float]]] = {
    8: [(4, 2 / 3), (8, 1 / 3)],
    16: [(8, 2 / 3), (16, 1 / 3)],
    32: [(16, 2 / 3), (32, 1 / 3)],
    64: [(16, 3 / 4), (32, 1 / 2), (64, 3 / 16)],
    128: [(32, 3 / 4), (64, 1 / 2), (128, 1 / 8)],
    256: [(32, 3 / 4), (64, 1 / 2), (256, 1 / 8)],
    512: [(32, 3 / 4), (128, 1 / 2), (512, 1 / 8)],
}


class Generator(StyleGenerator):
    """latent (b, latent_dim), labels (b,) -> images (b, channels, resolution, resolution) in [-1, 1].

    The latent has its say at birth: each latent token is linear in w, and a pixel of the first side is what it reads of them,
    h = 3 Attention(its place) with logits born 4 times as large as elsewhere and no residual, then h + MLP(h). Else, of what
    differs between the places of new images, nearly all is the same in each. `layers` of w: the latent tokens, the stack, the
    pixels' reading, the blocks of the sides; a side's colours are modulated as its last block.

    Args:
        width: of the latent tokens; `tokens` of them, through `depth` blocks. The sides' widths follow, see `STAGES`.
        style: the width of w; `mapping`, `mapping_depth` and `mapping_tokens` are those of `Mapping`.
        stage_depth: blocks at each side.
        pixels: their attention in turn, as window+lsh; the first side of several has full attention.
        single_pass: only the last side.
        upsample: shuffle, or nearest: pixels repeated, which cannot learn a checkerboard.
        patch: the side of what a token of the last side paints, by the `head` linear or fourier.
        reversible: memory that does not grow with depth, but no second derivative.

    Raises:
        UserError: for an impossible resolution, patch, mapping, head, upsampling or attention, and for no tokens or blocks.
    """

    def __init__(
        self,
        resolution: int = 32,
        *,
        channels: int = 3,
        num_classes: int = 0,
        latent_dim: int = 512,
        style: int = 512,
        width: int = 384,
        depth: int = 12,
        tokens: int = 64,
        mapping: str = "attention",
        mapping_depth: int = 8,
        mapping_tokens: int = 16,
        stage_depth: int = 2,
        pixels: str = "window+lsh",
        single_pass: bool = False,
        upsample: str = "shuffle",
        head: str = "linear",
        patch: int = 1,
        reversible: bool = True,
    ):
        super().__init__(resolution, latent_dim, num_classes)
        sides = STAGES[doubled(8, resolution, patch)[-1]][-1 if single_pass else 0 :]
        if min(tokens, depth, stage_depth) < 1 or width < 8:
            raise UserError(
                f"a skinny generator got tokens={tokens}, depth={depth}, stage_depth={stage_depth}, width={width}; "
                "take 1 or more of each, and 8 of width"
            )
        turns = pixels.split("+")
        for kind in turns:
            if kind not in KINDS:
                raise unknown("attention of pixels", kind, KINDS)
        self.mapping = Mapping(latent_dim, style, num_classes=num_classes, kind=mapping, depth=mapping_depth, tokens=mapping_tokens)
        self.tokens = tokens_of(style, tokens, width)
        self.trunk = Stack(width, ["product"] * depth, style=style, reversible=reversible)
        widths = [whole(share * width) for _, share in sides]
        self.queries = linear(widths[0], widths[0])
        self.look = Branch(widths[0], Attention(widths[0], context=width), style=style, context=width, scale=3.0)
        self.look.inner.gains.data.fill_(2.0)  # type: ignore[operator]
        self.blend = Branch(widths[0], MLP(widths[0]), style=style, scale=1.0)
        self.ups, self.stages, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, ((side, _), d) in enumerate(zip(sides, widths, strict=True)):
            if i:
                before = sides[i - 1][0]
                self.ups.append(Upsample(widths[i - 1], d, before, factor=side // before, kind=upsample))
            kinds = [turns[j % len(turns)] for j in range(stage_depth)] if i or single_pass else ["product"] * stage_depth
            self.stages.append(Stage(d, side, kinds, style=style, reversible=reversible))
            self.heads.append(PatchHead(d, side, style=style, channels=channels, patch=patch, kind=head))
        self.counts = [1, depth, 1, *[stage_depth] * len(sides)]
        self.layers = sum(self.counts)

    def synthesis(self, w: Float[Tensor, "b *layers k style"]) -> Float[Tensor, "b c h w"]:
        tokens, trunk, look, *styles = self.styles(w).split(self.counts, 1)
        latent, look = self.trunk(self.tokens(tokens[:, 0]), trunk), look[:, 0]
        first = self.stages[0]
        h = self.queries(places(first.d, first.side, latent)).expand(len(w), -1, -1)  # type: ignore[arg-type]
        h, image = self.look(h, look, latent), None
        h = h + self.blend(h, look)
        for i, (stage, head, style) in enumerate(zip(self.stages, self.heads, styles, strict=True)):
            h = stage(h if i == 0 else self.ups[i - 1](h), style)
            colours = head(h, style[:, -1])
            image = colours if image is None else colours + F.interpolate(image, size=colours.shape[2:])
        return image.tanh()  # type: ignore[union-attr]
