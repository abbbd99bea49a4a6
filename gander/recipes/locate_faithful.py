"""LocAtE v1.3 as its author left it, with gradients that are right; unconditional. At 128 px 56,398,266 and 46,846,560 parameters.

Source: LocAtE, "location-based attention exhaustion" (2020). Networks: `gander.models.locate_faithful`. The recipe `locate` mends
what its code got wrong; here its mistakes are kept where they shape the networks or the game, but for: the gradients of g and
RootTanh; the step of the generator, which went over one batch eight times and kept the last; that of the discriminator, which
used one batch of eight and had the latents of the generator's; singular vectors that became parameters. Its two means of
consistency regularisation were of different images, here they are of the same; its random crops are not made.
No score was reported.
"""

from typing import Any, Literal

from torch import Tensor

from gander.consistency import Consistency
from gander.data.augment import Augment
from gander.layers.spectral_norm import spectral_norm as normalise
from gander.losses import LOSSES, Adversarial, hinge_discriminator
from gander.models.locate_faithful import Discriminator, Generator
from gander.optimizers import OPTIMIZERS
from gander.penalties import PENALTIES
from gander.recipes.experiment import Experiment, Facts, notes
from gander.train.gan import Gan


def saturating(real: Tensor | None, fake: Tensor) -> Tensor:
    """mean max(0, 1 - D(G(z))): what the discriminator takes for real teaches the generator nothing."""
    return (1 - fake).relu().mean()


GAMES = {"saturating_hinge": Adversarial(hinge_discriminator, saturating, paired=False), **LOSSES}


def recipe(
    facts: Facts,
    *,
    resolution: int = 128,
    width: int = 48,
    latent: int = 128,
    attention: str = "feature+gate",
    attention_at: tuple[int, ...] | None = None,
    batch: int = 16,
    steps: int = 300_000,
    optimizer: Literal["adam", "nadam", "adabound"] = "nadam",
    generator_lr: float = 5e-4,
    discriminator_lr: float = 2e-3,
    betas: tuple[float, float] = (0.5, 0.9),
    ema: float = 0.999,
    loss: Literal["saturating_hinge", "hinge", "logistic", "least_squares", "wasserstein", "relativistic"] = "saturating_hinge",
    r1: float = 0.0,
    r2: float = 0.0,
    wgan_gp: float = 0.0,
    cr: float = 0.0,
    bcr: float = 0.0,
    zcr: float = 0.0,
    batch_cr: float = 100.0,
    spectral_norm: Literal["none", "discriminator", "both"] = "both",
    n_dis: int = 1,
    accumulate: int = 1,
    augment: str = "none",
    flip: bool = False,
) -> Experiment:
    """LocAtE v1.3 with its numbers; labels are not used.

    Args:
        resolution: side of the images: 16 to 1024, a power of two; the depth follows. The source has 128, and no cap on widths.
        width: channels of the generator at the output side, doubled at each smaller one; the discriminator's are 2/3 of it.
            Rounded down to multiples of 4, as in the source, which has 48.
        latent: numbers that an image is made from, and channels of the constant input.
        attention: feature and gate are the source's forms, its both feature+gate; or keys of `gander.attention.ATTENTION`.
        attention_at: feature-map sides with attention, in both networks. By default the source's: behind every second block, from 8
            on. At 128 px 16 and 64 in the generator, 32 and 8 in the discriminator.
        batch: images of one optimiser step, over all processes. The source has 16.
        steps: generator updates. The source states none.
        optimizer: NAdam is the source's.
        generator_lr: the generator's rate.
        discriminator_lr: the discriminator's rate: four times the generator's.
        betas: the optimisers', as in v1.3.
        ema: decay of the average of the generator's weights that samples are made with. The source has none (0.0 turns it off).
        loss: of the game. The source's is hinge, its generator's side max(0, 1 - D(G(z))), which dies where D is fooled.
        r1: weight γ of γ/2·|∇D|² on real images; the source has no penalty.
        r2: weight γ of γ/2·|∇D|² on fake images.
        wgan_gp: weight of (|∇D| - 1)² between real and fake; the source's first form had it at 100, with the Wasserstein loss.
        cr: weight of consistency, (D(x) - D(x flipped and shifted))² on real images; 10 is usual.
        bcr: the same on real and fake images; 10 is usual.
        zcr: weight of (D(G(z)) - D(G(z nearby)))²; the generator is paid a tenth of it for images that differ; 5 is usual.
        batch_cr: weight of (mean D(x) - mean D(x flipped and shifted))², the source's form; it has 100 from v1.1 on.
        spectral_norm: on which networks. The source has it on both.
        n_dis: discriminator updates a step.
        accumulate: micro-batches a batch is cut into, where memory is short; the norms see each apart.
        augment: DiffAugment for small data: color, translation, cutout, joined by commas; none is the source.
        flip: mirror half of the real images, as the source's augmented batches are.
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
        generator_optimizer=OPTIMIZERS[optimizer](generator.parameters(), generator_lr, betas),
        discriminator_optimizer=OPTIMIZERS[optimizer](discriminator.parameters(), discriminator_lr, betas),
        loss=GAMES[loss],
        penalties=[(PENALTIES[name], weight) for name, weight in weights.items() if weight],
        consistency=Consistency(cr=cr, bcr=bcr, zcr=zcr, batch_cr=batch_cr),
        n_dis=n_dis,
        accumulate=accumulate,
        ema=ema,
        augment=Augment(augment) if augment != "none" else None,
        flip=flip,
    )
    return Experiment(
        learner, batch, steps, resolution, notes(facts, augment, "locate_faithful", attention=attention, at=attention_at)
    )
