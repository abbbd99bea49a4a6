"""SAGAN as Thalles Silva's article codes it ("Attention in GANs": CelebA, 128×128, unconditional).

Transposed convolutions instead of residual blocks, one attention layer at 32×32 in each network. Widths and biases are the
article's, so that width 64 at 128 px has its 3,856,372 and 2,801,202 parameters; what its code got wrong is mended: spectral
norm is of the real matrix, reaches every layer (apply it with `spectral_norm`), and updates the attention layer's vectors too.
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.layers.norms import BatchNorm
from gander.models.sides import attend_at, attention_sides, sides


def _width(side: int, width: int) -> int:
    """max(16, 512 / 2^k) · width / 64 up to a multiple of 8, k counted from the 4×4 side."""
    scaled = max(16, 512 * 4 // side) * width
    return -(-scaled // (64 * 8)) * 8


def _initialise(layer: nn.Module) -> None:
    """Glorot-uniform weights and no bias, as the article's framework has by default."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class Generator(nn.Module):
    """latent (b, latent_dim) -> linear, ReLU -> 4×4 -> [transposed conv 4×4 stride 2, batch norm, ReLU] -> conv 3×3, tanh.

    `norm_gain=False` is batch norm without gamma, as the article's code has it. Labels are ignored.
    Raises UserError for a resolution or an attention side that it cannot have.
    """

    num_classes = 0

    def __init__(
        self,
        resolution: int = 128,
        *,
        channels: int = 3,
        width: int = 64,
        latent_dim: int = 128,
        attention: str = "article",
        attention_at: Sequence[int] | None = None,
        norm_gain: bool = False,
        statistics: str = "global",
    ):
        super().__init__()
        self.resolution, self.latent_dim = resolution, latent_dim
        at = attention_sides(attention_at, resolution, attention, sides(resolution))
        before = _width(4, width)
        layers: list[nn.Module] = [nn.Linear(latent_dim, before * 16), nn.Unflatten(1, (before, 4, 4)), nn.ReLU()]
        layers += attend_at(4, at, attention, before)
        for side in sides(resolution)[1:]:
            after = _width(side, width)
            layers += [
                nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
                BatchNorm(after, gain=norm_gain, momentum=0.01, eps=1e-3, statistics=statistics),
                nn.ReLU(),
                *attend_at(side, at, attention, after),
            ]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, channels, 3, padding=1), nn.Tanh())
        self.layers.apply(_initialise)

    def forward(self, latent: Float[Tensor, "b d"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b c h w"]:
        return self.layers(latent)


class Discriminator(nn.Module):
    """images -> [conv 4×4 stride 2 with bias, LeakyReLU] down to 4×4 -> linear -> logits (b,). No batch norm."""

    num_classes = 0

    def __init__(
        self,
        resolution: int = 128,
        *,
        channels: int = 3,
        width: int = 64,
        attention: str = "article",
        attention_at: Sequence[int] | None = None,
        leak: float = 0.1,
    ):
        super().__init__()
        self.resolution = resolution
        at = attention_sides(attention_at, resolution, attention, sides(resolution))
        layers: list[nn.Module] = []
        before = channels
        for side in sides(resolution)[-2::-1]:
            after = _width(side, width)
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(leak), *attend_at(side, at, attention, after)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 16, 1))
        self.layers.apply(_initialise)

    def forward(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b"]:
        return self.layers(images).flatten()
