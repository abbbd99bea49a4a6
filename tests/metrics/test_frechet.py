"""The Fréchet distance in closed form, against scipy, and its error and bias on laws that are known."""

import numpy as np
import pytest
import scipy.linalg
import torch

from gander.errors import UserError
from gander.metrics import Moments, frechet, frechet_at_infinity, frechet_by_class, frechet_distance, frechet_error

RNG = np.random.default_rng


def whitened(n, d, seed=0):
    """Rows of mean zero and covariance exactly one, to rounding."""
    x = RNG(seed).standard_normal((n, d))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (n - 1))).T


def rotation(d, seed):
    return np.linalg.qr(RNG(seed).standard_normal((d, d)))[0]


def nuclear(x, y):
    """The distance with nothing squared: by QR of the centred rows, in float64."""
    roots = [np.linalg.qr((z - z.mean(0)) / np.sqrt(len(z) - 1), mode="r") for z in (x, y)]
    traces = sum(np.square(root).sum() for root in roots)
    return np.square(x.mean(0) - y.mean(0)).sum() + traces - 2 * np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()


def test_gaussians_that_commute():
    """Σ (m₁ - m₂)² + Σ (s₁ - s₂)²."""
    d = 12
    a, b, m = np.linspace(0.5, 2, d), np.linspace(3, 0.1, d), np.linspace(-1, 1, d)
    base = rotation(d, 1)
    found = frechet_distance((whitened(500, d) * a + m) @ base, (whitened(400, d, 2) * b) @ base)
    assert found == pytest.approx(np.square(m).sum() + np.square(a - b).sum(), rel=1e-11)


def test_gaussians_that_do_not_commute():
    d = 9
    first, second = RNG(1).standard_normal((2, d, d))
    s, t = first.T @ first, second.T @ second
    expected = np.trace(s) + np.trace(t) - 2 * np.trace(scipy.linalg.sqrtm(s @ t)).real
    assert frechet_distance(whitened(100, d) @ first, whitened(80, d, 2) @ second) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(4, 30), (30, 30), (31, 30), (1500, 30), (50, 1)])
def test_a_shift(n, d):
    x = RNG(0).standard_normal((n, d))
    assert frechet_distance(x, x + 0.5) == pytest.approx(d / 4, abs=1e-9)


def situations():
    n, d = 400, 48
    x, y = RNG(0).standard_normal((2, n, d))
    decay = np.arange(1.0, d + 1) ** -3
    dead = np.arange(d) % 3 > 0
    flat = RNG(5).standard_normal((10, d))
    return {
        "full rank": (x, y + 0.1),
        "fewer than dimensions": (x[:20], y[:30]),
        "one of them fewer": (x[:20], y),
        "dead features": (x * dead, y * dead),
        "dead in one": (x * dead, y),
        "on one plane": (x[:, :10] @ flat, y[:, :10] @ flat),
        "on two planes": (x[:, :10] @ flat, y[:, :10] @ RNG(6).standard_normal((10, d))),
        "repeated features": (np.tile(x[:, :24], 2), np.tile(y[:, :24], 2)),
        "copies of 20 rows": (np.tile(x[:20], (20, 1)), y),
        "falling spectrum": (x * decay @ rotation(d, 3), y * decay @ rotation(d, 3)),
        "a large mean": (x + 1000, y + 1000),
        "constant": (np.ones((n, d)), np.ones((n, d))),
        "constant in one": (np.ones((n, d)), y),
        "relu": (x.clip(0) ** 2, y.clip(0)),
    }


@pytest.mark.parametrize("name", situations())
def test_nothing_is_lost(name):
    x, y = situations()[name]
    scale = x.var(0).sum() + y.var(0).sum()
    expected = nuclear(x, y)
    for found in (frechet_distance(x, y), frechet_distance(y, x), frechet_distance(Moments.of(x), torch.from_numpy(y))):
        assert found == pytest.approx(expected, abs=1e-9 * max(1, scale))
    for z in (x, y):
        assert frechet_distance(z, z.copy()) == pytest.approx(0, abs=1e-9)


def statistics_only(x):
    """Moments that have forgotten the rows, as from a file of statistics."""
    mean = x.mean(0)
    scatter = torch.from_numpy((x - mean).T @ (x - mean))
    return Moments.from_tensors({"count": torch.tensor(len(x)), "mean": torch.from_numpy(mean), "scatter": scatter})


