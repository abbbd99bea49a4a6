"""The kernel distance: a difference between two sets of features whose estimate has no bias, however few there are."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gander.errors import UserError
from gander.metrics.vectors import Features, blocks, pair, shuffled


class KernelDistance(NamedTuple):
    """The mean over blocks of `size` images of each set, the blocks' standard deviation, and the mean's standard error."""

    distance: float
    spread: float
    error: float
    blocks: int
    size: int


def kernel_distance(samples: Features, reference: Features) -> float:
    """MMD², unbiased, with the kernel k(x, y) = (x·y/d + 1)³: KID (Bińkowski et al. 2018), on all images at once.

        1/(n(n-1)) Σ_{i≠j} k(x_i, x_j) + 1/(m(m-1)) Σ_{i≠j} k(y_i, y_j) - 2/(nm) Σ_ij k(x_i, y_j)

    Features (n, d) and (m, d), two or more of each; the unit is that of the kernel (at d = 2048 of Inception, published
    values are often given times 1000). Equal laws give zero in the mean, so single values may be negative. Time n² d,
    computed in blocks: no n × n matrix is kept. UserError for fewer than two, unequal widths, NaN or infinity.
    """
    x, y = pair(samples, reference, least=2)
    return _within(x) + _within(y) - 2 * _sum(x, y) / (len(x) * len(y))


def kernel_distance_with_error(samples: Features, reference: Features, *, number: int = 10, seed: int = 0) -> tuple[float, float]:
    """`kernel_distance` of all images at once, and its standard error over draws of the samples, the reference as given.

    By the jackknife over `number` random blocks of samples (Efron & Tibshirani 1993, chapter 11). For few images: a mean over
    blocks of both sets, which costs less, throws away what lies between the blocks. Time (n + m)² d. UserError as
    `kernel_distance`, and for fewer than two samples a block.
    """
    x, y = pair(samples, reference, least=2)
    if number < 2 or len(x) < 2 * number:
        raise UserError(f"a jackknife over {number} blocks of {len(x)} samples says nothing; take 2 blocks or more, of 2 or more")
    parts = [x[np.sort(rows)] for rows in np.array_split(shuffled(len(x), "kernel jackknife", seed), number)]
    of_real, n = _within(y), np.array([len(part) for part in parts])
    inner = np.array([_within(part) * len(part) * (len(part) - 1) for part in parts])  # sums over i ≠ j
    between = np.zeros((number, number))
    for i, j in itertools.combinations(range(number), 2):
        between[i, j] = between[j, i] = _sum(parts[i], parts[j])
    to_real = np.array([_sum(part, y) for part in parts])

    def distance(kept: NDArray[np.bool_]) -> float:
        count = n[kept].sum()
        within = inner[kept].sum() + between[np.ix_(kept, kept)].sum()
        return float(within / (count * (count - 1)) + of_real - 2 * to_real[kept].sum() / (count * len(y)))

    without = [distance(np.arange(number) != block) for block in range(number)]
    return distance(np.ones(number, bool)), float(np.sqrt((number - 1) * np.var(without)))


def _within(x: NDArray[Any]) -> float:
    with_itself = sum(float(((np.square(rows).sum(1) / x.shape[1] + 1) ** 3).sum()) for _, rows in blocks(x))
    return (_sum(x, x) - with_itself) / (len(x) * (len(x) - 1))


def _sum(x: NDArray[Any], y: NDArray[Any]) -> float:
    return sum(float(((a @ b.T / x.shape[1] + 1) ** 3).sum()) for _, a in blocks(x) for _, b in blocks(y))


def kernel_distance_in_blocks(
    samples: Features, reference: Features, *, size: int = 1000, number: int | None = None, seed: int = 0
) -> KernelDistance:
    """The mean of `kernel_distance` over random blocks of `size` images of each set, with a standard error.

    Without a `number`, the blocks are disjoint, as many as both sets have. Packages draw 100 blocks of 1000 with overlaps
    (`number=100`). Either way n = min(samples, reference) images hold n/size independent blocks and no more, so the error
    of the mean is taken as spread / √(n/size), the spread being the blocks' standard deviation (of their number - 1).

    UserError as `kernel_distance`, for sets smaller than a block, and where there are fewer than two blocks.
    """
    x, y = pair(samples, reference, least=2)
    n = min(len(x), len(y))
    if size < 2 or size > n:
        raise UserError(f"blocks of {size} images, where {len(x)} samples and {len(y)} reference images came; take 2 to {n // 2}")
    count = n // size if number is None else number
    if count < 2:
        raise UserError(f"an error from {count} block of {size} images is none; take blocks of {n // 2} or fewer")
    distances = []
    for i in range(count):
        if number is None:
            of_x, of_y = (shuffled(len(z), f"kernel {name}", seed)[i * size :] for name, z in (("x", x), ("y", y)))
        else:
            of_x, of_y = (shuffled(len(z), f"kernel {name}", seed, i) for name, z in (("x", x), ("y", y)))
        distances.append(kernel_distance(x[of_x[:size]], y[of_y[:size]]))
    spread = float(np.std(distances, ddof=1))
    return KernelDistance(float(np.mean(distances)), spread, spread / float(np.sqrt(n / size)), count, size)
