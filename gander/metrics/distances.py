"""Euclidean distances between the rows of two sets, block by block: no n × m matrix is kept."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from gander.metrics.vectors import Doubles, blocks

SIDE = 2048  # of a block of distances: 32 MiB
SLACK = 1e-11  # of the largest squared norm: what float64 may lose in ‖x‖² + ‖y‖² - 2x·y


def squared(x: NDArray[Any], y: NDArray[Any], origin: Float[np.ndarray, " d"]) -> Iterator[tuple[int, int, Doubles]]:
    """(first row of x, first row of y, squared distances of a block), by ‖x‖² + ‖y‖² - 2x·y about the origin.

    An origin amid the rows keeps the norms, and so the rounding, small.
    """
    for i, a in blocks(x, SIDE):
        a -= origin
        for j, b in blocks(y, SIDE):
            b -= origin
            between = a @ b.T
            between *= -2
            between += np.square(a).sum(1)[:, None]
            between += np.square(b).sum(1)
            yield i, j, between.clip(0, out=between)


def rounding(x: NDArray[Any], y: NDArray[Any], origin: Float[np.ndarray, " d"]) -> float:
    """Squared distances that differ by less than this are equal."""
    return SLACK * max(float(np.square(rows - origin).sum(1).max()) for z in (x, y) for _, rows in blocks(z))


def mean(x: NDArray[Any]) -> Float[np.ndarray, " d"]:
    return sum(rows.sum(0) for _, rows in blocks(x)) / len(x)


def radii(x: NDArray[Any], k: int, origin: Float[np.ndarray, " d"]) -> Float[np.ndarray, "n k"]:
    """Squared distances of each row to the first to k-th nearest of the others."""
    best = np.full((len(x), k), np.inf)
    for i, j, block in squared(x, x, origin):
        if i == j:
            np.fill_diagonal(block, np.inf)
        here = slice(i, i + len(block))
        best[here] = np.partition(np.concatenate([best[here], block], 1), k - 1, 1)[:, :k]
    return np.sort(best, 1)


def nearest(x: NDArray[Any], y: NDArray[Any]) -> tuple[Float[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """For each row of x, the distance to the nearest row of y, and which it is.

    Which is found by blocks; the distance is then taken again by subtraction, so that a copy has exactly zero.
    """
    best, which = np.full(len(x), np.inf), np.zeros(len(x), np.int64)
    for i, j, block in squared(x, y, mean(y)):
        here, at = slice(i, i + len(block)), block.argmin(1)
        low = block[np.arange(len(block)), at]
        which[here] = np.where(low < best[here], at + j, which[here])
        best[here] = np.minimum(low, best[here])
    apart = [np.linalg.norm(rows - y[which[i : i + len(rows)]].astype(np.float64), axis=1) for i, rows in blocks(x)]
    return np.concatenate(apart), which
