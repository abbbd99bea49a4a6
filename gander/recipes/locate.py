"""LocAtE, mended: features weighed by where they are, RootTanh, consistency regularisation; unconditional, 16 to 1024 px.

Source: LocAtE, "location-based attention exhaustion" (2020), whose own form is the recipe `locate_faithful`. Networks, and what is
mended in them: `gander.models.locate`.
Claims of the source: RootTanh significantly outperforms its competitors; consistency regularisation works better than a gradient
penalty; the two attentions complement each other. No score was reported.
"""

from typing import Any, Literal

from gander.consistency import Consistency
from gander.data.augment import Augment
from gander.layers.spectral_norm import spectral_norm as normalise
from gander.losses import LOSSES
from gander.models.locate import Discriminator, Generator
from gander.optimizers import OPTIMIZERS
from gander.penalties import PENALTIES
from gander.recipes.experiment import Experiment, Facts, notes
from gander.train.gan import Gan


def recipe(
    facts: Facts,
    *,
    resolution: int = 128,
    width: int = 48,
    depth: int = 1,
    reversible: bool = False,
    latent: int = 128,
    conv: Literal["bottleneck", "factorized", "separable", "inception3c", "factorized_inception3c"] = "bottleneck",
    norm: Literal["sample", "scalar", "batch", "batch_last", "none"] = "sample",
    residual: Literal["add", "mul"] = "add",
    attention: str = "feature+gate",
    attention_at: tuple[int, ...] | None = None,
    batch: int = 16,
    steps: int = 300_000,
    optimizer: Literal["adam", "nadam", "adabound"] = "nadam",
    generator_lr: float = 2e-4,
    discriminator_lr: float = 8e-4,
    betas: tuple[float, float] = (0.0, 0.99),
    ema: float = 0.999,
    loss: Literal["hinge", "logistic", "least_squares", "wasserstein", "relativistic"] = "hinge",
    r1: float = 0.0,
    r2: float = 0.0,
    wgan_gp: float = 0.0,
    cr: float = 1.0,
    bcr: float = 0.0,
    zcr: float = 0.0,
    spectral_norm: Literal["none", "discriminator", "both"] = "both",
    n_dis: int = 1,
    accumulate: int = 1,
    augment: str = "none",
    flip: bool = False,
) -> Experiment:
    """LocAtE with its ideas, and the mistakes of its code mended; labels are not used.

    Args:
        resolution: side of the images: 16, 32, 64, 128, 256, 512 or 1024; the depth follows. The source has 128.
        width: channels at the output side, an even number; doubled at each smaller one up to 32 times. The source has 48.
        depth: residual blocks at each side. One is the source's: it saw no benefit of more in 15 epochs.
        reversible: the generator's blocks behind the first at each side, of which a depth of 1 has none, keep nothing for backward
            and are computed again there: its memory does not grow with depth, a step takes longer. The discriminator stays as it
            is: such blocks have no second derivative, which r1, r2 and wgan_gp take of it.
        latent: numbers that an image is made from.
        conv: the blocks' convolution; the inceptions are those of the source's first versions. See `gander.layers.blocks`.
        norm: before each block: of each image; of the batch by one mean and variance (scalar, the source's) or by batch norm;
            batch_last is batch norm right before the addition, which the source's author saw fail.
        residual: add a block's output, or scale by 1 + it (mul, the source's); its weight is 0 at birth.
        attention: a key of `gander.attention.ATTENTION`; `+` puts two at one place. The source has feature+gate.
        attention_at: feature-map sides with attention, in both networks. By default every second: 16, 64, 256.
        batch: images of one optimiser step, over all processes. The source has 16.
        steps: generator updates. The source states none.
        optimizer: NAdam is the source's, after AdaBound, which it gave up.
        generator_lr: the generator's rate. The source has 5e-4; on emoji its discriminator was soon fooled at that.
        discriminator_lr: the discriminator's rate: four times the generator's.
        betas: the optimisers'. The source had (0, 0.9), then (0.5, 0.9).
        ema: decay of the average of the generator's weights that samples are made with. The source has none (0.0 turns it off).
        loss: of the game. Hinge is the source's, whose generator's side dies where the discriminator is fooled; here it is linear.
        r1: weight γ of γ/2·|∇D|² on real images.
        r2: weight γ of γ/2·|∇D|² on fake images.
        wgan_gp: weight of (|∇D| - 1)² between real and fake; the source's first form had it at 100, with the Wasserstein loss.
        cr: weight of consistency, (D(x) - D(x flipped and shifted))² on real images: what the source's penalty was meant to be.
            10 is published and made images here more alike; in short runs on probe:twins 0 was the best.
        bcr: the same on real and fake images; 10 is usual.
        zcr: weight of (D(G(z)) - D(G(z nearby)))²; the generator is paid a tenth of it for images that differ; 5 is usual.
        spectral_norm: on which networks. The source has it on both.
        n_dis: discriminator updates a step.
        accumulate: micro-batches a batch is cut into, where memory is short.
        augment: DiffAugment for small data: color, translation, cutout, joined by commas; none is the source.
        flip: mirror half of the real images.
    """
    size: dict[str, Any] = {"channels": facts.channels, "width": width, "attention": attention, "attention_at": attention_at}
    size |= {"depth": depth, "conv": conv, "norm": norm, "residual": residual}
    generator = Generator(resolution, latent_dim=latent, reversible=reversible, **size)
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
        loss=LOSSES[loss],
        penalties=[(PENALTIES[name], weight) for name, weight in weights.items() if weight],
        consistency=Consistency(cr=cr, bcr=bcr, zcr=zcr),
        n_dis=n_dis,
        accumulate=accumulate,
        ema=ema,
        augment=Augment(augment) if augment != "none" else None,
        flip=flip,
    )
    return Experiment(learner, batch, steps, resolution, notes(facts, augment, "locate", attention=attention, at=attention_at))
