import numpy as np
import pytest

from gander.errors import UserError
from gander.metrics import distances, memorisation

RNG = np.random.default_rng
TRAINING, HELD_OUT, FRESH = (RNG(seed).standard_normal((n, 16)) for seed, n in enumerate((600, 300, 300)))


def test_the_nearest(monkeypatch):
    apart = np.sqrt(np.square(FRESH[:, None] - TRAINING).sum(-1))
    for side in (2048, 64, 7):
        monkeypatch.setattr(distances, "SIDE", side)
        found = memorisation(FRESH, TRAINING, HELD_OUT)
        assert (found.nearest == apart.argmin(1)).all()
        np.testing.assert_allclose(found.distances, apart.min(1), rtol=1e-12)
        assert (np.diff(found.distances[found.order]) >= 0).all()


def test_fresh_draws_are_cleared():
    found = memorisation(FRESH, TRAINING, HELD_OUT)
    assert not found.found
    assert found.verdict.startswith("no memorisation seen: ")
    assert found.copies == 0
    assert found.nearer == pytest.approx(0.5, abs=0.1)


def test_false_alarms_are_rare():
    """Four tests at one in a thousand."""
    alarms = 0
    for seed in range(150):
        x, y, z = (RNG([seed, k]).standard_normal((n, 3)) for k, n in enumerate((40, 60, 50)))
        alarms += memorisation(x, y, z).found
    assert alarms <= 2


def test_a_few_copies_are_found():
    """Twelve of three hundred: the whole looks fresh, the tail does not."""
    samples = np.concatenate([FRESH[:288], TRAINING[:12]])
    found = memorisation(samples, TRAINING, HELD_OUT)
    assert found.found
    assert found.copies == 12
    assert (found.distances[-12:] == 0).all()
    assert found.nearest[-12:].tolist() == list(range(12))
    assert set(found.order[:12]) == set(range(288, 300))
    assert found.verdict.startswith("memorisation: ")
    assert "nearer to a training image than any held-out image" in found.verdict
    assert "12 are copies" in found.verdict
    assert abs(found.z) < 3


def test_a_drift_of_all_is_found():
    """No copy among them, all a little too near."""
    near = TRAINING[:300] + 0.6 * RNG(9).standard_normal((300, 16))
    found = memorisation(near, TRAINING, HELD_OUT)
    assert found.found
    assert found.copies == 0
    assert found.z > 5
    assert found.nearer > 0.6


def test_poor_samples_are_not_called_fresh():
    found = memorisation(2 * FRESH, TRAINING, HELD_OUT)
    assert not found.found
    assert found.verdict.startswith("no near copies seen, but a sample is nearer than a held-out image in 0 % of pairs")


def test_plain_samples_are_not_called_copies():
    """Nearer to everything, since nearer to the middle, without one that is very near: said, but no verdict."""
    found = memorisation(0.9 * FRESH, TRAINING, HELD_OUT)
    assert found.z > 3.2
    assert not found.found
    assert "plainer than real ones" in found.verdict
    suspected = memorisation(0.75 * FRESH, TRAINING, HELD_OUT)  # so plain that many of them are near to something
    assert suspected.found
    assert suspected.tails[0].p > 0.001
    assert suspected.verdict.startswith("memorisation suspected: ")


def test_tails():
    """The share, its interval, and p under exchange: of the pooled images, any are the nearest alike."""
    found = memorisation(FRESH, TRAINING, HELD_OUT)
    assert [tail.rank for tail in found.tails] == [1, 3, 15]
    for tail in found.tails:
        assert tail.expected == tail.rank / 301
        assert tail.share == (found.distances < np.sort(found.held_out)[tail.rank - 1]).mean()
        assert tail.low <= tail.share <= tail.high
        pooled = RNG(3).permuted(np.tile(np.arange(600) < 300, (10000, 1)), axis=1)  # true: a held-out image
        before = (~pooled & (pooled.cumsum(1) < tail.rank)).sum(1)
        assert tail.p == pytest.approx((before >= round(tail.share * 300)).mean(), abs=0.02)


def test_all_alike():
    found = memorisation(np.zeros((30, 2)), np.zeros((40, 2)), np.zeros((30, 2)))
    assert not found.found
    assert found.z == 0


def test_refusals():
    with pytest.raises(UserError, match="held-out images: 19, where this score needs 20"):
        memorisation(FRESH, TRAINING, HELD_OUT[:19])
    with pytest.raises(UserError, match="samples: 5, where"):
        memorisation(FRESH[:5], TRAINING, HELD_OUT)
    with pytest.raises(UserError, match="one network"):
        memorisation(FRESH, TRAINING, HELD_OUT[:, :3])
