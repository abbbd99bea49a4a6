"""A probe grades its own images in full, and broken ones for what is broken."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gander.errors import UserError
from gander.probes import PROBES

HELD_OUT = np.arange(50_000, 50_600)


def as_images(drawn):
    return drawn.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


def soft_disc(size, x, y, radius, colour):
    """Written from the module's first paragraph, apart from its code: (3, size, size) above the background."""
    at = (np.arange(size) + 0.5) / size
    away = np.hypot(at[:, None] - y, at[None] - x)
    return np.clip(0.5 + (radius - away) * 16, 0, 1) * 1.8 * np.array(colour)[:, None, None]


def scene(*discs, size=16):
    return (-0.9 + sum(soft_disc(size, *disc) for disc in discs))[None].astype(np.float32)


RED, GREEN, BLUE, WHITE = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("name", PROBES)
def test_drawn_images_get_full_marks(name, size):
    images, labels = PROBES[name].draw(0, HELD_OUT, size)
    grades = PROBES[name].grade(as_images(images), labels)
    assert set(grades.values()) == {1.0}


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("name", PROBES)
def test_slight_blur_and_noise_are_tolerated(name, size):
    drawn, labels = PROBES[name].draw(1, HELD_OUT, size)
    noise = np.random.default_rng(0).standard_normal((len(drawn), 3, size, size))
    blurred = ndimage.gaussian_filter(as_images(drawn), (0, 0, size / 32, size / 32)) + 0.05 * noise
    assert min(PROBES[name].grade(blurred, labels).values()) >= 0.999


@pytest.mark.parametrize("name", PROBES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), index=st.lists(st.integers(0, 2**40), min_size=1, max_size=6))
def test_an_image_depends_on_its_own_index_alone(name, seed, index):
    together, labels = PROBES[name].draw(seed, index, 16)
    alone = [PROBES[name].draw(seed, [i], 16) for i in index]
    np.testing.assert_array_equal(together, np.concatenate([images for images, _ in alone]))
    np.testing.assert_array_equal(labels, np.concatenate([label for _, label in alone]))
    assert PROBES[name].grade(as_images(together), labels)["valid"] == 1


def test_chunks_leave_no_trace():
    whole, _ = PROBES["twins"].draw(0, np.arange(300), 64)  # 256 images make a chunk
    part, _ = PROBES["twins"].draw(0, np.arange(250, 262), 64)
    np.testing.assert_array_equal(whole[250:262], part)


@pytest.mark.parametrize("name", PROBES)
def test_seeds_and_indices_differ(name):
    images, _ = PROBES[name].draw(0, np.arange(200), 16)
    others, _ = PROBES[name].draw(1, np.arange(200), 16)
    assert len(np.unique(np.concatenate([images, others]), axis=0)) == 400


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("twins", "da87a3ddc1dc38b6"),
        ("count", "ee2e4c726ffb261f"),
    ],
)
def test_version_1_is_these_bytes(name, digest):
    """A probe's fingerprint is its name and version: other bytes need another version."""
    assert PROBES[name].version == 1
    images, labels = PROBES[name].draw(0, np.arange(100), 16)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", PROBES)
def test_shapes_types_and_labels(name):
    probe = PROBES[name]
    images, labels = probe.draw(3, np.arange(400), 20)
    assert probe.name == name
    assert images.dtype == np.uint8
    assert images.shape == (400, 20, 20, 3)
    assert labels.dtype == np.int64
    assert set(labels) == set(range(max(1, probe.num_classes)))


@pytest.mark.parametrize("name", PROBES)
def test_texture_has_its_strength(name):
    images, _ = PROBES[name].draw(0, np.arange(200), 16)
    corner = as_images(images)[:, :, 0, 0]
    assert corner.mean() == pytest.approx(-0.9, abs=0.004)
    assert corner.std() == pytest.approx(0.02, rel=0.1)


def test_a_tensor_is_graded_as_an_array():
    images, _ = PROBES["twins"].draw(0, np.arange(50), 16)
    assert PROBES["twins"].grade(torch.from_numpy(as_images(images))) == PROBES["twins"].grade(as_images(images))


def test_twins_of_other_hues_lose_the_hue_only():
    drawn, _ = PROBES["twins"].draw(0, HELD_OUT, 16)
    images = as_images(drawn)
    images[:, :, :, 8:] = np.roll(images, 1, axis=1)[:, :, :, 8:]  # channels turned by one: 120 degrees
    grades = PROBES["twins"].grade(images)
    assert grades["valid"] == grades["radius_agrees"] == 1
    assert grades["hue_agrees"] == grades["coherent"] == 0


