"""Imagewoof and Imagenette: does attention help a classifier? An xresnet, any attention in it, a few epochs.

Source: SimpleSelfAttention (https://github.com/sdoria/SimpleSelfAttention) on fastai's ten breeds of dogs and ten easy classes of
ImageNet; any folder of class folders will do. Images are squares of the resolution and 32 pixels more, from which training cuts at
random and validation the middle (`gander.data.crops` says what differs).
Claim of the source: Imagewoof, 128 px, 5 epochs, xresnet50, 12 runs an arm: accuracy 62.3 % without attention, 65.2 % with it, on
500 held-out images of the set's first version. Later versions hold others out: compare arms with each other, not with that.
"""

from typing import Literal

import torch

from gander.data.crops import MARGIN
from gander.errors import UserError
from gander.layers.spectral_norm import spectral_norm as normalise
from gander.layers.standardise import Standardise
from gander.models import xresnet
from gander.optimizers import adamw, decay_groups
from gander.recipes.experiment import Experiment, Facts
from gander.train.classifier import Lesson

LEAST = 17  # below it torch 2.13's bf16 convolutions on a CPU give the last stage's weights a wrong gradient, too


def recipe(
    facts: Facts,
    *,
    network: Literal["xresnet18", "xresnet34", "xresnet50", "xresnet101", "xresnet152"] = "xresnet50",
    resolution: int = 128,
    width: int = 64,
    attention: str = "simple",
    stages: tuple[int, ...] = (0,),
    where: Literal["branch", "after"] = "branch",
    blur_pool: bool = False,
    activation: Literal["relu", "mish"] = "relu",
    epochs: int = 5,
    steps: int | None = None,
    batch: int = 64,
    lr: float = 3e-3,
    weight_decay: float = 1e-2,
    smoothing: float = 0.1,
    mixup: float = 0.0,
    flip: bool = True,
    progressive: tuple[int, ...] = (),
    accumulate: int = 1,
) -> Experiment:
    """A classifier from labels that folders give, examined on held-out images every epoch.

    Args:
        network: how deep. The source's tables are of xresnet50 and xresnet18.
        resolution: side of the images: 128, 192 or 256 in the tables of these data; any will do.
        width: channels of the first stage; 64 is as published.
        attention: a key of `gander.attention.ATTENTION`. The source's is simple; it compares with none and full.
        stages: attention ends the last block of these, counted from 0. The source has it in the first alone.
        where: of that block: in its branch, before the addition, as the source, or after it.
        blur_pool: blur before the stem halves its sides, as entries of the data's leaderboards do.
        activation: relu as published, or mish as those entries.
        epochs: passes over the images; 5, 20, 80 and 400 have tables.
        steps: updates; by default those of the epochs. The cycle of the rate is made to end with them.
        batch: images of one optimiser step, over all processes.
        lr: the highest rate of the cycle. The source has 3e-3 for xresnet50 and 8e-3 for xresnet18.
        weight_decay: of matrices and kernels; norms, biases and attention's gamma have none. The source shrinks gamma too.
        smoothing: of the labels.
        mixup: alpha of the Beta law by which images are mixed; 0 is none, the source's other value 0.2.
        flip: mirror half of the images: wrong for letters.
        progressive: sides that training begins with before the resolution, equal shares of the steps for each; none in the source.
        accumulate: micro-batches a batch is cut into, where memory is short; batch norm and mixup see each apart.
    """
    if steps is not None and steps < 1:
        raise UserError(f"steps {steps} is not a whole number from 1 on; leave it out for those of the epochs")
    for side in (resolution, *progressive):
        if side < LEAST:
            raise UserError(f"at {side} px the last stage would see one pixel; take sides of {LEAST} or more")
    classes, epoch = facts.num_classes or 10, max(1, facts.num_images // batch)
    total = steps or epochs * epoch
    build = getattr(xresnet, network)
    options = {"channels": facts.channels, "width": width, "stages": stages, "where": where, "blur_pool": blur_pool}
    classifier = build(classes, attention=attention, activation=activation, resolution=resolution, **options)
    if progressive:
        _check_any_size(attention)
    classifier.stem.insert(0, Standardise(facts.channels))
    normalise(classifier, where=lambda name, layer: ".attention" in name)
    learner = Lesson(
        classifier,
        optimizer=adamw(decay_groups(classifier), lr, (0.95, 0.99), eps=1e-6, weight_decay=weight_decay),
        steps=total,
        resolution=resolution,
        smoothing=smoothing,
        mixup=mixup,
        flip=flip,
        accumulate=accumulate,
        progressive=progressive,
    )
    notes = [] if facts.num_classes else ["the data has no classes here; 10 are taken, as Imagewoof and Imagenette have"]
    return Experiment(
        learner, batch, total, resolution, notes, growing=False, side=resolution + MARGIN, labelled=True, exam_every=epoch
    )


def _check_any_size(attention: str) -> None:
    """UserError for a layer that is made for one size of its input."""
    try:
        with torch.device("meta"):
            xresnet.xresnet18(attention=attention)
    except UserError:
        raise UserError(
            f"attention {attention!r} is made for one side, and --progressive changes it; leave one of them out"
        ) from None
