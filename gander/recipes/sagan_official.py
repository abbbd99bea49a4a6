"""SAGAN as its authors released it: class-conditional where the data has classes, unconditional where it has none.

Source: Zhang et al. 2018, arXiv:1805.08318; brain-research/self-attention-gan. Networks: `gander.models.sagan`.
Claim of the source: ImageNet 128×128, Inception score 36.8 -> 52.52, FID 27.62 -> 18.65 after 1M steps at batch 256.
Reproductions in PyTorch reached FID 30 to 37: quote yours against those.
"""

from typing import Any, Literal

from gander.consistency import Consistency
from gander.data.augment import Augment
from gander.layers.spectral_norm import spectral_norm as normalise
from gander.losses import LOSSES
from gander.models.sagan import Discriminator, Generator
from gander.optimizers import adam
from gander.penalties import PENALTIES
from gander.recipes.experiment import Experiment, Facts, notes
from gander.train.gan import Gan


def recipe(
    facts: Facts,
    *,
    resolution: int = 128,
    width: int = 64,
    latent: int = 128,
    attention: str = "self",
    attention_at: tuple[int, ...] | None = None,
    batch: int = 256,
    steps: int = 1_000_000,
    generator_lr: float = 1e-4,
    discriminator_lr: float = 4e-4,
    betas: tuple[float, float] = (0.0, 0.9),
    ema: float = 0.999,
    loss: Literal["hinge", "logistic", "least_squares", "wasserstein", "relativistic"] = "hinge",
    r1: float = 0.0,
    r2: float = 0.0,
    wgan_gp: float = 0.0,
    cr: float = 0.0,
    bcr: float = 0.0,
    zcr: float = 0.0,
    spectral_norm: Literal["none", "discriminator", "both"] = "both",
    n_dis: int = 1,
    accumulate: int = 1,
    simultaneous: bool = False,
    augment: str = "none",
    flip: bool = False,
    statistics: Literal["global", "process"] = "global",
    folded: bool = False,
) -> Experiment:
    """The official SAGAN: residual blocks, conditional batch norm, projection discriminator.

    Args:
        resolution: side of the images: 16, 32, 64, 128 or 256; the depth follows. The paper has 128.
        width: channels at the output side, doubled at each smaller one up to 16 times. The paper has 64.
        latent: numbers that an image is made from.
        attention: a key of `gander.attention.ATTENTION`; `+` puts two at one place. `self` is the released, pooled layer.
        attention_at: feature-map sides with attention, in both networks. By default min(32, resolution / 2), the released 32.
        batch: images of one optimiser step, over all processes. The paper's 256 were 4 × 64.
        steps: generator updates. The paper's tables stop at one million.
        generator_lr: Adam's rate for the generator.
        discriminator_lr: Adam's rate for the discriminator: four times the generator's (two time scales), one update each.
        betas: Adam's. The paper says (0.0, 0.9); its code leaves the second at 0.999.
        ema: decay of the average of the generator's weights that samples are made with. The source has none (0.0 turns it off).
        loss: of the game. Hinge is the paper's.
        r1: weight γ of γ/2·|∇D|² on real images; 0 is off, as in the paper.
        r2: weight γ of γ/2·|∇D|² on fake images.
        wgan_gp: weight of (|∇D| - 1)² between real and fake; 10 belongs to the Wasserstein loss.
        cr: weight of consistency, (D(x) - D(x flipped and shifted))² on real images; 10 is usual.
        bcr: the same on real and fake images; 10 is usual.
        zcr: weight of (D(G(z)) - D(G(z nearby)))²; the generator is paid a tenth of it for images that differ; 5 is usual.
        spectral_norm: on which networks. The paper's point is both.
        n_dis: discriminator updates a step. One, with the two rates; 5 is what small data sets were reproduced with.
        accumulate: micro-batches a batch is cut into, where memory is short; batch norm sees each apart.
        simultaneous: update both networks from the same weights; else the discriminator first.
        augment: DiffAugment for small data: color, translation, cutout, joined by commas; none is the paper.
        flip: mirror half of the real images.
        statistics: batch norm of the global batch, or of each process as the official code has it.
        folded: a resampling and its 3×3 convolution as one of 4×4 with 4/9 of the work: the same function to rounding. On a
            CPU a step is up to 1.3 times as fast, but slower where width is 64 and a batch few images: weights are larger.
    """
    size: dict[str, Any] = {"channels": facts.channels, "width": width, "attention": attention, "attention_at": attention_at}
    size |= {"num_classes": facts.num_classes, "folded": folded}
    generator = Generator(resolution, latent_dim=latent, statistics=statistics, **size)
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
        simultaneous=simultaneous,
        ema=ema,
        augment=Augment(augment) if augment != "none" else None,
        flip=flip,
    )
    return Experiment(learner, batch, steps, resolution, notes(facts, augment, attention=attention, at=attention_at))
