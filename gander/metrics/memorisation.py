"""Does a generator repeat its training images? Its samples against what held-out real images get."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from scipy import stats

from gander.metrics.distances import nearest
from gander.metrics.vectors import Features, check_width, pair, vectors

LEVEL = 0.001  # of each test: with scores at every checkpoint, one in a hundred would cry wolf
TAILS = (0.0, 0.01, 0.05)  # of the held-out distances; 0 is the smallest alone


class Tail(NamedTuple):
    """The samples that are nearer to a training image than the `rank`-th nearest of the held-out images.

    The `share` of samples that is to be `expected` without memorisation, the one that came, its 95 % interval (Wilson 1927),
    and how probable as many or more are without memorisation.
    """

    rank: int
    expected: float
    share: float
    low: float
    high: float
    p: float


class Memorisation(NamedTuple):
    """Distances (n,) of the samples to their nearest training image and its index (n,), the most suspicious first in `order`.

    `held_out` and `held_out_nearest` are the same of the held-out images.

    `copies` counts distances below a thousandth of the held-out median. `nearer` is the probability that a sample is nearer
    than a held-out image (½ without memorisation), `z` its standard score, positive for nearer. `found` is the verdict,
    `verdict` the same in words.
    """

    distances: Float[np.ndarray, " n"]
    nearest: Int64[np.ndarray, " n"]
    order: Int64[np.ndarray, " n"]
    held_out: Float[np.ndarray, " m"]
    held_out_nearest: Int64[np.ndarray, " m"]
    copies: int
    tails: tuple[Tail, ...]
    nearer: float
    z: float
    found: bool
    verdict: str


def memorisation(samples: Features, training: Features, held_out: Features) -> Memorisation:
    """The distance of each sample to its nearest training image, against those of real images that were not trained on.

    Features (n, d), (N, d), (m, d), 20 or more samples and held-out images. Without memorisation, and with samples as good
    as real images, both sets of distances follow one law. Tests, each one-sided at 0.001:

    - the tails, which see copies if there are ten or so: the number of samples below the r-th smallest held-out distance, r = 1,
      ⌈m/100⌉ and ⌈m/20⌉, is then beta-binomial (n; r, m - r + 1), exactly, whatever the law (counts of exceedances: Gumbel & von
      Schelling 1950). Ties count as not nearer.
    - the whole: the Mann-Whitney statistic, the data-copying test of Meehan et al. 2020 (theirs within clusters of images,
      ours over all), by the normal approximation with ties. It is said, but is no verdict: samples that are plainer than real
      images (a young generator's) are nearer to all of them, and copy none.

    Samples that are farther away than held-out images say that they are poor, or that the features see artefacts; copies
    among them show in the tails only. n and m may differ; N should be the whole training set. UserError for too few,
    unequal widths, NaN or infinity.
    """
    x, y = pair(samples, training)
    x, z = vectors(x, "samples", least=20), vectors(held_out, "held-out images", least=20)
    check_width(z.shape[1], y.shape[1])
    distances, which = nearest(x, y)
    real, of_real = nearest(z, y)
    tails = tuple(_tail(distances, np.sort(real), expected) for expected in TAILS)
    test = stats.mannwhitneyu(distances, real, alternative="two-sided", method="asymptotic", use_continuity=False)
    nearer = 1 - float(test.statistic) / (len(distances) * len(real))
    alike = len(np.unique(np.concatenate([distances, real]))) == 1  # the test divides by zero
    z_score = 0.0 if alike else float(np.sign(nearer - 0.5) * stats.norm.isf(min(test.pvalue, 1.0) / 2))
    copies = int((distances < np.median(real) / 1000).sum())
    found = min(tail.p for tail in tails) < LEVEL
    verdict = _verdict(found, tails, len(real), nearer, z_score, copies)
    order = distances.argsort(kind="stable")
    return Memorisation(distances, which, order, real, of_real, copies, tails, nearer, z_score, found, verdict)


def _tail(distances: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"], expected: float) -> Tail:
    n, m, r = len(distances), len(real), max(1, int(np.ceil(expected * len(real))))
    count = int((distances < real[r - 1]).sum())
    interval = stats.binomtest(count, n).proportion_ci(method="wilson")
    p = float(stats.betabinom.sf(count - 1, n, r, m - r + 1)) if count else 1.0
    return Tail(r, r / (m + 1), count / n, float(interval.low), float(interval.high), p)


def _verdict(found: bool, tails: tuple[Tail, ...], held_out: int, nearer: float, z: float, copies: int) -> str:
    tail = min(tails, key=lambda tail: tail.p)
    part = "any held-out image" if tail.rank == 1 else f"the nearest {100 * tail.rank / held_out:.2g} % of held-out images"
    share = f"{100 * tail.share:.3g} % of samples are nearer to a training image than {part} (p = {tail.p:.2g})"
    pairs = f"a sample is nearer than a held-out image in {100 * nearer:.0f} % of pairs"
    if found and tails[0].p < LEVEL:
        return f"memorisation: {share}{f'; {copies} are copies' if copies else ''}; {pairs}"
    if found:
        return f"memorisation suspected: {share}; {pairs}; images plainer than real ones do so too: look at the pairs"
    if z > stats.norm.isf(LEVEL):
        return f"no near copies seen, but {pairs} (z = {z:.1f}), as images plainer than real ones would be: {share}"
    if z < -stats.norm.isf(LEVEL):
        return f"no near copies seen, but {pairs} (z = {z:.1f}), as poor samples would be: {share}"
    return f"no memorisation seen: {share}"
