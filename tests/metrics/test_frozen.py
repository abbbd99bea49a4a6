"""Against what torchmetrics 1.9.0 and torch-fidelity (5e211a9) gave for the same features: printed by `frozen.py`."""

import frozen
import pytest

from gander import metrics

SAMPLES, REFERENCE, LOGITS = frozen.arrays()


def same(number):
    return pytest.approx(number, rel=1e-6)


def test_frechet():
    found = metrics.frechet_distance(SAMPLES, REFERENCE)
    assert found == same(0.549314718163536), "torchmetrics"
    assert found == same(0.5493147181635369), "torch-fidelity"


def test_inception_score():
    assert metrics.inception_score(LOGITS, splits=1).score == same(2.0542480128132237), "torchmetrics"
    ten = metrics.inception_score(LOGITS)
    assert ten.score == same(1.989015338200081), "torch-fidelity"
    assert ten.spread == same(0.049573944672366484), "torch-fidelity"


def test_kernel():
    assert metrics.kernel_distance(SAMPLES, REFERENCE[:300]) == same(0.05952357545157483), "both"


def test_precision_and_recall():
    found = metrics.precision_recall(SAMPLES, REFERENCE)
    assert found.precision.value == same(0.9700000286102295), "torch-fidelity, which means in float32"
    assert found.recall.value == same(0.6472222208976746), "torch-fidelity"
