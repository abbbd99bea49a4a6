"""Features as the scores take them: (n, d), one row an image, arrays or tensors of any float type on any device.

They are read in blocks of rows and computed with as float64 on the CPU, so that a score is the same wherever the network
ran and 50,000 rows of 2048 float32 need little memory beside themselves.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gander import draws
from gander.errors import UserError

Features = Float[Tensor, "_ _"] | Float[np.ndarray, "_ _"]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS = 2048  # of a block: 32 MiB at 2048 dimensions


def vectors(features: Features, name: str = "features", least: int = 1) -> NDArray[Any]:
    """The features as an array (n, d) of their own type, not copied where they are one.

    UserError, which calls them `name`, where there are fewer than `least`, where they have no dimension, or where one is
    NaN or infinite.
    """
    if isinstance(features, Tensor):
        features = features.detach().cpu()
        features = features.float() if features.dtype == torch.bfloat16 else features  # numpy has no bfloat16
        features = features.numpy()
    n, d = features.shape
    if n < least or d < 1:
        few = "no features at all" if n * d == 0 else f"{n}"
        raise UserError(f"{name}: {few}, where this score needs {least} or more; give more images")
    for at in range(0, n, ROWS):
        bad = ~np.isfinite(features[at : at + ROWS]).all(1)
        if bad.any():
            first = at + int(bad.argmax())
            raise UserError(f"{name}: row {first} holds NaN or infinity; look at image {first} and at the network's precision")
    return features


def pair(samples: Features, reference: Features, least: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays of one width. UserError as `vectors`, and where the widths differ."""
    x, y = vectors(samples, "samples", least), vectors(reference, "reference", least)
    check_width(x.shape[1], y.shape[1])
    return x, y


def check_width(samples: int, reference: int) -> None:
    if samples != reference:
        raise UserError(f"samples have {samples} features an image, the reference {reference}; take both from one network")


def blocks(x: NDArray[Any], size: int = ROWS) -> Iterator[tuple[int, Doubles]]:
    """(its first row, a block of at most `size` rows in float64)."""
    for at in range(0, len(x), size):
        yield at, x[at : at + size].astype(np.float64)


def shuffled(n: int, purpose: str, seed: int, number: int = 0) -> Ints:
    """The rows 0 to n - 1 in an order that depends on (purpose, seed, number) alone."""
    return torch.randperm(n, generator=draws.generator(purpose, seed, number)).numpy()
