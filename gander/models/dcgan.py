"""DCGAN (Radford et al. 2015, arXiv:1511.06434), with attention at any resolution.

The network that everybody starts from: strided 4×4 convolutions, batch norm, no fully connected layer.
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.layers.norms import BatchNorm
from gander.models.sides import attend_at, attention_sides, sides


def _width(side: int, resolution: int, width: int) -> int:
    """width·2^k, k counted from the output side, capped at 8·width: 8, 4, 2, 1 × 64 at 64 px."""
    return width * min(8, resolution // 2 // side)


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, BatchNorm) and layer.weight is not None:
        nn.init.normal_(layer.weight, 1.0, 0.02)


class Generator(nn.Module):
    """latent (b, latent_dim) -> 4×4 -> ... -> images (b, channels, resolution, resolution) in [-1, 1].

    Each step is a transposed 4×4 convolution of stride 2, batch norm (not at the output) and ReLU; tanh at the end.
    Labels are ignored. Raises UserError for a resolution or an attention side that it cannot have.
    """

    num_classes = 0

    def __init__(
        self,
        resolution: int = 64,
        *,
        channels: int = 3,
        width: int = 64,
        latent_dim: int = 100,
        attention: str = "none",
        attention_at: Sequence[int] | None = None,
    ):
        super().__init__()
        self.resolution, self.latent_dim = resolution, latent_dim
        at = attention_sides(attention_at, resolution, attention, sides(resolution)[:-1])
        layers: list[nn.Module] = []
        before = latent_dim
        for side in sides(resolution)[:-1]:
            after = _width(side, resolution, width)
            stride, padding = (1, 0) if side == 4 else (2, 1)
            convolution = nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False)
            layers += [convolution, BatchNorm(after), nn.ReLU(), *attend_at(side, at, attention, after)]
            before = after
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(before, channels, 4, 2, 1, bias=False), nn.Tanh())
        self.layers.apply(_initialise)

    def forward(self, latent: Float[Tensor, "b d"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b c h w"]:
        return self.layers(latent[:, :, None, None])


class Discriminator(nn.Module):
    """images (b, channels, resolution, resolution) -> logits (b,).

    4×4 convolutions of stride 2, batch norm (not at the input), LeakyReLU 0.2; a 4×4 convolution gives the logit.
    """

    num_classes = 0

    def __init__(
        self,
        resolution: int = 64,
        *,
        channels: int = 3,
        width: int = 64,
        attention: str = "none",
        attention_at: Sequence[int] | None = None,
    ):
        super().__init__()
        self.resolution = resolution
        at = attention_sides(attention_at, resolution, attention, sides(resolution)[:-1])
        layers: list[nn.Module] = []
        before = channels
        for side in sides(resolution)[-2::-1]:
            after = _width(side, resolution, width)
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False)]
            layers += [BatchNorm(after)] if before != channels or side != resolution // 2 else []
            layers += [nn.LeakyReLU(0.2), *attend_at(side, at, attention, after)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 4, bias=False))
        self.layers.apply(_initialise)

    def forward(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b"]:
        return self.layers(images).flatten()
