"""Tests and intervals against scipy and closed forms; how often simulated studies are right."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gander.study import statistics

PAIRS = st.lists(st.tuples(*[st.floats(-100, 100)] * 2), min_size=2, max_size=20)


@given(PAIRS)
def test_a_difference_is_that_of_scipy(pairs):
    a, b = map(list, zip(*pairs, strict=True))
    apart = np.subtract(a, b)
    if apart.std() < 1e-6 or np.std(a) < 1e-6 or np.std(b) < 1e-6:
        return
    found, theirs = statistics.difference(a, b), stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert found.mean == pytest.approx(apart.mean(), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-6)
    assert found.paired == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert found.welch == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-6, abs=1e-12)


def test_two_pairs_by_hand():
    """One degree of freedom is Cauchy's law: differences 1 and 3 have t = 2, p = 1 - 2/π·atan 2, and t(0.975) = tan(0.475·π)."""
    found = statistics.difference([1, 5], [0, 2])
    half = math.tan(0.475 * math.pi)
    assert found.paired == pytest.approx(1 - 2 / math.pi * math.atan(2))
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.effect == pytest.approx(math.sqrt(2) / math.sqrt(math.pi))


def test_equal_differences_are_certain_and_none_are_nothing():
    """0.1 + 0.2 and 0.3 differ in their last bit, which is no spread; and without a spread there is no test, whatever the mean."""
    found = statistics.difference([0.1 + 0.2, 1.3, 2.3], [0.2, 1.2, 2.2])
    assert (found.paired, found.welch, found.effect, statistics.seeds_needed(found.effect)) == (1.0, 1.0, math.inf, None)
    assert found.low == found.high == pytest.approx(0.1)
    found = statistics.difference([1.0, 2.0], [1.0, 2.0])
    assert (found.mean, found.low, found.high, found.paired, found.effect) == (0, 0, 0, 1, 0)
    assert statistics.welch([2.0, 2.0], [2.0, 2.0]) == 1.0
    assert statistics.welch([2.0, 2.0], [3.0, 3.0]) == 1.0


def test_the_sign_test_counts_all_ways_to_toss():
    """Over all 2^n ways in which n pairs of one failure may fall: the share that is at least as far from half as what was seen."""
    for n in range(7):
        tails = [bin(ways).count("1") for ways in range(2**n)]
        for first in range(n + 1):
            as_far = sum(abs(2 * heads - n) >= abs(2 * first - n) for heads in tails) / 2**n
            assert statistics.sign_test(first, n - first) == pytest.approx(as_far)
    assert statistics.sign_test(3, 0) == 0.25


def test_the_small_sample_factor_of_hedges():
    assert statistics.hedges(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert statistics.hedges(4) == pytest.approx(math.sqrt(2 / math.pi))
    assert statistics.hedges(100) == pytest.approx(1 - 3 / (4 * 100 - 1), abs=1e-5)  # his approximation


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.04, 0.03, 0.02, 0.01]) == pytest.approx([0.06, 0.06, 0.06, 0.04])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([0.2]) == [0.2]
    assert statistics.holm([]) == []


@pytest.mark.parametrize(("effect", "n", "alpha"), [(0.5, 10, 0.05), (1.0, 5, 0.05), (2.0, 3, 0.01), (0.3, 50, 0.025)])
def test_power_is_that_of_the_noncentral_t(effect, n, alpha):
    limit, shift = stats.t.isf(alpha / 2, n - 1), effect * math.sqrt(n)
    closed = stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift)
    assert statistics.power(effect, n, alpha) == pytest.approx(closed, abs=1e-4)
    assert statistics.power(0.0, n, alpha) == pytest.approx(alpha, abs=1e-4)


def test_seeds_needed_are_the_fewest_that_do():
    assert statistics.seeds_needed(0.5) == 34  # as the tables of the paired t test have it
    assert statistics.seeds_needed(-0.5) == 34
    for effect in (0.05, 0.3, 1.0, 3.0, 30.0):
        n = statistics.seeds_needed(effect)
        assert statistics.power(effect, n) >= 0.8
        assert n == 2 or statistics.power(effect, n - 1) < 0.8
    assert statistics.seeds_needed(0.5, alpha=0.01) > 34
    assert statistics.seeds_needed(0.001) is None


def test_how_often_simulated_studies_are_right():
    """400 studies of three arms over 6 seeds, whose luck is shared by the arms of a seed: one arm is better by 2 sd, one is not.

    What is planted is found in nine of ten; the other is called different in at most 5 % (3 σ of 400 more); 95 % of the
    intervals hold the truth.
    """
    generator, studies, seeds = np.random.default_rng(0), 400, 6
    found = wrong = held = 0
    for _ in range(studies):
        luck = 5 * generator.normal(size=seeds)
        none, better, same = luck + generator.normal(size=(3, seeds)) / math.sqrt(2) + np.array([[0], [2], [0]])
        apart = [statistics.difference(arm.tolist(), none.tolist()) for arm in (better, same)]
        good, bad = statistics.holm([each.paired for each in apart])
        found, wrong = found + (good < 0.05), wrong + (bad < 0.05)
        held += apart[1].low <= 0 <= apart[1].high
    slack = 3 * math.sqrt(0.05 * 0.95 / studies)
    assert found / studies > 0.9
    assert wrong / studies < 0.05 + slack
    assert abs(held / studies - 0.95) < slack
