"""A classifier of attention alone: patches, blocks of attention and MLPs, the mean over patches; no convolution anywhere.

Source: the plain vision transformer as Beyer et al. 2022, https://arxiv.org/abs/2205.01580, trained it on ImageNet in 90 epochs, as
others train a ResNet; here by the lesson of `imagewoof` (one cycle of the rate, AdamW, crops, label smoothing), so that the two can
be compared. It must learn from the images what a convolution is born with: beside a ResNet it wants more of them, or more epochs.
"""

from typing import Literal

from gander.data.crops import MARGIN
from gander.errors import UserError
from gander.models.all_attention.classifier import Classifier
from gander.optimizers import adamw, decay_groups
from gander.recipes.experiment import Experiment, Facts
from gander.train.classifier import Lesson


def recipe(
    facts: Facts,
    *,
    resolution: int = 128,
    width: int = 384,
    depth: int = 12,
    heads: int | None = None,
    patch: int | None = None,
    overlap: int | None = None,
    attention: Literal["product", "l2", "lsh"] = "product",
    epochs: int = 90,
    steps: int | None = None,
    batch: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 5e-2,
    smoothing: float = 0.1,
    mixup: float = 0.2,
    flip: bool = True,
    progressive: tuple[int, ...] = (),
    accumulate: int = 1,
) -> Experiment:
    """A classifier from labels that folders give, examined on held-out images every epoch.

    Args:
        resolution: side of the images; the patch divides it.
        width: of a token, a multiple of 4. 384, 6 heads and 12 blocks are ViT-S of the source.
        depth: blocks of attention and MLP, one after the other.
        heads: of attention; by default one for 64 channels.
        patch: its side in pixels; by default an eighth of the resolution, from 2 to 16. The source has 16 at 224 px.
        overlap: pixels by which a patch reaches into its neighbours; half of it by default, 0 in the source.
        attention: of products with normed queries and keys; of distances (l2); or by hashes, for many patches (lsh).
        epochs: passes over the images; 90 in the source, of 1.3 million.
        steps: updates; by default those of the epochs. The cycle of the rate is made to end with them.
        batch: images of one optimiser step, over all processes. The source has 1,024.
        lr: the highest rate of the cycle, as in the source.
        weight_decay: of matrices, as in DeiT; norms, biases and the gains of branches have none.
        smoothing: of the labels; none in the source.
        mixup: alpha of the Beta law by which images are mixed, as in the source; 0 is none.
        flip: mirror half of the images: wrong for letters.
        progressive: sides that training begins with before the resolution, equal shares of the steps for each, tiled by the patch.
        accumulate: micro-batches a batch is cut into, where memory is short; mixup sees each apart.
    """
    if steps is not None and steps < 1:
        raise UserError(f"steps {steps} is not a whole number from 1 on; leave it out for those of the epochs")
    if width % 4:
        raise UserError(f"width {width} is no multiple of 4, which the sines of places need; take {width + -width % 4}")
    patch = min(16, max(2, resolution // 8)) if patch is None else patch
    for side in (resolution, *progressive):
        if patch < 1 or side % patch:
            raise UserError(f"patches of {patch} px do not tile images of {side} px; take --patch and sides that fit")
    classes, epoch = facts.num_classes or 10, max(1, facts.num_images // batch)
    total = steps or epochs * epoch
    classifier = Classifier(
        classes,
        channels=facts.channels,
        width=width,
        depth=depth,
        heads=heads,
        patch=patch,
        overlap=overlap,
        attention=attention,
    )
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
    notes = [] if facts.num_classes else ["the data has no classes here; 10 are taken, as CIFAR-10 has"]
    return Experiment(
        learner, batch, total, resolution, notes, growing=False, side=resolution + MARGIN, labelled=True, exam_every=epoch
    )
