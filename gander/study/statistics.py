"""Paired runs -> a difference, its interval, its tests, and how many seeds would settle it. Float64; plain numbers in and out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

LEVEL = 0.95  # of every interval
ALPHA, POWER = 0.05, 0.8
MOST = 10_000  # seeds that anybody could ask for


class Difference(NamedTuple):
    """Of one arm against another over the same seeds: mean of a - b, its 95 % interval, p values, effect size.

    `effect` is Hedges' g of the pairs, infinite where all differences are equal and not zero: there is then no test, and p is 1.
    """

    n: int
    mean: float
    low: float
    high: float
    paired: float
    welch: float
    effect: float


def interval(values: Sequence[int | float], level: float = LEVEL) -> tuple[float, float, float]:
    """(low, mean, high): mean ± t(n - 1)·sd/√n. It takes two values or more."""
    x = np.asarray(values, np.float64)
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1)) * _spread(x) / math.sqrt(len(x))
    mean = float(x.mean())
    return mean - half, mean, mean + half


def difference(a: Sequence[int | float], b: Sequence[int | float]) -> Difference:
    """a - b, pair by pair."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    apart = x - y
    if np.ptp(apart) <= 1e-12 * max(abs(x).max(), abs(y).max()):
        apart = np.full_like(apart, apart[0])  # what is left is rounding
    n, spread = len(apart), _spread(apart)
    low, mean, high = interval(apart.tolist())
    paired = _two_sided(mean / (spread / math.sqrt(n)), n - 1) if spread else 1.0
    effect = hedges(n - 1) * _ratio(mean, spread)
    return Difference(n, mean, low, high, paired, welch(a, b) if spread else 1.0, effect)


def welch(a: Sequence[int | float], b: Sequence[int | float]) -> float:
    """p of Welch's t test, which takes the runs for unpaired and their spreads for unequal.

    t = (ā - b̄)/√(s²a/n + s²b/m), with the degrees of freedom of Welch and Satterthwaite; 1 where neither has a spread.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    u, v = _spread(x) ** 2 / len(x), _spread(y) ** 2 / len(y)
    if u + v == 0:
        return 1.0
    freedom = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    return _two_sided(float(x.mean() - y.mean()) / math.sqrt(u + v), freedom)


def sign_test(first: int, second: int) -> float:
    """p of McNemar's exact test: of pairs of which one alone failed, `first` were of the one kind and `second` of the other.

    Either is as likely where nothing matters: twice the smaller tail of Binomial(first + second, ½), at most 1.
    """
    return min(1.0, 2 * float(stats.binom.cdf(min(first, second), first + second, 0.5)))


def hedges(freedom: int) -> float:
    """What makes mean/sd unbiased (Hedges 1981): Γ(m/2) / (√(m/2)·Γ((m - 1)/2)), m degrees of freedom; for m = 1 it is 0.

    With one degree of freedom nothing is known of an effect's size, so that m = 1 takes the value of m = 2, 0.56.
    """
    m = max(freedom, 2)
    return float(np.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / math.sqrt(m / 2))


def holm(p: Sequence[int | float]) -> list[float]:
    """p values corrected for their number k (Holm 1979): the smallest times k, the next times k - 1, ...; never falling."""
    corrected, most = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        most = max(most, min(1.0, p[i] * (len(p) - rank)))
        corrected[i] = most
    return corrected


def power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """How likely n pairs show a difference of mean/sd = effect: P(|T| > t), T noncentral with n - 1 degrees of freedom.

    The mean of Φ(±δ - t·s) over the law of s, sd over its true value, at 2,000 quantiles; δ = effect·√n. To about 1e-4.
    """
    limit, shift = float(stats.t.isf(alpha / 2, n - 1)), abs(effect) * math.sqrt(n)
    s = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, n - 1) / (n - 1))
    return float((special.ndtr(shift - limit * s) + special.ndtr(-shift - limit * s)).mean())


def seeds_needed(effect: float, *, alpha: float = ALPHA, wanted: float = POWER) -> int | None:
    """The fewest pairs, two or more, with which a difference of this effect is seen four times in five.

    None beyond 10,000, and for an infinite effect, which says that no spread was seen.
    """
    if math.isinf(effect) or power(effect, MOST, alpha) < wanted:
        return None
    low, high = 1, MOST  # power rises with n: too few at `low`, enough at `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, alpha) >= wanted else (middle, high)
    return high


def _spread(x: np.ndarray) -> float:
    """The sample's standard deviation; exactly 0 where all values are equal, which rounding of the mean may hide."""
    return 0.0 if np.all(x == x[0]) else float(x.std(ddof=1))


def _ratio(mean: float, spread: float) -> float:
    return mean / spread if spread else math.copysign(math.inf, mean) if mean else 0.0


def _two_sided(t: float, freedom: int | float) -> float:
    return float(2 * stats.t.sf(abs(t), freedom))
