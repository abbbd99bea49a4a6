import numpy as np
import pytest

from gander.errors import UserError
from gander.metrics import distances, precision_recall

RNG = np.random.default_rng


def naive(x, y, k, k_density):
    """By the whole matrices of differences; a ball holds its border."""

    def apart(a, b):
        return np.sqrt(np.square(a[:, None] - b).sum(-1))

    def radius(a, k):
        return np.sort(apart(a, a), 1)[:, k]

    between = apart(x, y)
    balls = between <= radius(y, k_density)
    precision = (between <= radius(y, k)).any(1).mean()
    recall = (between <= radius(x, k)[:, None]).any(0).mean()
    return precision, recall, balls.sum() / k_density / len(x), balls.any(0).mean()


def values(found):
    return tuple(share.value for share in found)


@pytest.mark.parametrize(("k", "k_density"), [(3, 5), (1, 1), (6, 2)])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_equals_the_formula(k, k_density, offset):
    x, y = RNG(0).standard_normal((150, 8)) * 0.8 + offset, RNG(1).standard_normal((170, 8)) + offset
    assert values(precision_recall(x, y, k=k, k_density=k_density)) == pytest.approx(naive(x, y, k, k_density), abs=1e-12)


def test_cut_into_blocks(monkeypatch):
    x, y = RNG(0).standard_normal((100, 6)), RNG(1).standard_normal((130, 6)) * 1.2
    whole = precision_recall(x, y)
    for side in (1, 7, 99):
        monkeypatch.setattr(distances, "SIDE", side)
        assert precision_recall(x, y) == whole
    assert values(precision_recall(x[::-1], y[RNG(2).permutation(130)])) == values(whole)


def test_a_set_against_itself():
    x = RNG(0).standard_normal((200, 10))
    found = precision_recall(x, x.copy())
    assert values(found) == (1, 1, 6 / 5, 1)  # of each ball, the five neighbours and the centre
    assert found.precision.error > 0
    assert values(precision_recall(x.astype(np.float32), x.astype(np.float32))) == (1, 1, 6 / 5, 1)


def test_far_away():
    x = RNG(0).standard_normal((50, 4))
    assert values(precision_recall(x, x + 100)) == (0, 0, 0, 0)


def test_half_is_missing():
    """Two clusters, of which the samples know one."""
    y = RNG(0).standard_normal((400, 4)) + 50 * (np.arange(400) % 2)[:, None]
    found = precision_recall(RNG(1).standard_normal((300, 4)), y)
    assert found.precision.value > 0.9
    assert found.recall.value == pytest.approx(0.5, abs=0.05)
    assert found.coverage.value == pytest.approx(0.5, abs=0.05)


def test_one_outlier_widens_precision_not_density():
    x, y = RNG(0).standard_normal((2, 200, 3))
    x = x + 30
    y[0] += 60
    found = precision_recall(x, y)
    assert found.precision.value > 0.9
    assert found.density.value < 0.3


def test_errors():
    """With the reference's balls as they are, new samples move precision and density by the error that is said."""
    y = RNG(99).standard_normal((400, 4))
    found = [precision_recall(RNG(seed).standard_normal((200, 4)) * 1.4, y) for seed in range(60)]
    for name in ("precision", "density"):
        true = np.std([getattr(one, name).value for one in found], ddof=1)
        assert np.mean([getattr(one, name).error for one in found]) == pytest.approx(true, rel=0.3)


def test_refusals():
    x = RNG(0).standard_normal((6, 3))
    precision_recall(x, x)
    with pytest.raises(UserError, match="samples: 5, where this score needs 6"):
        precision_recall(x[:5], x)
    with pytest.raises(UserError, match="counted from 1"):
        precision_recall(x, x, k=0)
    with pytest.raises(UserError, match="reference: row 2 holds NaN or infinity; look at image 2"):
        precision_recall(x, np.where(np.arange(6)[:, None] == 2, np.inf, x))
    with pytest.raises(UserError, match="samples: no features at all"):
        precision_recall(x[:0], x)
