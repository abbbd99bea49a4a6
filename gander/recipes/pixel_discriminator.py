"""A GAN without convolutions whose discriminator says where: of the image, of every pixel, and in boxes.

Source: Gwern Branwen's proposal (tensorfork, 2020) of a U-Net discriminator (Schönfeld et al. 2020, https://arxiv.org/abs/2002.12655)
that also finds what is fake as DETR finds objects (Carion et al. 2020, https://arxiv.org/abs/2005.12872), both without convolution.
Networks: `gander.models.all_attention.unet_detr`, and `pyramid` or `skinny`; what its heads are paid: `gander.cutmix`.
Claim of the source: none was trained. The U-Net GAN, of convolutions: FID 11.48 -> 7.48 on FFHQ at 256 px.
"""

from typing import Any, Literal

from gander.consistency import Consistency
from gander.cutmix import CutMix
from gander.data.augment import Augment
from gander.layers.spectral_norm import spectral_norm as normalise
from gander.losses import LOSSES
from gander.models.all_attention import pyramid, skinny, unet_detr
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
    generator: Literal["pyramid", "skinny"] = "pyramid",
    width: int = 256,
    depth: int = 2,
    latent: int = 256,
    patch: int = 1,
    reversible: bool = False,
    discriminator_width: int = 48,
    discriminator_depth: int = 1,
    scales: int = 3,
    image: bool = True,
    pixels: float = 1.0,
    boxes: float = 0.1,
    queries: int = 16,
    composites: float = 0.5,
    composite_warm_up: int = 5_000,
    rectangles: int = 2,
    composite_image: float = 0.5,
    pixel_consistency: float = 1.0,
    batch: int = 32,
    steps: int = 100_000,
    generator_lr: float = 1e-4,
    discriminator_lr: float = 2e-4,
    betas: tuple[float, float] = (0.0, 0.999),
    ema_half_life: float = 10.0,
    warm_up: int = 500,
    clip: float = 1.0,
    loss: Literal["logistic", "hinge", "least_squares", "wasserstein", "relativistic"] = "logistic",
    r1: float = 0.0,
    r2: float = 0.0,
    approximate_r1: float = 0.0,
    approximate_r2: float = 0.0,
    bcr: float = 0.0,
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
        generator: pyramid, from 8×8 pixels up, or skinny, a stack of blocks on latent tokens.
        width: of a token of the pyramid at 8×8, or of a latent token.
        depth: blocks at each side of the pyramid, or of the skinny stack, for which 6 to 12 are right.
        latent: numbers that an image is made from; w, which modulates every norm, has as many.
        patch: side of what a token of the generator's last side paints; 2 is a quarter of the work.
        reversible: the generator's blocks keep nothing for backward: less memory, a longer step. For 128 px and more.
        discriminator_width: of a token at the largest scale, a multiple of 4; doubled at each next one. 96 is a large one.
        discriminator_depth: blocks at each scale, on the way down and on the way up.
        scales: of the discriminator, each half of the one before.
        image: whether an image has a logit of its own; without, it is the mean of its pixels', and pixels cannot be 0.
        pixels: weight of each pixel's verdict beside the image's; 0 is no such head. Equal weights are the U-Net GAN's.
        boxes: weight of the boxes of what is fake; 0 is no such head. Above 0.1 they may outweigh the rest at first.
        queries: boxes that are asked for.
        composites: share of updates that have images partly real and partly fake too. The U-Net GAN has 0.5.
        composite_warm_up: steps over which that share rises from 0, 1 for none; in the source 100 to 200 epochs.
        rectangles: of a composite at most.
        composite_image: weight of a composite's logit as an image, which is to be fake.
        pixel_consistency: weight of (a composite's pixel logits - those of its images)². The source has 1.
        batch: images of one optimiser step, over all processes.
        steps: generator updates.
        generator_lr: Adam's rate for the generator. The U-Net GAN has 1e-4 at batch 20.
        discriminator_lr: Adam's rate for the discriminator. The U-Net GAN has 5e-4.
        betas: Adam's. The U-Net GAN's.
        ema_half_life: thousands of images after which weights count half in the average that samples are made with; 0 is none.
        warm_up: steps over which both rates rise from zero, 1 for none; attention that is moved far at once may saturate.
        clip: the largest norm of a network's gradient; 0 is any. TransGAN has 5.
        loss: of the game. Logistic is the source's, and what pixels have.
        r1: weight γ of γ/2·|∇D|² on real images, by second derivatives; what a discriminator of products is held by.
        r2: weight γ of γ/2·|∇D|² on fake images. R3GAN: loss relativistic, r1 and r2.
        approximate_r1: r1 without second derivatives, by the difference D(x) - D(x + noise); APT's.
        approximate_r2: the same on fake images.
        bcr: weight of (D(x) - D(x flipped and shifted))² on real and fake images. 10 is usual.
        zcr: weight of (D(G(z)) - D(G(z nearby)))²; the generator is paid a tenth of it for images that differ; 5 is usual.
        lecam: weight of LeCam regularisation, from step 1,000 on; for few images, 0.1 to 0.5.
        spectral_norm: hold the discriminator's weights at the singular values that they were born with (ViTGAN).
        n_dis: discriminator updates a step.
        accumulate: micro-batches a batch is cut into, where memory is short. The discriminator compares images of one by fours, so
            each should have a multiple of 4 on each process.
        augment: DiffAugment: color, translation, cutout, joined by commas. Without it attention learns few images by heart.
        adaptive: ADA: do each of these to an image with a probability that begins at 0 and rises while the discriminator is sure of
            real images. For logistic and hinge.
        flip: mirror half of the real images.
    """
    facing: dict[str, Any] = {"channels": facts.channels, "num_classes": facts.num_classes}
    size: dict[str, Any] = {"latent_dim": latent, "style": latent, "width": width, "patch": patch, "reversible": reversible}
    made: pyramid.Generator | skinny.Generator
    if generator == "pyramid":
        made = pyramid.Generator(resolution, depth=(depth,), **size, **facing)
    else:
        made = skinny.Generator(resolution, depth=depth, **size, **facing)
    network = unet_detr.Discriminator(
        resolution,
        width=discriminator_width,
        depth=discriminator_depth,
        scales=scales,
        image=image,
        pixels=pixels > 0,
        queries=queries if boxes else 0,
        **facing,
    )
    if spectral_norm:
        normalise(network, scale="initial")
    game = CutMix(
        image=composite_image,
        pixels=pixels,
        consistency=pixel_consistency,
        boxes=boxes,
        rectangles=rectangles,
        often=composites,
        warm_up=composite_warm_up,
    )
    weights = {"r1": r1, "r2": r2, "approximate_r1": approximate_r1, "approximate_r2": approximate_r2}
    learner = Gan(
        made,
        network,
        generator_optimizer=adam(made.parameters(), generator_lr, betas),
        discriminator_optimizer=adam(network.parameters(), discriminator_lr, betas),
        loss=LOSSES[loss],
        penalties=[(PENALTIES[name], weight) for name, weight in weights.items() if weight],
        consistency=Consistency(bcr=bcr, zcr=zcr),
        cutmix=game,
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
