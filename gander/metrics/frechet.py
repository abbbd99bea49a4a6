"""Fréchet distances between two sets of features: their value, error, bias, and by class."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Int
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from gander.errors import UserError
from gander.metrics.moments import Moments
from gander.metrics.vectors import ROWS, Features, check_width, pair, shuffled, vectors

Labels = Int[Tensor, " _"] | Int[np.ndarray, " _"]


class Frechet(NamedTuple):
    """A distance and its standard error (see `frechet_error`), in squared units of the features.

    `warning` is a line where one of the sets has fewer images than dimensions, else empty.
    """

    distance: float
    error: float
    warning: str


class AtInfinity(NamedTuple):
    """The distance that infinitely many samples would have, its standard error, and the line that says so.

    distance(n) = `distance` + `slope` / n, through the mean `distances` of sets of the `sizes`. `warning` as in `Frechet`,
    for the smallest.
    """

    distance: float
    error: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    warning: str


class ByClass(NamedTuple):
    """The mean of the classes' distances, its standard error, and each class's own, by label."""

    mean: float
    error: float
    classes: dict[int, Frechet]


def frechet_distance(samples: Features | Moments, reference: Features | Moments) -> float:
    """‖μ₁ - μ₂‖² + tr S₁ + tr S₂ - 2 tr (S₁S₂)^½ (Dowson & Landau 1982; Heusel et al. 2017), S the covariance of n - 1.

    Features are (n, d) and (m, d), two or more of each; the value is in squared units of theirs. It is symmetric.

    tr (S₁S₂)^½ is the nuclear norm of F₁ᵀF₂ for any factors S = F Fᵀ. Where both have full rank, Cholesky's F₂ = L gives it
    by the eigenvalues of LᵀS₁L, twice as fast; else (fewer samples than dimensions, dead or repeated features) it is taken
    as that norm, which squares nothing: the null space would turn rounding ε into √ε. All is float64, with errors near
    1e-12 of tr S₁ + tr S₂; they may leave the distance of a set to itself a hair below zero.

    UserError for fewer than two, unequal widths, NaN or infinity.
    """
    x, y = _moments(samples, "samples"), _moments(reference, "reference")
    check_width(x.width, y.width)
    shift = np.square(x.mean - y.mean).sum()
    return float(shift + x.variance + y.variance - 2 * _overlap(x, y))


def _moments(features: Features | Moments, name: str) -> Moments:
    moments = features if isinstance(features, Moments) else Moments.of(features, name)
    if moments.count < 2:
        raise UserError(f"{name}: {moments.count}, where a covariance needs 2 or more; give more images")
    return moments


def _overlap(x: Moments, y: Moments) -> float:
    """tr (S₁S₂)^½."""
    first, second = x.root(), y.root()
    if min(first.rank, second.rank) == x.width:
        covariance = np.asfortranarray(x.covariance[np.ix_(second.order, second.order)])
        product, _ = lapack.dsygst(covariance, second.lower, itype=2, lower=1, overwrite_a=1)  # LᵀS₁L, its lower triangle
        eigenvalues = scipy.linalg.eigvalsh(product, lower=True, driver="evd", check_finite=False, overwrite_a=True)
        return float(np.sqrt(eigenvalues.clip(0)).sum())
    product = first.plain().T @ second.plain()
    return float(np.linalg.svd(product, compute_uv=False).sum()) if product.size else 0.0


def few_for(samples: int, reference: int, width: int) -> str:
    """The warning for fewer images than dimensions, else nothing."""
    short = [f"{n} {name}" for name, n in (("samples", samples), ("reference images", reference)) if n < width]
    if not short:
        return ""
    return f"{' and '.join(short)} in {width} dimensions: far above the distance of many; the kernel distance has no such bias"


def frechet_error(samples: Features, reference: Features | Moments, *, blocks: int = 10, seed: int = 0) -> float:
    """The standard error of `frechet_distance` over draws of the samples; the reference is taken as given.

    By the jackknife over g = `blocks` random blocks (Efron & Tibshirani 1993, chapter 11): with D_i the distance without
    block i, √((g - 1)/g Σ (D_i - D̄)²). Where samples are few it is on the safe side: 1.3 times the true one was seen at twice
    as many samples as dimensions. It costs g distances. UserError as `frechet_distance`, and for fewer samples than
    blocks, or fewer than two blocks.
    """
    x, y = vectors(samples, "samples", least=max(3, blocks)), _moments(reference, "reference")
    check_width(x.shape[1], y.width)
    if blocks < 2:
        raise UserError(f"a jackknife over {blocks} blocks says nothing; take 2 or more")
    without = [frechet_distance(rest, y) for rest in _but_one(x, _parts(len(x), blocks, seed))]
    return float(np.sqrt((blocks - 1) * np.var(without)))


def _but_one(x: NDArray[np.floating], parts: list[NDArray[np.int64]]) -> Iterator[Moments]:
    """The moments of all rows but those of each part, one at a time."""
    width, whole = x.shape[1], Moments.of(x)
    for part in parts:
        if len(part) > width and len(x) - len(part) > width:
            yield whole.without(_of_rows(x, part))
        else:
            yield _of_rows(x, np.setdiff1d(np.arange(len(x)), part))


def _of_rows(x: NDArray[np.floating], rows: NDArray[np.int64]) -> Moments:
    """The moments of some rows, without a copy of all of them at once."""
    moments = Moments(x.shape[1])
    for at in range(0, len(rows), ROWS):
        moments.update(x[rows[at : at + ROWS]])
    return moments


def _parts(n: int, count: int, seed: int) -> list[NDArray[np.int64]]:
    """A random partition of the rows; each in its old order, for the memory's sake."""
    return [np.sort(part) for part in np.array_split(shuffled(n, "frechet", seed), count)]


