"""Vectors -> every score that they allow, each with its standard error and how that was come by."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt8

from gander import metrics
from gander.errors import UserError
from gander.metrics.features import Features
from gander.probes import Probe
from gander.scoring.card import Score

BLOCKS = 10  # of a jackknife
KERNEL_BLOCK = 1_000
NEIGHBOURS = 10_000  # images of each set at most, for what looks at all pairs
JACKKNIFE = f"jackknife over {BLOCKS} blocks of samples"

Vectors = Float[np.ndarray, "_ _"]
Labels = Int64[np.ndarray, " _"]


class Scores(NamedTuple):
    """Scores, notes on what is to be said of them, and the Fréchet distance within each class, by label."""

    scores: list[Score]
    notes: list[str]
    classes: dict[int, float]


def distances(samples: Vectors, reference: Vectors, network: Features, moments: metrics.Moments | None = None) -> Scores:
    """The Fréchet distance, and the kernel distance, which has no bias where images are few.

    `moments` are the reference's, where they are known.
    """
    found = metrics.frechet(samples, moments or metrics.Moments.of(reference, "reference"), blocks=BLOCKS)
    if min(len(samples), len(reference)) >= BLOCKS * KERNEL_BLOCK:
        blocks = metrics.kernel_distance_in_blocks(samples[:NEIGHBOURS], reference[:NEIGHBOURS], size=KERNEL_BLOCK)
        kernel, error, how = blocks.distance, blocks.error, f"{blocks.blocks} blocks of {blocks.size:,} of each set"
    else:
        x, y = samples[:NEIGHBOURS], reference[:NEIGHBOURS]
        kernel, error = metrics.kernel_distance_with_error(x, y, number=BLOCKS)
        how = f"{len(x):,} to {len(y):,} at once; {JACKKNIFE}"
    scores = [Score(network.title, found.distance, found.error, JACKKNIFE, "lower")]
    scores += [Score(_named("KID", network), kernel, error, how, "lower")]
    return Scores(scores, [found.warning] if found.warning else [], {})


def all_scores(
    samples: Vectors, labels: Labels | None, logits: Vectors | None, real: Vectors, of_real: Labels | None, network: Features
) -> Scores:
    """Every score of these samples against `real` ones. Labels are numbers of the same classes, None where there are none."""
    moments = metrics.Moments.of(real, "reference")
    scores, notes, _ = distances(samples, real, network, moments)
    n, width = samples.shape
    parts = tuple(k for k in range(1, 6) if n // k > width)
    if len(parts) >= 3:  # the bias falls as 1/n only where there are more samples than dimensions
        limit = metrics.frechet_at_infinity(samples, moments, parts=parts, error=scores[0].error)
        how = f"line in 1/n through n = {', '.join(f'{size:,}' for size in limit.sizes)}; its error and the jackknife's"
        title = network.title.replace("FID", "FID∞").replace("Fréchet", "Fréchet∞")
        scores.insert(1, Score(title, limit.distance, limit.error, how, "lower"))
    classes: dict[int, float] = {}
    if labels is not None and of_real is not None:
        try:
            within = metrics.frechet_by_class(samples, labels, real, of_real, blocks=BLOCKS)
        except UserError as error:
            notes.append(f"no distance within classes: {error}")
        else:
            classes = {label: found.distance for label, found in within.classes.items()}
            few = min(int(np.bincount(which)[list(classes)].min()) for which in (labels, of_real))
            how = f"mean over {len(classes)} classes of {few:,} images or more; {JACKKNIFE}"
            scores.append(Score(f"intra-{network.title}", within.mean, within.error, how, "lower"))
            if few < width:
                notes.append(f"a class has {few} images in {width} dimensions: compare intra-{network.title} at equal counts only")
    if network.reference and logits is not None:
        certain = metrics.inception_score(logits)
        scores.append(Score("IS", certain.score, certain.error, "10 splits", "higher"))
    k = min(n, len(real), NEIGHBOURS)
    how = f"{k:,} of each, k = 3 and 5 for density and coverage; binomial, the other set as given"
    for name, share in metrics.precision_recall(samples[:k], real[:k])._asdict().items():
        scores.append(Score(_named(name, network), share.value, share.error, how, "higher"))
    return Scores(scores, notes, classes)


def grades(probe: Probe, images: UInt8[np.ndarray, "n h w 3"], labels: Labels | None) -> list[Score]:
    """What the probe says of the images; the error is that of a mean over blocks."""
    every = np.arange(len(images))

    def graded(rows: np.ndarray) -> dict[str, float]:
        floats = images[rows].transpose(0, 3, 1, 2) / np.float32(127.5) - 1
        return probe.grade(floats, None if labels is None else labels[rows])

    parts = [graded(every[every % BLOCKS == block]) for block in range(BLOCKS)]
    spread = {name: float(np.std([part[name] for part in parts], ddof=1)) for name in parts[0]}
    how = f"spread of {BLOCKS} blocks of samples"
    return [Score(f"{probe.name}/{name}", v, spread[name] / BLOCKS**0.5, how, "higher") for name, v in graded(every).items()]


def _named(name: str, network: Features) -> str:
    """A bare name is that of published figures: it takes the reference weights."""
    return name if network.reference else f"{name}[{network.name}]"
