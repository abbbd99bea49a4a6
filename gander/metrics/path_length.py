from typing import NamedTuple

import numpy as np

from gander.errors import UserError
from gander.metrics.vectors import Features, pair


class PathLength(NamedTuple):
    """The mean over paths, and its standard error."""

    length: float
    error: float


def path_length(start: Features, end: Features, epsilon: float) -> PathLength:
    """Perceptual path length: E |f(g(w_t)) - f(g(w_{t+ε}))|² / ε², how far an image goes while w goes the way between two others.

        w_t = lerp(w₁, w₂, t),   t uniform in [0, 1],   ε = 1e-4

    Karras et al. 2019 (StyleGAN), https://arxiv.org/abs/1812.04948. `start` and `end` are the features (n, d) of images of n paths
    at t and at t + ε. Images must not be rounded to bytes, and in float32 rounding alone adds about (1e-7 |f|)² / ε²: make w,
    images and features in float64. What jumps has no length: that of attention by hashes grows as ε falls.

    What differs: the source's features are those of LPIPS, the weighted layers of a VGG, and it leaves out the shortest and the
    longest percent of the paths; here the features are named with the number, and all paths count.

    Raises:
        UserError: for fewer than 2 paths, unequal numbers or widths, NaN or infinity, an ε that is not over 0.
    """
    x, y = pair(start, end, least=2)
    if len(x) != len(y):
        raise UserError(f"{len(x)} paths have a start and {len(y)} an end; give as many of both")
    if not 0 < epsilon < np.inf:
        raise UserError(f"paths got steps of {epsilon}; take one over 0, such as 1e-4")
    lengths = np.square((y.astype(np.float64) - x) / epsilon).sum(1)
    return PathLength(float(lengths.mean()), float(lengths.std(ddof=1) / len(lengths) ** 0.5))