def frechet(samples: Features, reference: Features | Moments, *, blocks: int = 10, seed: int = 0) -> Frechet:
    """`frechet_distance` with its `frechet_error`, and a warning where there are fewer images than dimensions."""
    y = _moments(reference, "reference")
    error = frechet_error(samples, y, blocks=blocks, seed=seed)
    return Frechet(frechet_distance(samples, y), error, few_for(len(samples), y.count, y.width))


def frechet_at_infinity(
    samples: Features,
    reference: Features | Moments,
    *,
    parts: tuple[int, ...] = (1, 2, 3, 4, 5),
    blocks: int = 10,
    seed: int = 0,
    error: float | None = None,
) -> AtInfinity:
    """The distance without the bias of few samples, which is c/n + O(1/n²): FID∞ of Chong & Forsyth 2020.

    The samples are cut at random into k parts for each k in `parts`; the mean distances of the parts of n/k samples lie
    near a line in k/n, fitted by least squares, whose value at 0 is the result. (They draw 15 sets of 5,000 to 50,000 with
    replacement; here each size uses every sample once.) The bias of a small reference stays.

    Standard error: to first order the distance's noise is a mean over samples, so it is the same at all sizes and goes
    through to the intercept: that is `frechet_error`. What remains is in the line's residuals: the standard error of its
    intercept. The two are added in squares. Cost: Σ k + `blocks` distances; Σ k where the `error` of `frechet_error` is given.
    UserError as `frechet_error`, and for fewer than three different sizes.
    """
    if len(set(parts)) < 3 or min(parts) < 1:
        raise UserError(f"a line and its error need three sizes; got parts {parts}; take (1, 2, 3, 4, 5)")
    x, y = vectors(samples, "samples", least=2 * max(parts)), _moments(reference, "reference")
    inverse, distances = np.array(parts) / len(x), []
    for k in parts:
        distances.append(float(np.mean([frechet_distance(_of_rows(x, rows), y) for rows in _parts(len(x), k, seed)])))
    spread = np.square(inverse - inverse.mean()).sum()
    slope = float((inverse - inverse.mean()) @ np.array(distances) / spread)
    intercept = float(np.mean(distances) - slope * inverse.mean())
    residual = np.square(np.array(distances) - intercept - slope * inverse).sum() / (len(parts) - 2)
    of_line = residual * (1 / len(parts) + inverse.mean() ** 2 / spread)
    of_samples = frechet_error(x, y, blocks=blocks, seed=seed) if error is None else error
    sizes = tuple(len(x) // k for k in parts)
    error = float(np.sqrt(of_samples**2 + of_line))
    return AtInfinity(intercept, error, slope, sizes, tuple(distances), few_for(min(sizes), y.count, y.width))


def frechet_by_class(
    samples: Features, labels: Labels, reference: Features, reference_labels: Labels, *, blocks: int = 10, seed: int = 0
) -> ByClass:
    """The mean over classes of the distance within the class: intra-FID (Miyato & Koyama 2018; SAGAN, Zhang et al. 2019).

    `labels` (n,) and `reference_labels` (m,) are whole numbers, and both sets have the same classes. The standard error is
    √(Σ e²) / classes of the classes' own, by the jackknife: the noise of the samples, not the spread between classes. With
    few images a class the bias is large; compare such means at equal counts only. UserError as `frechet_error`, naming the
    class, for a class that one set lacks, and where labels and images are not equally many.
    """
    x, y = pair(samples, reference)
    of_x, of_y = np.asarray(labels), np.asarray(reference_labels)
    if len(of_x) != len(x) or len(of_y) != len(y):
        raise UserError(f"{len(x)} samples with {len(of_x)} labels, {len(y)} reference images with {len(of_y)}; give one each")
    lonely = sorted(set(of_x.tolist()) ^ set(of_y.tolist()))
    if lonely:
        side = "samples" if lonely[0] in of_x else "reference"
        raise UserError(f"class {lonely[0]} is in the {side} only; both sets need images of the same classes")
    classes = {}
    for label in sorted(set(of_x.tolist())):
        try:
            classes[label] = frechet(x[of_x == label], y[of_y == label], blocks=blocks, seed=seed)
        except UserError as error:
            raise UserError(f"class {label}: {error}") from None
    errors = np.array([one.error for one in classes.values()])
    mean = float(np.mean([one.distance for one in classes.values()]))
    return ByClass(mean, float(np.sqrt(np.square(errors).sum()) / len(errors)), classes)
