"""A deep convolutional auto-encoder, with attention where you ask for it.

Source: DCGAN's discriminator as encoder and its generator as decoder (Radford et al. 2015, arXiv:1511.06434); attention in deep
convolutional auto-encoders is among what SAGAN's summaries name. Judged by the PSNR of images that it was not trained on.
"""

from typing import Literal

from gander.layers.spectral_norm import spectral_norm as normalise
from gander.models.autoencoder import Autoencoder
from gander.optimizers import adam
from gander.recipes.experiment import Experiment, Facts, notes
from gander.train.autoencoder import Reconstruction


def recipe(
    facts: Facts,
    *,
    resolution: int = 64,
    width: int = 64,
    latent: int = 100,
    attention: str = "none",
    attention_at: tuple[int, ...] | None = None,
    batch: int = 64,
    steps: int = 20_000,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    loss: Literal["l1", "mse"] = "l1",
    spectral_norm: bool = False,
    accumulate: int = 1,
    flip: bool = False,
) -> Experiment:
    """An auto-encoder of DCGAN's networks; labels are not used.

    Args:
        resolution: side of the images: 16, 32, 64, 128 or 256; the depth follows.
        width: channels at the largest feature map, doubled at each smaller one; DCGAN has 64.
        latent: numbers between encoder and decoder.
        attention: a key of `gander.attention.ATTENTION`; `+` puts two at one place.
        attention_at: feature-map sides with attention, in both halves. By default min(32, resolution / 2).
        batch: images of one optimiser step, over all processes.
        steps: updates of the weights, a batch each.
        lr: Adam's rate.
        betas: Adam's, as PyTorch has them by default.
        loss: l1, mean |x - y|, which keeps edges sharper, or mse, mean (x - y)², which PSNR is made of.
        spectral_norm: on all of both halves, as SAGAN has it.
        accumulate: micro-batches a batch is cut into, where memory is short; batch norm sees each apart.
        flip: mirror half of the images: right for faces, wrong for letters.
    """
    network = Autoencoder(
        resolution, channels=facts.channels, width=width, latent_dim=latent, attention=attention, attention_at=attention_at
    )
    if spectral_norm:
        normalise(network)
    learner = Reconstruction(network, optimizer=adam(network.parameters(), lr, betas), loss=loss, accumulate=accumulate, flip=flip)
    said = notes(facts, "", attention=attention, at=attention_at)
    return Experiment(learner, batch, steps, resolution, said)
