"""Moments: however the rows came, the same."""

import numpy as np
import pytest
import torch
from processes import run

from gander.errors import UserError
from gander.metrics import Moments, frechet_distance

N, D = 3000, 7


def features(n=N, d=D, seed=0, mean=100.0):
    return mean + np.random.default_rng(seed).standard_normal((n, d)) @ np.diag(np.linspace(0.1, 2, d))


def held(moments, x, rel=1e-12):
    assert moments.count == len(x)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=rel)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), rtol=rel, atol=rel * np.abs(np.cov(x.T)).max())
    assert moments.variance == pytest.approx(np.cov(x.T).trace(), rel=rel)


@pytest.mark.parametrize("n", [2, 5, 1023, 1024, 1025, 2048, N])
def test_equal_numpy(n):
    held(Moments.of(features(n)), features(n))


def test_far_from_the_origin():
    """Sums of squares would lose 16 digits here."""
    held(Moments.of(features(mean=1e6)), features(mean=1e6), rel=1e-9)


@pytest.mark.parametrize("n", [1000, N])
def test_the_size_of_batches_changes_no_bit(n):
    x, y = features(n), features(900, seed=1)
    whole = frechet_distance(x, y)
    for size in (1, 64, 1025):
        moments = Moments(D)
        for at in range(0, n, size):
            moments.update(torch.from_numpy(x[at : at + size]))
        assert frechet_distance(moments, y) == whole


@pytest.mark.parametrize("n", [6, 1000, N])
def test_order_changes_nothing(n):
    x, y = features(n), features(1200, seed=1)
    order = np.random.default_rng(2).permutation(n)
    assert frechet_distance(x[order], y) == pytest.approx(frechet_distance(x, y), rel=1e-12)


@pytest.mark.parametrize("cuts", [(3, 5), (500, 900), (1030, 1040), (0, 2999), (2500, 2600)])
def test_merging(cuts):
    x = features()
    parts = [Moments(D) for _ in range(3)]
    for part, rows in zip(parts, np.split(x, cuts), strict=True):
        part.update(rows)
    held(Moments.merged(parts), x)
    assert [part.count for part in parts] == [len(rows) for rows in np.split(x, cuts)]


def test_reading_midway_changes_nothing():
    x, moments = features(), Moments(D)
    for at in range(0, N, 100):
        moments.update(x[at : at + 100])
        held(moments, x[: at + 100])
        moments.root()
    held(moments, x)


def test_rows_are_kept_while_they_are_fewer_than_dimensions():
    moments = Moments.of(features(1500, 1500))
    assert moments.rows is not None
    moments.update(features(1, 1500))
    assert moments.rows is None


@pytest.mark.parametrize("n", [5, N])
def test_saved_and_back(n):
    x = features(n)
    tensors = Moments.of(x).tensors()
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    held(Moments.from_tensors(tensors), x)
    assert frechet_distance(Moments.from_tensors(tensors), x) == pytest.approx(0, abs=1e-9)


def test_what_is_no_moments():
    tensors = Moments.of(features()).tensors()
    for broken in ({}, {"mean": tensors["mean"]}, {**tensors, "scatter": tensors["scatter"][:3]}, {"rows": torch.zeros(3)}):
        with pytest.raises(UserError, match="no statistics of features"):
            Moments.from_tensors(broken)
    with pytest.raises(UserError, match="NaN"):
        Moments.from_tensors({**tensors, "mean": tensors["mean"] * torch.nan})
    with pytest.raises(UserError, match=r"7 features.*5"):
        Moments(5).update(features())


SETS = {"many": N, "all on one": 5, "few": 5}


def member() -> dict:
    """What each of two processes makes of its share of the rows."""
    from gander.distributed import rank

    found = {}
    for name, n in SETS.items():
        x, moments = features(n), Moments(D)
        cut = {"many": 1100, "all on one": 0, "few": 2}[name]
        moments.update(x[cut:] if rank() else x[:cut])
        moments.together()
        found[name] = (moments.count, torch.from_numpy(moments.mean), torch.from_numpy(moments.covariance))
        found[f"{name} kept"] = moments.rows is not None
    return found


def test_processes_equal_one():
    results = run(member, 2)
    for found in results:
        for name, n in SETS.items():
            count, mean, covariance = found[name]
            x = features(n)
            assert count == n
            np.testing.assert_allclose(mean.numpy(), x.mean(0), rtol=1e-12)
            np.testing.assert_allclose(covariance.numpy(), np.cov(x.T), rtol=1e-12, atol=1e-12)
            assert torch.equal(mean, results[0][name][1]), "all processes hold the same"
            assert torch.equal(covariance, results[0][name][2])
        assert found["few kept"]
        assert not found["many kept"]


@pytest.mark.parametrize("cut", [200, 1500, N - 200])
def test_a_part_can_be_taken_away(cut):
    x = features(mean=3.0)
    rest = Moments.of(x).without(Moments.of(x[:cut]))
    held(rest, x[cut:], rel=1e-10)
    y = features(500, seed=1)
    assert frechet_distance(rest, y) == pytest.approx(frechet_distance(x[cut:], y), rel=1e-9)


def test_what_would_leave_too_few_cannot_be_taken_away():
    x = features()
    with pytest.raises(ValueError, match=f"{N - D} rows of {N} leave too few to subtract in {D} dimensions"):
        Moments.of(x).without(Moments.of(x[D:]))


@pytest.mark.parametrize("n", [5, 100, N])
def test_compact_moments_take_in_more(n):
    x = features()
    moments = Moments.of(x[:n]).compact()
    moments.update(x[n:])
    held(moments, x, rel=1e-11)
