"""A GAN without convolutions: a deep, thin generator of self-attention over latent tokens, and a vision transformer against it.

Source: Gwern Branwen's proposal to drop convolutions (tensorfork, 2020), whose skinny form this is; the discriminator and how it is
trained are ViTGAN's (Lee et al. 2021, https://arxiv.org/abs/2107.04589). Networks: `gander.models.all_attention.skinny` and `vit`.
Claim of the source: none was trained. ViTGAN: FID 6.66 on CIFAR-10, by another generator.
"""

from typing import Any, Literal

from gander.consistency import Consistency
from gander.data.augment import Augment
from gander.layers.spectral_norm import spectral_norm as normalise
from gander.losses import LOSSES
from gander.models import sagan
from gander.models.all_attention import skinny, vit
from gander.optimizers import adam
from gander.penalties import PENALTIES
from gander.recipes.experiment import Experiment, Facts, notes
from gander.train.balance import Adaptive, LeCam
from gander.train.ema import decay_of
from gander.train.gan import Gan


def recipe(
    facts: Facts,
    *,
    resolution: int = 32,
    width: int = 192,
    depth: int = 6,
    tokens: int = 64,
    latent: int = 256,
    mapping: Literal["attention", "connected", "none"] = "attention",
    mapping_depth: int = 4,
    stage_depth: int = 2,
    pixels: str = "window+lsh",
    single_pass: bool = False,
    upsample: Literal["shuffle", "nearest"] = "shuffle",
    head: Literal["linear", "fourier"] = "linear",
    patch: int = 1,
    reversible: bool = False,
    discriminator: Literal["vit", "sagan"] = "vit",
    discriminator_width: int = 192,
    discriminator_depth: int = 4,
    discriminator_attention: Literal["l2", "product"] = "l2",
    batch: int = 32,
    steps: int = 100_000,
    generator_lr: float = 1e-4,
    discriminator_lr: float = 4e-4,
    betas: tuple[float, float] = (0.0, 0.99),
    ema_half_life: float = 10.0,
    warm_up: int = 500,
    clip: float = 1.0,
    loss: Literal["logistic", "hinge", "least_squares", "wasserstein", "relativistic"] = "logistic",
    r1: float = 0.0,
    r2: float = 0.0,
    approximate_r1: float = 0.0,
    approximate_r2: float = 0.0,
    bcr: float = 10.0,
    zcr: float = 0.0,
    lecam: float = 0.0,
    spectral_norm: bool = True,
    n_dis: int = 1,
    accumulate: int = 1,
    augment: str = "color,translation,cutout",
    adaptive: bool = False,
    flip: bool = False,
) -> Experiment:
    """Attention and linear layers alone, 16 to 512 px; conditional where the data have classes.

    Args:
        resolution: side of the images: 16, 32, 64, 128, 256 or 512.
        width: of a latent token; those of pixels follow. The design for 32 px on a GPU has 384.
        depth: blocks on the latent tokens. The design has 12.
        tokens: latent tokens, each by a layer of its own, latent · width weights.
        latent: numbers that an image is made from; w, which modulates every norm, has as many.
        mapping: from latent to w: attention over pieces of it, fully connected layers as StyleGAN's, or none.
        mapping_depth: its blocks or layers. StyleGAN has 8.
        stage_depth: blocks at each side of pixels, of which there are two or three.
        pixels: their attention in turn: product (each looks at all), window, lsh. Beyond 64 px product takes long.
        single_pass: no smaller sides: each pixel of the image reads the latent tokens.
        upsample: from one side to the next by shuffling channels into pixels, or by repeating pixels, which draws no checkerboard.
        head: how a token paints its patch: by one linear layer, or by waves (ViTGAN); waves want a patch of 2 or more.
        patch: side of what a token of the last side paints; 2 is a quarter of the work.
        reversible: blocks keep nothing for backward and are computed again there: memory does not grow with depth, a step takes up
            to a third longer. For 128 px and more.
        discriminator: vit is attention alone; sagan is SAGAN's, of convolutions: the strongest published pairs have such a one
            beside a generator of attention (ViTGAN's with StyleGAN2's discriminator: FID 4.57 on CIFAR-10, 6.66 with its own).
        discriminator_width: of a token of vit (ViTGAN: 384); sagan's channels at its largest side are a third of it.
        discriminator_depth: blocks of vit.
        discriminator_attention: of vit. l2 has a Lipschitz constant (ViTGAN); product has none and asks for r1 and r2.
        batch: images of one optimiser step, over all processes.
        steps: generator updates.
        generator_lr: Adam's rate for the generator. TransGAN's; ViTGAN's 2e-3 is of equalised weights.
        discriminator_lr: Adam's rate for the discriminator: four times the generator's, as in SAGAN.
        betas: Adam's. ViTGAN's.
        ema_half_life: thousands of images after which weights count half in the average that samples are made with; 0 is none.
        warm_up: steps over which both rates rise from zero, 1 for none; attention that is moved far at once may saturate.
        clip: the largest norm of a network's gradient; 0 is any. TransGAN has 5.
        loss: of the game. Logistic is ViTGAN's.
        r1: weight γ of γ/2·|∇D|² on real images, by second derivatives; what a discriminator of products is held by.
        r2: weight γ of γ/2·|∇D|² on fake images. R3GAN: loss relativistic, r1 and r2.
        approximate_r1: r1 without second derivatives, by the difference D(x) - D(x + noise); APT's.
        approximate_r2: the same on fake images.
        bcr: weight of (D(x) - D(x flipped and shifted))² on real and fake images. ViTGAN has it; 10 is usual.
        zcr: weight of (D(G(z)) - D(G(z nearby)))²; the generator is paid a tenth of it for images that differ; 5 is usual.
        lecam: weight of LeCam regularisation, from step 1,000 on; for few images, 0.1 to 0.5.
        spectral_norm: hold the discriminator's weights at the singular values that they were born with (ViTGAN);
            sagan's at 1.
        n_dis: discriminator updates a step.
        accumulate: micro-batches a batch is cut into, where memory is short. The discriminator compares images of one by fours, so
            each should have a multiple of 4 on each process.
        augment: DiffAugment: color, translation, cutout, joined by commas. Without it attention learns few images by heart.
        adaptive: ADA: do each of these to an image with a probability that begins at 0 and rises while the discriminator is sure of
            real images. For logistic and hinge.
        flip: mirror half of the real images.
    """
    facing: dict[str, Any] = {"channels": facts.channels, "num_classes": facts.num_classes}
    generator = skinny.Generator(
        resolution,
        latent_dim=latent,
        style=latent,
        width=width,
        depth=depth,
        tokens=tokens,
        mapping=mapping,
        mapping_depth=mapping_depth,
        stage_depth=stage_depth,
        pixels=pixels,
        single_pass=single_pass,
        upsample=upsample,
        head=head,
        patch=patch,
        reversible=reversible,
        **facing,
    )
    network: vit.Discriminator | sagan.Discriminator
    if discriminator == "vit":
        network = vit.Discriminator(
            resolution, width=discriminator_width, depth=discriminator_depth, attention=discriminator_attention, **facing
        )
    else:
        network = sagan.Discriminator(resolution, width=max(1, discriminator_width // 3), **facing)
    if spectral_norm:
        normalise(network, scale="initial" if discriminator == "vit" else "one")
    weights = {"r1": r1, "r2": r2, "approximate_r1": approximate_r1, "approximate_r2": approximate_r2}
    learner = Gan(
        generator,
        network,
        generator_optimizer=adam(generator.parameters(), generator_lr, betas),
        discriminator_optimizer=adam(network.parameters(), discriminator_lr, betas),
        loss=LOSSES[loss],
        penalties=[(PENALTIES[name], weight) for name, weight in weights.items() if weight],
        consistency=Consistency(bcr=bcr, zcr=zcr),
        lecam=LeCam(lecam) if lecam else None,
        n_dis=n_dis,
        accumulate=accumulate,
        ema=decay_of(ema_half_life, batch),
        warm_up=warm_up,
        clip=clip,
        augment=Adaptive(augment) if adaptive else Augment(augment) if augment != "none" else None,
        flip=flip,
    )
    return Experiment(learner, batch, steps, resolution, notes(facts, augment))
