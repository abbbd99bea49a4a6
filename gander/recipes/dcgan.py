"""DCGAN: the baseline that everybody knows. Source: Radford et al. 2015, arXiv:1511.06434; networks: `gander.models.dcgan`."""

from typing import Any, Literal

from gander.consistency import Consistency
from gander.data.augment import Augment
from gander.layers.spectral_norm import spectral_norm as normalise
from gander.losses import LOSSES
from gander.models.dcgan import Discriminator, Generator
from gander.optimizers import adam
from gander.penalties import PENALTIES
from gander.recipes.experiment import Experiment, Facts, notes
from gander.train.gan import Gan


def recipe(
    facts: Facts,
    *,
    resolution: int = 64,
    width: int = 64,
    latent: int = 100,
    attention: str = "none",
    attention_at: tuple[int, ...] | None = None,
    batch: int = 128,
    steps: int = 100_000,
    generator_lr: float = 2e-4,
    discriminator_lr: float = 2e-4,
    betas: tuple[float, float] = (0.5, 0.999),
    ema: float = 0.999,
    loss: Literal["logistic", "hinge", "least_squares", "wasserstein", "relativistic"] = "logistic",
    r1: float = 0.0,
    r2: float = 0.0,
    wgan_gp: float = 0.0,
    cr: float = 0.0,
    bcr: float = 0.0,
    zcr: float = 0.0,
    spectral_norm: Literal["none", "discriminator", "both"] = "none",
    n_dis: int = 1,
    accumulate: int = 1,
    augment: str = "none",
    flip: bool = False,
) -> Experiment:
    """DCGAN with its paper's numbers; labels are not used.

    Args:
        resolution: side of the images: 16, 32, 64, 128 or 256; the depth follows. The paper has 64.
        width: channels at half the output side, doubled at each smaller one up to 8 times.
        latent: numbers that an image is made from.
        attention: a key of `gander.attention.ATTENTION`; `+` puts two at one place. The paper has none.
        attention_at: feature-map sides with attention, in both networks. By default min(32, resolution / 2).
        batch: images of one optimiser step, over all processes.
        steps: generator updates.
        generator_lr: Adam's rate for the generator.
        discriminator_lr: Adam's rate for the discriminator.
        betas: Adam's. The paper lowers the first from 0.9 to 0.5 for stability.
        ema: decay of the average of the generator's weights that samples are made with. The paper has none (0.0 turns it off).
        loss: of the game. Logistic is the paper's.
        r1: weight γ of γ/2·|∇D|² on real images.
        r2: weight γ of γ/2·|∇D|² on fake images.
        wgan_gp: weight of (|∇D| - 1)² between real and fake; 10 belongs to the Wasserstein loss.
        cr: weight of consistency, (D(x) - D(x flipped and shifted))² on real images; 10 is usual.
        bcr: the same on real and fake images; 10 is usual.
        zcr: weight of (D(G(z)) - D(G(z nearby)))²; the generator is paid a tenth of it for images that differ; 5 is usual.
        spectral_norm: on which networks. The paper is older than it.
        n_dis: discriminator updates a step.
        accumulate: micro-batches a batch is cut into, where memory is short; batch norm sees each apart.
        augment: DiffAugment for small data: color, translation, cutout, joined by commas; none is the paper.
        flip: mirror half of the real images.
    """
    size: dict[str, Any] = {"channels": facts.channels, "width": width, "attention": attention, "attention_at": attention_at}
    generator = Generator(resolution, latent_dim=latent, **size)
    discriminator = Discriminator(resolution, **size)
    if spectral_norm == "both":
        normalise(generator)
    if spectral_norm != "none":
        normalise(discriminator)
    weights = {"r1": r1, "r2": r2, "wgan_gp": wgan_gp}
    learner = Gan(
        generator,
        discriminator,
        generator_optimizer=adam(generator.parameters(), generator_lr, betas),
        discriminator_optimizer=adam(discriminator.parameters(), discriminator_lr, betas),
        loss=LOSSES[loss],
        penalties=[(PENALTIES[name], weight) for name, weight in weights.items() if weight],
        consistency=Consistency(cr=cr, bcr=bcr, zcr=zcr),
        n_dis=n_dis,
        accumulate=accumulate,
        ema=ema,
        augment=Augment(augment) if augment != "none" else None,
        flip=flip,
    )
    return Experiment(learner, batch, steps, resolution, notes(facts, augment, "dcgan", attention=attention, at=attention_at))
