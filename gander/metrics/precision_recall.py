"""Precision, recall, density and coverage: do samples lie where real images lie, and real images where samples lie?"""

from typing import NamedTuple

import numpy as np

from gander.errors import UserError
from gander.metrics.distances import mean, radii, rounding, squared
from gander.metrics.vectors import Features, pair


class Share(NamedTuple):
    """A share and its standard error."""

    value: float
    error: float


class PrecisionRecall(NamedTuple):
    """All from 0 to 1, but density, which may exceed 1. The higher the better."""

    precision: Share
    recall: Share
    density: Share
    coverage: Share


def precision_recall(samples: Features, reference: Features, *, k: int = 3, k_density: int = 5) -> PrecisionRecall:
    """With B_k(z) the ball around z that reaches its k-th nearest neighbour in z's own set, x samples and y references:

    - precision: the share of samples in any B_k(y); recall: the share of references in any B_k(x). Improved precision and
      recall, Kynkäänniemi et al. 2019, k = 3.
    - density: the mean over samples of the number of balls B_K(y) it lies in, by K; coverage: the share of references whose
      B_K(y) holds a sample. Naeem et al. 2020, K = `k_density` = 5.

    Features (n, d) and (m, d), more than max(k, K) of each. A ball holds its border (so Kynkäänniemi's code; Naeem's leaves
    it out, which matters for repeated images only), up to the rounding of a squared distance. All depend on n and m:
    compare at equal counts. Time (n + m)² d, float64 in blocks of 2048 × 2048: no n × m matrix is kept.

    Standard errors take the balls as given: for the shares, binomial with two added on either side (Agresti & Coull 1998,
    so that 0 and 1 have an error too); for density, the samples' standard deviation by √n.

    UserError for too few images, k below one, unequal widths, NaN or infinity.
    """
    if min(k, k_density) < 1:
        raise UserError(f"neighbours are counted from 1; got k = {k} and k_density = {k_density}")
    x, y = pair(samples, reference, least=1 + max(k, k_density))
    origin = mean(y)
    slack = rounding(x, y, origin)
    of_x = radii(x, k, origin)[:, k - 1] + slack
    of_y = radii(y, max(k, k_density), origin) + slack
    precise, recalled, covered = np.zeros(len(x), bool), np.zeros(len(y), bool), np.zeros(len(y), bool)
    balls = np.zeros(len(x), np.int64)
    for i, j, block in squared(x, y, origin):
        rows, columns = slice(i, i + block.shape[0]), slice(j, j + block.shape[1])
        precise[rows] |= (block <= of_y[columns, k - 1]).any(1)
        recalled[columns] |= (block <= of_x[rows, None]).any(0)
        inside = block <= of_y[columns, k_density - 1]
        balls[rows] += inside.sum(1)
        covered[columns] |= inside.any(0)
    error = float(balls.std(ddof=1) / k_density / np.sqrt(len(x)))
    density = Share(float(balls.sum() / (k_density * len(x))), error)
    return PrecisionRecall(_share(precise), _share(recalled), density, _share(covered))


def _share(found: np.ndarray) -> Share:
    n = len(found) + 4
    p = (found.sum() + 2) / n
    return Share(float(found.mean()), float(np.sqrt(p * (1 - p) / n)))
