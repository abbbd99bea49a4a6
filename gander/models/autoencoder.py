"""A deep convolutional auto-encoder, with attention at any resolution.

DCGAN's discriminator as the encoder and its generator as the decoder (Radford et al. 2015, arXiv:1511.06434), one vector between.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from gander.models import dcgan


class Autoencoder(nn.Module):
    """images in [-1, 1] -> encode -> latent (b, latent_dim) -> decode -> images (b, channels, resolution, resolution) in [-1, 1].

    The encoder's last 4×4 convolution gives `latent_dim` numbers instead of a logit. Attention stands at the same sides in both
    halves. Raises UserError for a resolution or an attention side that it cannot have.
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
    ) -> None:
        super().__init__()
        self.resolution, self.latent_dim = resolution, latent_dim
        same: dict[str, Any] = {"channels": channels, "width": width, "attention": attention, "attention_at": attention_at}
        self.encoder: nn.Sequential = dcgan.Discriminator(resolution, **same).layers
        logit: Any = self.encoder[-1]
        code = nn.Conv2d(logit.in_channels, latent_dim, 4, bias=False)
        nn.init.normal_(code.weight, 0.0, 0.02)
        self.encoder[-1] = code
        self.decoder = dcgan.Generator(resolution, latent_dim=latent_dim, **same)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.encoder(images).flatten(1)

    def decode(self, latent: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        return self.decoder(latent)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.decode(self.encode(images))
