"""A classifier of attention alone, on the blocks of the generators and discriminators beside it.

The plain vision transformer (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929; its small form is 384 wide, with 6 heads
and 12 blocks) with the mean over tokens and sines for places, as Beyer et al. 2022, https://arxiv.org/abs/2205.01580, found best.
Patches overlap, and queries and keys are normed.
"""

from jaxtyping import Float
from torch import Tensor, nn

from gander.models.all_attention.tokens import Block, linear
from gander.models.all_attention.vit import Patches


class Classifier(nn.Module):
    """images (b, channels, h, w) -> logits (b, num_classes); any h and w that the patch divides.

    Args:
        num_classes: of the logits.
        channels: of the images.
        width: of a token, a multiple of 4; depth: blocks; heads: of 64 channels by default.
        patch: its side in pixels; overlap: on each of its sides, half of it by default.
        attention: a kind of `gander.models.all_attention.tokens.Attention` for any size: product or l2 or lsh.

    Raises:
        UserError: for an unknown attention, a width that 4 does not divide, images that the patch does not.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        channels: int = 3,
        width: int = 384,
        depth: int = 12,
        heads: int | None = None,
        patch: int = 16,
        overlap: int | None = None,
        attention: str = "product",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.patches = Patches(None, patch, patch // 2 if overlap is None else overlap, channels, width)
        self.blocks = nn.Sequential(*(Block(width, heads, kind=attention, prefix=0) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.linear = linear(width, num_classes)

    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """What the linear layer sees: the mean over tokens."""
        return self.norm(self.blocks(self.patches(images))).mean(1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.linear(self.features(images))
