"""Mean and covariance of features that come in batches, in bounded memory, across processes, in float64."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.linalg import blas, lapack
from torch import Tensor

from gander import distributed
from gander.errors import UserError
from gander.metrics.vectors import Doubles, Features, check_width, vectors

LEAST_KEPT = 1024  # rows: products of fewer are slow


class Root(NamedTuple):
    """A factor of a covariance: with L = `lower` and the dimensions taken in the `order`, S[order][:, order] = L Lᵀ.

    Where the rank is d, L is lower triangular.
    """

    lower: Float[np.ndarray, "d r"]
    order: Int64[np.ndarray, " d"]
    rank: int

    def plain(self) -> Float[np.ndarray, "d r"]:
        """The factor with the dimensions as they were."""
        factor = np.empty_like(self.lower)
        factor[self.order] = self.lower
        return factor


class Moments:
    """Count, mean and covariance (of n - 1) of feature vectors (n, `width`), as they come.

    Up to max(width, 1024) rows are kept as they are. With fewer rows than dimensions the covariance has lost half the
    digits that the rows still have (see `frechet_distance`), so they are squared only when there are more. Then they are
    folded into sums about their own mean, always so many at a time: how they were cut into batches changes no bit (where
    nothing is asked before all have come). Memory: twice width² float64 (64 MiB at 2048), whatever n.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._rows = np.empty((max(width, LEAST_KEPT), width))
        self._kept = 0
        self._count, self._mean = 0, np.zeros(width)  # of what is folded
        self._scatter = np.zeros((width, width), order="F")  # its lower triangle; above it zeros
        self._root: Root | None = None

    @classmethod
    def of(cls, features: Features, name: str = "features") -> "Moments":
        """Those of one set. UserError as `vectors`."""
        moments = cls(vectors(features, name).shape[1])
        moments.update(features)
        return moments

    @classmethod
    def merged(cls, parts: "list[Moments]") -> "Moments":
        """Those of all the parts together; the parts stay as they are."""
        whole = cls(parts[0].width)
        for part in parts:
            whole.merge(part)
        return whole

    def without(self, part: "Moments") -> "Moments":
        """Those of the rows that are not in `part`, whose rows must be among these, and leave more than `width`.

        By subtraction: with an error of the size of the whole's rounding, where merging the others has that of theirs.
        """
        n, less = self.compact(), part.compact()
        rest = Moments(self.width)
        rest._count = n._count - less._count
        if rest._count <= self.width or not less._count:
            raise ValueError(f"{less.count} rows of {n.count} leave too few to subtract in {self.width} dimensions")
        rest._mean = (n._mean * n._count - less._mean * less._count) / rest._count
        away, weight = less._mean - rest._mean, less._count * rest._count / n._count
        rest._scatter = blas.dsyr(-weight, away, lower=1, a=n._scatter - less._scatter, overwrite_a=1)
        return rest.compact()

    @property
    def count(self) -> int:
        return self._count + self._kept

    @property
    def rows(self) -> Float[np.ndarray, "n d"] | None:
        """All rows, where they are few enough to be kept."""
        return None if self._count else self._rows[: self._kept]

    def update(self, batch: Features) -> None:
        """Take in more rows. UserError where their width is another, or where one is NaN or infinite."""
        batch = vectors(batch, least=0)
        check_width(batch.shape[1], self.width)
        self._root = None
        if not len(self._rows):
            self._rows = np.empty((max(self.width, LEAST_KEPT), self.width))
        while len(batch):
            if self._kept == len(self._rows):
                self._fold()
            room = len(self._rows) - self._kept
            taken = batch[:room]
            self._rows[self._kept : self._kept + len(taken)] = taken
            self._kept += len(taken)
            batch = batch[room:]

    def merge(self, other: "Moments") -> None:
        """Take in all that another one has seen; it stays as it is."""
        check_width(other.width, self.width)
        self._root = None
        if other._count:
            self._add(other._count, other._mean, other._scatter)
        self.update(other._rows[: other._kept])

    def together(self, device: torch.device | None = None) -> None:
        """On every process, the moments of all processes' rows. `device` is where messages travel from: nccl wants CUDA."""
        if distributed.processes() == 1:
            return

        def total(x: NDArray[Any]) -> NDArray[Any]:
            return distributed.all_reduce(torch.from_numpy(x).to(device or "cpu")).cpu().numpy()

        counts = total(np.bincount([distributed.rank()], [self.count], distributed.processes())).astype(int)
        before, n = int(counts[: distributed.rank()].sum()), int(counts.sum())
        if n <= len(self._rows) and not total(np.array([self._count]))[0]:  # all have their rows yet
            rows = np.zeros((n, self.width))
            rows[before : before + self._kept] = self._rows[: self._kept]
            self._kept = 0
            self.update(total(rows))
            return
        self._fold()
        mean = total(self._mean * self._count) / n
        away = self._mean - mean
        self._scatter += self._count * np.tril(np.outer(away, away))
        self._scatter = total(self._scatter.T).T  # messages are in C order
        self._count, self._mean, self._root = n, mean, None

    def compact(self) -> "Moments":
        """Itself, in half the memory: all rows are squared, unless they are so few that they are better kept."""
        if self._count or self._kept > self.width:
            self._fold()
            self._rows = np.empty((0, self.width))
        return self

    def _fold(self) -> None:
        """Square the kept rows, about their own mean."""
        if self._kept == 0:
            return
        rows = self._rows[: self._kept]
        mean = rows.mean(0)
        self._add(self._kept, mean, blas.dsyrk(1.0, (rows - mean).T, lower=1))
        self._kept = 0

    def _add(self, count: int, mean: Doubles, scatter: Doubles) -> None:
        """Chan, Golub & LeVeque 1979: sums about two means to the sum about their common one, without cancellation."""
        away, total = mean - self._mean, self._count + count
        self._scatter = blas.dsyr(self._count * count / total, away, lower=1, a=self._scatter, overwrite_a=1)
        self._scatter += scatter
        self._mean += away * (count / total)
        self._count = total

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        if self.rows is not None:
            return self.rows.mean(0)
        self._fold()
        return self._mean.copy()

    def _lower(self) -> Float[np.ndarray, "d d"]:
        """The covariance's lower triangle and zeros, a new array."""
        if self.rows is not None:
            return blas.dsyrk(1 / (self.count - 1), (self.rows - self.mean).T, lower=1)
        self._fold()
        return self._scatter / (self.count - 1)

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        lower = self._lower()
        whole = lower + lower.T
        np.fill_diagonal(whole, lower.diagonal())
        return whole

    @property
    def variance(self) -> float:
        """The trace of the covariance."""
        if self.rows is not None:
            return float(np.square(self.rows - self.mean).sum() / (self.count - 1))
        self._fold()
        return float(np.trace(self._scatter) / (self.count - 1))

    def root(self) -> Root:
        """A factor of the covariance: the centred rows themselves where there are no more than dimensions, else Cholesky's.

        With pivots: it finds the rank (a pivot below width·ε of the largest variance is none), and its columns fall in
        size, which a symmetric eigensolver turns into small errors of small eigenvalues.
        """
        if self._root is None:
            if self.rows is not None and self.count <= self.width:
                factor = (self.rows - self.mean).T / np.sqrt(self.count - 1)
                self._root = Root(factor, np.arange(self.width), self.count - 1)
            else:
                lower, order, rank, _ = lapack.dpstrf(self._lower(), lower=1, overwrite_a=1)
                self._root = Root(lower[:, :rank], order.astype(np.int64) - 1, int(rank))
        return self._root

    def tensors(self) -> dict[str, Tensor]:
        """All there is to save: the rows, or count, mean and the scatter's lower triangle (d, d)."""
        if self.rows is not None:
            return {"rows": torch.from_numpy(self.rows.copy())}
        mean = torch.from_numpy(self.mean)  # which folds the rest
        return {"count": torch.tensor(self._count), "mean": mean, "scatter": torch.from_numpy(np.ascontiguousarray(self._scatter))}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Moments":
        """From what `tensors` gave. UserError where these are no moments."""
        if set(tensors) == {"rows"} and tensors["rows"].ndim == 2:
            return cls.of(tensors["rows"])
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        width = (shapes.get("mean") or (0,))[0]
        if shapes != {"count": (), "mean": (width,), "scatter": (width, width)} or int(tensors["count"]) < 2:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
            raise UserError(f"no statistics of features: found {found}; wanted rows (n, d), or count, mean (d,), scatter (d, d)")
        moments = cls(width)
        mean, scatter = vectors(tensors["mean"][None], "mean")[0], vectors(tensors["scatter"], "scatter")
        moments._add(int(tensors["count"]), mean.astype(np.float64), np.asfortranarray(np.tril(scatter), np.float64))
        return moments
