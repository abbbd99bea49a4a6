"""The Inception Score: are single images sure of their class, and all images together of every class?"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, log_softmax

from gander.errors import UserError
from gander.metrics.vectors import Doubles, Features, blocks, vectors


class InceptionScore(NamedTuple):
    """The mean over splits, the splits' standard deviation (of their number, as published), and the mean's standard error.

    `error` is the deviation (of their number - 1) by the root of their number: that of the draw of samples. It is NaN for
    one split.
    """

    score: float
    spread: float
    error: float


def inception_score(outputs: Features, *, splits: int = 10, probabilities: bool = False) -> InceptionScore:
    """exp of the mean KL(p(y|x) ‖ p(y)), p(y) the mean of p(y|x) over a split (Salimans et al. 2016): from 1 to k classes.

    `outputs` (n, k) are logits, or with `probabilities=True` rows of numbers from 0 to 1 that add up to 1. Split i holds the
    rows from ⌊i n / splits⌋ on, as they come: rows in an order that means something should be shuffled first. A score over
    ten splits lies below the score over one: each sees a tenth. Computed as exp(H(mean p) - mean H(p)), in float64.

    UserError for fewer rows than splits, fewer than one split, NaN or infinity, and for what is no probability.
    """
    if splits < 1:
        raise UserError(f"{splits} splits; take 1 or more (10 is what is published)")
    x = vectors(outputs, "logits" if not probabilities else "probabilities", least=splits)
    bounds = [i * len(x) // splits for i in range(splits + 1)]
    scores = [_of_split(x[a:b], probabilities) for a, b in itertools.pairwise(bounds)]
    error = float(np.std(scores, ddof=1) / np.sqrt(splits)) if splits > 1 else float("nan")
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), error)


def _of_split(rows: NDArray[np.floating], probabilities: bool) -> float:
    total, entropy = np.zeros(rows.shape[1]), 0.0
    for _, block in blocks(rows):
        p = _checked(block) if probabilities else np.exp(log_softmax(block, axis=1))
        total += p.sum(0)
        entropy += float(entr(p).sum())
    return float(np.exp(entr(total / len(rows)).sum() - entropy / len(rows)))


def _checked(p: Doubles) -> Doubles:
    wrong = (p < 0).any(1) | (np.abs(p.sum(1) - 1) > 1e-3)  # wide enough for float16
    if wrong.any():
        row = p[wrong.argmax()]
        raise UserError(f"no probabilities: a row goes down to {row.min():.3g} and adds up to {row.sum():.3g}; are these logits?")
    return p
