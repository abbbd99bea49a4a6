"""Does a run repeat its training images? A verdict on the distances, and a picture to judge by eye."""

import numpy as np
from jaxtyping import UInt8

from gander import grids, metrics
from gander.data import Dataset
from gander.metrics.features import Features
from gander.metrics.memorisation import Memorisation
from gander.scoring.measured import Measured, cached, measure
from gander.scoring.reference import LEAST, Reference
from gander.scoring.subjects import Subject

SUSPECTS = 2_000  # samples and held-out images whose nearest training images are looked for
PAIRS = 12  # of the picture

Images = UInt8[np.ndarray, "_ h w c"]


def judged(subject: Subject, reference: Reference, network: Features) -> tuple[str, np.ndarray | None]:
    """The verdict on a subject, and the picture where the training images are at hand.

    Where nothing is held out, the images that a run on a fraction of them was not trained on are; where it was trained on all, a
    tenth of them stands for it: how near an image is to others of its kind does not depend on what was trained on it. Samples are
    then compared with the other nine tenths.
    """
    if reference.trained is False:
        return "memorisation not judged: the reference is not what was trained on", None
    training, said, dataset = reference.measured, [], reference.dataset
    if reference.trained is None:
        said += [f"should {training.facts['name']} be what was trained on"]
    images: Images | None
    if (part := reference.part) is not None:
        training, dataset = cached(part, network), part
    if reference.held_out is not None:
        held_out, images = measure(reference.held_out, network, SUSPECTS), reference.held_out.images
    elif part and (whole := reference.dataset) and len(left := _left(reference.measured, whole, part)) >= LEAST:
        held_out, images = left, whole.images
        said += [f"held out are {len(left):,} of those that the run was not trained on"]
    else:
        spare = min(SUSPECTS, len(training) // 10)
        if spare < LEAST:
            return f"memorisation not judged: {reference.lacking}, and {len(training):,} images are too few to spare some", None
        held_out, training = training.last(spare), training.first(len(training) - spare)
        images = dataset.images if dataset is not None else None
        said += [f"{spare:,} of the training images stand for held-out ones"]
    if len(training) < training.facts["of"]:
        said += [f"samples are compared with {len(training):,} of {training.facts['of']:,}"]
    found = metrics.memorisation(subject.vectors[:SUSPECTS], training.vectors, held_out.vectors)
    verdict = found.verdict + (f" ({'; '.join(said)})" if said else "")
    if dataset is None or images is None:
        return verdict, None
    return verdict, picture(subject.images, dataset.images, training, images[held_out.rows], found)


def _left(measured: Measured, dataset: Dataset, part: Dataset) -> Measured:
    """The first vectors of images of the data set that are not in the part of it."""
    names = {*part.names}
    rows = [i for i, row in enumerate(measured.rows) if dataset.names[row] not in names][:SUSPECTS]
    return Measured(measured.vectors[rows], measured.labels[rows], measured.rows[rows], measured.facts)


def picture(samples: Images, training: Images, measured: Measured, held_out: Images, found: Memorisation) -> np.ndarray:
    """Four rows: the samples nearest to a training image, these images; the held-out images nearest to one, and these.

    `measured` tells which of `training` the indices of `found` are.
    """
    suspects, real = found.order[:PAIRS], found.held_out.argsort(kind="stable")[:PAIRS]
    their, its = measured.rows[found.nearest[suspects]], measured.rows[found.held_out_nearest[real]]
    shown = [samples[suspects], training[their], held_out[real], training[its]]
    return grids.enlarge(grids.grid(np.concatenate(shown), PAIRS), 768)