@pytest.mark.parametrize(("degrees", "agrees"), [(10, 1), (17, 1), (23, 0), (60, 0)])
def test_hues_agree_up_to_20_degrees(degrees, agrees):
    turned = (1, degrees / 60, 0)
    angle = np.degrees(np.angle(sum(c * np.exp(2j * np.pi * k / 3) for k, c in enumerate(turned))))
    assert abs(angle - degrees) < 1.2  # a HSV hue is not quite the angle of its colour
    grades = PROBES["twins"].grade(scene((0.25, 0.4, 0.15, RED), (0.75, 0.6, 0.15, turned)))
    assert grades["valid"] == 1
    assert grades["hue_agrees"] == agrees


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize(("radius", "agrees"), [(0.14, 1), (0.158, 1), (0.172, 0), (0.2, 0)])
def test_radii_agree_up_to_15_percent(radius, agrees, size):
    grades = PROBES["twins"].grade(scene((0.25, 0.41, 0.142, RED), (0.75, 0.63, radius, RED), size=size))
    assert grades["valid"] == grades["hue_agrees"] == 1
    assert grades["radius_agrees"] == grades["coherent"] == agrees


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(scene((0.25, 0.4, 0.15, RED)), id="one disc"),
        pytest.param(scene((0.25, 0.2, 0.13, RED), (0.25, 0.7, 0.13, RED)), id="both left"),
        pytest.param(scene((0.25, 0.3, 0.13, RED), (0.75, 0.3, 0.13, RED), (0.5, 0.8, 0.13, RED)), id="three discs"),
        pytest.param(scene((0.42, 0.4, 0.15, RED), (0.58, 0.4, 0.15, RED)), id="grown together"),
        pytest.param(scene((0.25, 0.4, 0.15, WHITE), (0.75, 0.4, 0.15, WHITE)), id="white"),
        pytest.param(scene((0.25, 0.4, 0.08, RED), (0.75, 0.4, 0.08, RED)), id="too small"),
        pytest.param(scene((0.25, 0.4, 0.26, RED), (0.75, 0.4, 0.26, RED)), id="too large"),
        pytest.param(np.full((1, 3, 16, 16), -0.9, np.float32), id="nothing"),
        pytest.param(np.full((1, 3, 16, 16), np.nan, np.float32), id="not a number"),
        pytest.param(np.ones((1, 3, 16, 16), np.float32), id="all bright"),
    ],
)
def test_what_no_pair_of_discs_is(image):
    assert set(PROBES["twins"].grade(image).values()) == {0.0}


def test_a_triangle_is_no_disc_and_a_speck_is_nothing():
    pair = scene((0.25, 0.4, 0.15, RED), (0.75, 0.4, 0.15, RED), size=32)
    speck = pair.copy()
    speck[0, 0, 30, 15:17] = 0.9
    assert PROBES["twins"].grade(speck)["valid"] == 1
    row, column = np.indices((32, 32))
    triangle = np.where((row < 20) & (abs(column - 23.5) * 2 < row - 5), 0.9, -0.9)
    pair[0, 0, :, 16:] = triangle[:, 16:]
    assert PROBES["twins"].grade(pair)["valid"] == 0


@pytest.mark.parametrize("name", PROBES)
def test_noise_is_worth_nothing(name):
    noise = np.random.default_rng(0).uniform(-1, 1, (500, 3, 16, 16))
    assert set(PROBES[name].grade(noise).values()) == {0.0}


def test_images_of_one_hue_cover_little():
    drawn, _ = PROBES["twins"].draw(0, np.arange(2000), 16)
    images = as_images(drawn)
    reddish = images[images[:, 0].max((1, 2)) > images[:, 1:].max((1, 2, 3)) + 0.9]
    grades = PROBES["twins"].grade(reddish)
    assert grades["coherent"] == 1
    assert 4 / 24 <= grades["hues_covered"] <= 6 / 24  # 30 degrees to both sides of red
    same = np.repeat(as_images(drawn[:1]), 500, 0)
    assert PROBES["twins"].grade(same)["hues_covered"] == 1 / 24


@pytest.mark.parametrize("n", [24, 64])
def test_small_sets_cover_as_many_hues_as_stated(n):
    drawn, _ = PROBES["twins"].draw(5, np.arange(40 * n), 16)
    covered = [PROBES["twins"].grade(part)["hues_covered"] for part in np.split(as_images(drawn), 40)]
    assert np.mean(covered) == pytest.approx(1 - (1 - 1 / 24) ** n, abs=0.03)


def test_count_wants_the_count_of_the_label():
    drawn, labels = PROBES["count"].draw(0, HELD_OUT, 16)
    wrong = PROBES["count"].grade(as_images(drawn), (labels + 1) % 4)
    assert wrong["right_count"] == 0
    assert wrong["valid"] == 1
    assert PROBES["count"].grade(as_images(drawn))["right_count"] == 1
    ones = PROBES["count"].grade(as_images(drawn[labels == 0]))
    assert ones == {"valid": 1, "right_count": 1, "counts_covered": 0.25}
    for count in range(4):
        discs = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)][: count + 1]
        image = scene(*((x, y, 0.12, colour) for (x, y), colour in zip(discs, (RED, GREEN, BLUE, RED), strict=False)))
        assert PROBES["count"].grade(image, [count])["right_count"] == 1


def test_one_bad_disc_spoils_a_count():
    image = scene((0.25, 0.25, 0.12, RED), (0.7, 0.7, 0.2, RED))
    assert PROBES["count"].grade(image, [1])["right_count"] == 0


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (3, 16, 16), (0, 3, 16, 16)])
def test_what_cannot_be_graded_is_refused(shape):
    with pytest.raises(UserError, match="colour images"):
        PROBES["twins"].grade(np.zeros(shape, np.float32))


def test_too_small_images_are_refused():
    with pytest.raises(UserError, match="16 pixels a side or more; got 8"):
        PROBES["count"].draw(0, [0], 8)
