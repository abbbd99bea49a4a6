"""The only way out of [-1, 1]: exact bytes, grids by rows, files that give the same bytes back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from gander import grids


def image(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


def noise(n=5, side=4, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels), np.uint8)


def test_every_byte_comes_back():
    """What a data set's byte b becomes, b / 127.5 - 1, is b again: in and out are one law."""
    values = torch.arange(256)
    assert grids.to_bytes((values.float() / 127.5 - 1).view(1, 1, 16, 16)).ravel().tolist() == values.tolist()


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 1, width=32))
def test_bytes_are_the_nearest(x):
    (byte,) = grids.to_bytes(image(x)).ravel().tolist()
    assert abs(byte - 127.5 * (x + 1)) <= 0.5 + 1e-4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=50))
def test_brighter_is_never_darker(values):
    assert (np.diff(grids.to_bytes(image(*sorted(values))).ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("x", "byte"), [(-1.0, 0), (1.0, 255), (0.0, 128), (-1.001, 0), (1.001, 255), (-9.0, 0), (9.0, 255), (float("inf"), 255)]
)
def test_ends_and_beyond(x, byte):
    assert grids.to_bytes(image(x)).item() == byte


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_widths_are_rounded_in_fp32(dtype):
    x = torch.linspace(-1, 1, 300).view(1, 3, 10, 10).to(dtype)
    assert np.array_equal(grids.to_bytes(x), grids.to_bytes(x.float()))


def test_bytes_have_their_channels_last_whatever_the_layout():
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    out = grids.to_bytes(x)
    assert (out.shape, out.dtype) == ((2, 4, 5, 3), np.uint8)
    assert np.array_equal(out, grids.to_bytes(x.to(memory_format=torch.channels_last)))
    assert np.array_equal(out[1, 2, 3], grids.to_bytes(x[1:, :, 2:3, 3:4]).ravel())


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 12),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    columns=st.none() | st.integers(1, 13),
    gap=st.integers(0, 3),
)
def test_a_grid_has_every_image_at_its_place_and_white_elsewhere(n, height, width, channels, columns, gap):
    images = np.random.default_rng(0).integers(0, 255, (n, height, width, channels), np.uint8)  # no 255: white is no image
    sheet = grids.grid(images, columns, gap)
    across = columns or int(np.ceil(np.sqrt(n)))
    down = -(-n // across)
    assert sheet.shape == (down * (height + gap) - gap, across * (width + gap) - gap, channels)
    for i, one in enumerate(images):
        top, left = i // across * (height + gap), i % across * (width + gap)
        assert np.array_equal(sheet[top : top + height, left : left + width], one)
    assert (sheet != 255).sum() == images.size


def test_a_grid_is_as_square_as_it_can_be():
    shapes = {n: grids.grid(np.zeros((n, 1, 1, 1), np.uint8), gap=0).shape[:2] for n in (1, 2, 4, 5, 9, 10, 64)}
    assert shapes == {1: (1, 1), 2: (1, 2), 4: (2, 2), 5: (2, 3), 9: (3, 3), 10: (3, 4), 64: (8, 8)}


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 8, 1), (100, 300, 3), (600, 10, 3)])
def test_small_images_are_enlarged_by_whole_pixels(shape):
    one = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    large = grids.enlarge(one)
    times = large.shape[0] // shape[0]
    assert large.shape == (shape[0] * times, shape[1] * times, shape[2])
    assert max(large.shape) >= 512
    assert times == 1 or max(shape) * (times - 1) < 512  # and no larger than need be
    assert np.array_equal(large[::times, ::times], one)
    assert np.array_equal(large[times - 1 :: times, times - 1 :: times], one)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_png_gives_the_same_bytes_back(channels, mode, tmp_path):
    one = noise(1, 16, channels)[0]
    grids.save_png(tmp_path / "new" / "a.png", one)
    with Image.open(tmp_path / "new" / "a.png") as file:
        assert file.mode == mode
        assert np.array_equal(np.asarray(file).reshape(one.shape), one)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.png"]


def test_the_same_image_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        grids.save_png(tmp_path / name, noise(1, 8)[0])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gif_has_every_frame_and_goes_round(channels, tmp_path):
    """Frames of at most 256 colours come back to the bit, in order, at the speed that was asked."""
    frames = list(noise(6, 8, channels))
    grids.save_gif(tmp_path / "a.gif", frames, seconds=0.12)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 6
        assert film.info["loop"] == 0
        assert film.info["duration"] == 120
        for frame, page in zip(frames, ImageSequence.Iterator(film), strict=True):
            assert np.array_equal(np.asarray(page.convert("RGB")), np.broadcast_to(frame, (8, 8, 3)))


def test_a_gif_of_one_frame(tmp_path):
    grids.save_gif(tmp_path / "a.gif", list(noise(1, 8)))
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 1


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    grids.save_png(tmp_path / "a.png", noise(1, 8)[0])
    before = (tmp_path / "a.png").read_bytes()

    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gander.files.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        grids.save_png(tmp_path / "a.png", noise(1, 8, seed=1)[0])
    assert (tmp_path / "a.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
