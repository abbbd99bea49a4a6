"""Pictures of a run: thinned, made small, never larger than they may be, and never opened where they are something else."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gander.report.pictures import encoded, frames, opened, shrunk, thinned


@given(st.integers(0, 500), st.integers(2, 60))
def test_thinning_keeps_the_ends_and_the_order(count, most):
    steps = list(range(0, 10 * count, 10))
    found = thinned(steps, most)
    assert len(found) == min(count, most)
    assert found == sorted(set(found))
    assert found[:1] == steps[:1]
    assert found[-1:] == steps[-1:]
    if count > most:
        gaps = np.diff(found) / 10
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("times", [1, 2, 3, 5, 12])
def test_enlarging_is_undone(times):
    pixels = np.random.default_rng(0).integers(0, 256, (14, 22, 3), np.uint8)
    large = Image.fromarray(pixels.repeat(times, 0).repeat(times, 1))
    assert np.array_equal(np.asarray(shrunk(large)), pixels)


def size_of(picture):
    return len(base64.b64decode(picture.src.partition(",")[2]))


@pytest.mark.parametrize("side", [40, 300, 1500])
@pytest.mark.parametrize("most", [10_000, 60_000, 400_000])
def test_a_picture_is_never_larger_than_it_may_be(side, most):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
    assert size_of(encoded(noise, most)) <= most


def test_a_small_picture_is_exact_where_there_is_room():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    found = encoded(Image.fromarray(pixels), 10_000)
    assert found.src.startswith("data:image/png;base64,")
    assert found.small


@pytest.mark.parametrize("kind", ["GIF", "JPEG", "text", "cut"])
def test_what_is_no_png_is_passed_over(tmp_path, kind):
    file, image = tmp_path / "00000001.png", Image.new("RGB", (64, 64), "red")
    if kind == "text":
        file.write_text("<svg onload='alert(1)'/>")
    else:
        image.save(file, "PNG" if kind == "cut" else kind)
        file.write_bytes(file.read_bytes()[: 40 if kind == "cut" else None])
    assert opened(file) is None
    assert frames({1: file}, 40, 1_000_000) == {}


def test_a_bomb_is_not_opened(tmp_path):
    file = tmp_path / "bomb.png"
    Image.new("1", (9000, 9000)).save(file)
    assert file.stat().st_size < 100_000
    assert opened(file) is None