@pytest.mark.parametrize("name", situations())
def test_statistics_without_rows(name):
    """With the rows gone, the null space is known to √ε at best; a set against itself is still at zero."""
    x, y = situations()[name]
    scale = x.var(0).sum() + y.var(0).sum()
    assert frechet_distance(statistics_only(x), statistics_only(y)) == pytest.approx(nuclear(x, y), abs=5e-6 * max(1, scale))
    assert frechet_distance(statistics_only(x), statistics_only(x)) == pytest.approx(0, abs=1e-9 * max(1, scale))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_features_are_widened_first(kind):
    x, y = (torch.from_numpy(RNG(seed).standard_normal((300, 20))).to(kind) for seed in (0, 1))
    assert frechet_distance(x, y) == frechet_distance(x.double(), y.double())


def test_the_error_is_that_of_new_draws():
    d, n = 6, 400
    y = RNG(99).standard_normal((4000, d))
    draws = [RNG(seed).standard_normal((n, d)) * 1.3 + 0.3 for seed in range(60)]
    true = np.std([frechet_distance(x, y) for x in draws], ddof=1)
    said = np.mean([frechet_error(x, y) for x in draws[:20]])
    assert said == pytest.approx(true, rel=0.3)


def test_extrapolation():
    """Equal laws are at zero; 400 samples of 20 dimensions are not, and the line finds out."""
    d = 20
    y = whitened(3000, d)
    results = [frechet_at_infinity(RNG(seed).standard_normal((400, d)), y) for seed in range(10)]
    single = np.array([result.distances[0] for result in results])
    assert single.min() > 0.2
    values, errors = (np.array([getattr(result, name) for result in results]) for name in ("distance", "error"))
    assert abs(values.mean()) < 0.15 * single.mean()
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.6)
    assert results[0].sizes == (400, 200, 133, 100, 80)
    assert results[0].slope > 0


def test_by_class():
    x, y = RNG(0).standard_normal((300, 5)), RNG(1).standard_normal((400, 5))
    of_x, of_y = np.arange(300) % 3, torch.arange(400) % 3
    found = frechet_by_class(x, of_x, y, of_y)
    each = [frechet_distance(x[of_x == k], y[of_y.numpy() == k]) for k in range(3)]
    assert [found.classes[k].distance for k in range(3)] == each
    assert found.mean == pytest.approx(np.mean(each))
    errors = [frechet(x[of_x == k], y[of_y.numpy() == k]).error for k in range(3)]
    assert found.error == pytest.approx(np.sqrt(np.square(errors).sum()) / 3)
    with pytest.raises(UserError, match="class 2 is in the reference only"):
        frechet_by_class(x, np.where(of_x == 2, 7, of_x), y, of_y)
    with pytest.raises(UserError, match="300 samples with 299 labels"):
        frechet_by_class(x, of_x[:-1], y, of_y)
    with pytest.raises(UserError, match="class 1: samples: 1, where this score needs 10 or more"):
        frechet_by_class(x, (np.arange(300) == 3).astype(int), y, of_y.clamp(max=1))


def test_few_samples_are_said():
    x, y = RNG(0).standard_normal((2, 40, 30))
    assert frechet(x, y).warning == ""
    assert frechet(x[:29], y).warning.startswith("29 samples in 30 dimensions: ")
    assert frechet(x[:29], y[:20]).warning.startswith("29 samples and 20 reference images in 30 dimensions: ")
    assert frechet_at_infinity(x, y).warning.startswith("8 samples in 30")


def test_refusals():
    x = RNG(0).standard_normal((20, 4))
    with pytest.raises(UserError, match="samples: 1, where a covariance needs 2"):
        frechet_distance(x[:1], x)
    with pytest.raises(UserError, match="reference: 0, where"):
        frechet_distance(x, Moments(4))
    with pytest.raises(UserError, match="samples have 4 features an image, the reference 3; take both from one network"):
        frechet_distance(x, x[:, :3])
    with pytest.raises(UserError, match="over 1 blocks"):
        frechet_error(x, x, blocks=1)
    with pytest.raises(UserError, match="samples: 9, where this score needs 10"):
        frechet(x[:9], x)
    with pytest.raises(UserError, match="three sizes"):
        frechet_at_infinity(x, x, parts=(1, 2))
