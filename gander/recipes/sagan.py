"""SAGAN for any folder of images: the article's networks, unconditional and small.

Source: Thalles Silva, "Self-Attention in GANs", and its code (CelebA 128×128). The networks, and what is mended in them:
`gander.models.sagan_article`.
Claim of the source: images of faces whose parts fit together; no score was reported.
"""

from typing import Any, Literal

from gander.consistency import Consistency
from gander.data.augment import Augment
from gander.layers.spectral_norm import spectral_norm as normalise
from gander.losses import LOSSES
from gander.models.sagan_article import Discriminator, Generator
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
    attention: str = "article",
    attention_at: tuple[int, ...] | None = None,
    batch: int = 64,
    steps: int = 300_000,
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
    dequantize: bool = True,
    norm_gain: bool = False,
    leak: float = 0.1,
) -> Experiment:
    """The SAGAN of Thalles Silva's article, with spectral norm that works.

    Args:
        resolution: side of the images: 16, 32, 64, 128 or 256; the depth follows. The article has 128.
        width: 64 is the article's networks (512 channels at 4×4); half of it has about a quarter of the weights.
        latent: numbers that an image is made from.
        attention: a key of `gander.attention.ATTENTION`; `+` puts two at one place. The article's layer is unpooled, with biases.
        attention_at: feature-map sides with attention, in both networks. By default min(32, resolution / 2), the article's 32.
        batch: images of one optimiser step, over all processes.
        steps: generator updates. The article's 600,000 counted both optimisers' updates.
        generator_lr: Adam's rate for the generator.
        discriminator_lr: Adam's rate for the discriminator: four times the generator's, so that one update each keeps pace.
        betas: Adam's. No momentum (0.0): the opponent moves, yesterday's gradient is of another game.
        ema: decay of the average of the generator's weights that samples are made with. The article has none (0.0 turns it off).
        loss: of the game. Hinge is the article's.
        r1: weight γ of γ/2·|∇D|² on real images; 0 is off, as in the article.
        r2: weight γ of γ/2·|∇D|² on fake images.
        wgan_gp: weight of (|∇D| - 1)² between real and fake; 10 belongs to the Wasserstein loss.
        cr: weight of consistency, (D(x) - D(x flipped and shifted))² on real images; 10 is usual.
        bcr: the same on real and fake images; 10 is usual.
        zcr: weight of (D(G(z)) - D(G(z nearby)))²; the generator is paid a tenth of it for images that differ; 5 is usual.
        spectral_norm: on which networks. The article has it on both.
        n_dis: discriminator updates a step.
        accumulate: micro-batches a batch is cut into, where memory is short; batch norm sees each apart.
        simultaneous: update both networks from the same weights, as the article's code does; else the discriminator first.
        augment: DiffAugment for small data: color, translation, cutout, joined by commas; none is the article.
        flip: mirror half of the real images: right for faces, wrong for letters.
        dequantize: add U(0, 1/128) to real images, as the article does.
        norm_gain: give batch norm its gamma; the article's code has none.
        leak: slope of LeakyReLU below zero. The article's text says 0.02, its code 0.1.
    """
    size: dict[str, Any] = {"channels": facts.channels, "width": width, "attention": attention, "attention_at": attention_at}
    generator = Generator(resolution, latent_dim=latent, norm_gain=norm_gain, **size)
    discriminator = Discriminator(resolution, leak=leak, **size)
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
        dequantize=dequantize,
    )
    return Experiment(learner, batch, steps, resolution, notes(facts, augment, "sagan", attention=attention, at=attention_at))
