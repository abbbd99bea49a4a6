import itertools

import numpy as np
import pytest
import torch

from gander.errors import UserError
from gander.metrics import inception_score

LOGITS = 4 * np.random.default_rng(0).standard_normal((1000, 6))


def naive(logits):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return np.exp(np.mean((p * np.log(p / p.mean(0))).sum(1)))


def test_the_ends_of_the_scale():
    sure = np.eye(5)[np.arange(100) % 5]
    assert inception_score(sure, splits=4, probabilities=True) == pytest.approx((5, 0, 0), abs=1e-12)
    assert inception_score(1000 * sure, splits=1).score == pytest.approx(5)
    assert inception_score(np.zeros((100, 5))).score == pytest.approx(1)
    assert inception_score(1e4 * sure[:1].repeat(100, 0)).score == pytest.approx(1)


@pytest.mark.parametrize("splits", [1, 3, 10])
def test_equals_the_formula(splits):
    bounds = [i * 1000 // splits for i in range(splits + 1)]
    each = [naive(LOGITS[a:b]) for a, b in itertools.pairwise(bounds)]
    found = inception_score(torch.from_numpy(LOGITS), splits=splits)
    assert found.score == pytest.approx(np.mean(each), rel=1e-12)
    assert found.spread == pytest.approx(np.std(each), rel=1e-9, abs=1e-12)
    if splits > 1:
        assert found.error == pytest.approx(np.std(each, ddof=1) / splits**0.5, rel=1e-9)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    assert inception_score(p, splits=splits, probabilities=True).score == pytest.approx(found.score, rel=1e-12)


def test_order_within_a_split_changes_nothing():
    large = np.tile(LOGITS, (5, 1))  # of several blocks
    order = np.random.default_rng(1).permutation(5000)
    assert inception_score(large[order], splits=1).score == pytest.approx(naive(LOGITS), rel=1e-12)


def test_one_split_has_no_error():
    assert np.isnan(inception_score(LOGITS, splits=1).error)


def test_refusals():
    with pytest.raises(UserError, match="logits: 9, where this score needs 10"):
        inception_score(LOGITS[:9])
    with pytest.raises(UserError, match=r"no probabilities: .* are these logits"):
        inception_score(LOGITS, probabilities=True)
    with pytest.raises(UserError, match="0 splits"):
        inception_score(LOGITS, splits=0)
    with pytest.raises(UserError, match="row 3 holds NaN"):
        inception_score(np.where(np.arange(1000)[:, None] == 3, np.nan, LOGITS))
