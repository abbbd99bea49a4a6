import numpy as np
import pytest

from gander.errors import UserError
from gander.metrics import kernel_distance, kernel_distance_in_blocks, kernel_distance_with_error

RNG = np.random.default_rng


def naive(x, y):
    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_equals_the_formula():
    x, y = RNG(0).standard_normal((20, 5)), RNG(1).standard_normal((25, 5)) + 0.5
    assert kernel_distance(x, y) == pytest.approx(naive(x, y), rel=1e-11)
    assert kernel_distance(y, x) == pytest.approx(naive(x, y), rel=1e-11)


def test_points():
    """Where all rows of a set are one point, MMD² = k(a, a) + k(b, b) - 2 k(a, b)."""
    a, b = np.full((3, 4), 1.0), np.full((5, 4), 2.0)
    assert kernel_distance(a, b) == pytest.approx(8 + 125 - 2 * 27, rel=1e-12)


def test_blocks_of_rows_and_order_change_nothing():
    x, y = RNG(0).standard_normal((2300, 3)), RNG(1).standard_normal((2100, 3)) * 1.2
    found = kernel_distance(x, y)
    assert kernel_distance(x[::-1], y[RNG(2).permutation(2100)]) == pytest.approx(found, abs=1e-12)
    gram = [((a @ b.T / 3) + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = sum((g.sum() - np.trace(g)) / (len(g) * (len(g) - 1)) for g in gram[:2])
    assert found == pytest.approx(within - 2 * gram[2].mean(), abs=1e-12)


def test_no_bias():
    """Equal laws: zero in the mean, with the error that is said, even with few samples."""
    found = [kernel_distance_in_blocks(*RNG(seed).standard_normal((2, 400, 6)), size=50) for seed in range(60)]
    values, errors = (np.array([getattr(one, name) for one in found]) for name in ("distance", "error"))
    assert abs(values.mean()) < 3 * values.std() / 60**0.5
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.25)


def test_blocks():
    x, y = RNG(0).standard_normal((1000, 8)), RNG(1).standard_normal((1100, 8)) + 0.3
    whole = kernel_distance(x, y)
    disjoint = kernel_distance_in_blocks(x, y, size=100)
    assert (disjoint.blocks, disjoint.size) == (10, 100)
    assert disjoint.error == pytest.approx(disjoint.spread / 10**0.5)
    drawn = kernel_distance_in_blocks(x, y, size=100, number=50)
    assert drawn.blocks == 50
    assert drawn.error == pytest.approx(drawn.spread / 10**0.5), "overlaps are no new images"
    others = [kernel_distance_in_blocks(x, y, size=100, number=n, seed=7).error for n in (10, 50, 100)]
    assert max(others) < 2 * min(others), "more blocks of the same images say no more"
    for found in (disjoint, drawn):
        assert found.distance == pytest.approx(whole, abs=4 * found.error)
    full = kernel_distance_in_blocks(x, x[::-1], size=1000, number=2)
    assert full.distance == pytest.approx(kernel_distance(x, x), abs=1e-12)
    assert kernel_distance_in_blocks(x, y, size=100) == disjoint
    assert kernel_distance_in_blocks(x, y, size=100, seed=1) != disjoint


def test_refusals():
    x = RNG(0).standard_normal((20, 3))
    with pytest.raises(UserError, match="samples: 1, where this score needs 2"):
        kernel_distance(x[:1], x)
    with pytest.raises(UserError, match="blocks of 1000 images, where 20 samples and 20 reference images came; take 2 to 10"):
        kernel_distance_in_blocks(x, x)
    with pytest.raises(UserError, match="from 1 block of 15 images"):
        kernel_distance_in_blocks(x, x, size=15)
    with pytest.raises(UserError, match="take both from one network"):
        kernel_distance(x, x[:, :2])


def test_all_at_once_with_an_error():
    """The value of `kernel_distance`; the error is near the spread of fresh draws."""
    draw = np.random.default_rng(0)
    y = draw.standard_normal((300, 8))
    found = [kernel_distance_with_error(draw.standard_normal((200, 8)) + 0.3, y) for _ in range(30)]
    x = draw.standard_normal((201, 8))
    assert kernel_distance_with_error(x, y)[0] == pytest.approx(kernel_distance(x, y), rel=1e-10)
    spread, error = np.std([value for value, _ in found], ddof=1), np.mean([error for _, error in found])
    assert 0.7 < error / spread < 1.5


def test_too_few_for_an_error():
    with pytest.raises(UserError, match="a jackknife over 10 blocks of 19 samples says nothing"):
        kernel_distance_with_error(np.zeros((19, 2)), np.zeros((30, 2)))
