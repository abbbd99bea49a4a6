"""Which scores are made of what, under which names."""

from dataclasses import replace

import numpy as np
import pytest

from gander import metrics
from gander.metrics import inception
from gander.metrics.features import Features
from gander.probes import PROBES
from gander.scoring import compute

RNG = np.random.default_rng
ALARM = Features("random-conv", "1234", 6, "none", lambda images: (images, None))
REFERENCE = replace(ALARM, name="inception", hash=inception.REFERENCE, resize="tf1")


def features(n, seed, shift=0.0):
    return (RNG(seed).standard_normal((n, 6)) + shift).astype(np.float32)


def names(network, labels=None, logits=None):
    found = compute.all_scores(features(200, 0), labels, logits, features(300, 1), labels and RNG(1).integers(0, 2, 300), network)
    return [score.name for score in found.scores]


def test_published_names_take_the_reference_weights():
    logits = RNG(2).standard_normal((200, 5)).astype(np.float32)
    bare = names(REFERENCE, logits=logits)
    assert bare == ["FID", "FID∞", "KID", "IS", "precision", "recall", "density", "coverage"]
    for network in (ALARM, replace(REFERENCE, hash="another"), replace(REFERENCE, resize="clean")):
        named = names(network, logits=logits)
        assert named[:3] == [f"Fréchet[{network.name}]", f"Fréchet∞[{network.name}]", f"KID[{network.name}]"]
        assert not any("FID" in name or name == "IS" for name in named)


def test_the_numbers_are_those_of_the_functions():
    x, y = features(200, 0, 0.3), features(300, 1)
    found = {score.name: score for score in compute.all_scores(x, None, None, y, None, ALARM).scores}
    assert found["Fréchet[random-conv]"].value == metrics.frechet_distance(x, y)
    assert found["Fréchet[random-conv]"].error == metrics.frechet_error(x, y)
    assert found["precision[random-conv]"].value == metrics.precision_recall(x, y[:200]).precision.value
    assert found["KID[random-conv]"].value == pytest.approx(metrics.kernel_distance(x, y), rel=1e-12)


def test_a_shift_moves_every_score_the_right_way():
    y = features(400, 1)
    rows = [compute.all_scores(features(400, 0, shift), None, None, y, None, ALARM).scores for shift in (0.0, 1.0, 2.0)]
    for good, worse, worst in zip(*rows, strict=True):
        sign = 1 if good.better == "lower" else -1
        assert sign * good.value < sign * worse.value < sign * worst.value, good.name


def test_within_classes():
    labels, of_real = np.arange(200) % 2, np.arange(300) % 2
    x, y = features(200, 0), features(300, 1)
    found = compute.all_scores(x, labels, None, y, of_real, ALARM)
    expected = [metrics.frechet_distance(x[labels == k], y[of_real == k]) for k in (0, 1)]
    assert found.classes == pytest.approx(dict(enumerate(expected)))
    (score,) = [score for score in found.scores if score.name.startswith("intra-")]
    assert score.value == pytest.approx(np.mean(expected))


def test_a_class_without_samples_is_said():
    found = compute.all_scores(features(200, 0), np.zeros(200, int), None, features(300, 1), np.arange(300) % 2, ALARM)
    assert found.classes == {}
    assert any(note.startswith("no distance within classes: class 1 is in the reference only") for note in found.notes)


def test_few_images_are_warned_of_with_the_kernel_distance_beside():
    wide = RNG(0).standard_normal((90, 64)).astype(np.float32)
    found = compute.distances(wide[:40], wide[40:], ALARM)
    assert [score.name for score in found.scores] == ["Fréchet[random-conv]", "KID[random-conv]"]
    assert found.notes[0].startswith("40 samples and 50 reference images in 64 dimensions")


def test_grades_and_their_errors():
    """Full marks have no error; a half of good ones has about that of a coin, 0.035."""
    images, _ = PROBES["twins"].draw(0, range(200), 16)
    found = {score.name: score for score in compute.grades(PROBES["twins"], images, None)}
    assert (found["twins/coherent"].value, found["twins/coherent"].error) == (1.0, 0.0)
    images[::2] = 0
    found = {score.name: score for score in compute.grades(PROBES["twins"], images[RNG(0).permutation(200)], None)}
    assert found["twins/coherent"].value == 0.5
    assert found["twins/coherent"].error == pytest.approx(0.035, rel=0.7)
