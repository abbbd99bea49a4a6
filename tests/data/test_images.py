"""The laws of decoding one image."""

import contextlib
import io

import numpy as np
import pytest
from pictures import encoded, pixels, png, vast_png
from PIL import Image

from gander.data.images import MAX_PIXELS, Broken, decode, decode_sized, inspect


def flat(*colour, size=(8, 8), mode="RGB"):
    return Image.new(mode, size, colour if len(colour) > 1 else colour[0])


def smooth(width, height):
    """An image that JPEG keeps well."""
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    return np.stack([np.sin(x), np.cos(x + y), np.sin(y)], -1).__mul__(100).__add__(128).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_type(channels):
    array = decode(png(width=20, height=12), 8, channels)
    assert array.shape == (8, 8, channels)
    assert array.dtype == np.uint8


def test_at_its_own_size_nothing_changes():
    np.testing.assert_array_equal(decode(png(3), 8), pixels(3))


@pytest.mark.parametrize(("resolution", "filter"), [(8, Image.Resampling.LANCZOS), (48, Image.Resampling.BICUBIC)])
def test_resizing_is_that_of_pillow(resolution, filter):
    array = pixels(width=24, height=24)
    expected = np.asarray(Image.fromarray(array).resize((resolution, resolution), filter))
    np.testing.assert_array_equal(decode(encoded(array), resolution), expected)


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 96)])
def test_short_side_resized_then_the_centre_cut_out(width, height):
    array = pixels(width=width, height=height)
    whole = Image.fromarray(array).resize((width // 4, height // 4), Image.Resampling.LANCZOS)
    left, top = (whole.width - 8) // 2, (whole.height - 8) // 2
    np.testing.assert_array_equal(decode(encoded(array), 8), np.asarray(whole.crop((left, top, left + 8, top + 8))))


def test_a_fine_pattern_is_averaged_not_sampled():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(decode(encoded(stripes), 8).astype(int) - 128).max() <= 8  # a sample would be 0 or 255


def test_a_large_jpeg_is_as_if_decoded_whole():
    data = encoded(smooth(400, 300), "JPEG", quality=95)
    whole = Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.LANCZOS, (50, 0, 350, 300))
    array, short = decode_sized(data, 32)
    assert short == 300
    assert abs(array.astype(int) - np.asarray(whole)).max() <= 3


def test_one_pixel_becomes_all():
    np.testing.assert_array_equal(decode(encoded(flat(9, 8, 7, size=(1, 1))), 4), np.broadcast_to([9, 8, 7], (4, 4, 3)))


def test_a_ribbon_takes_no_memory():
    assert decode(encoded(flat(5, 5, 5, size=(60_000, 1))), 256).max() == 5


def test_transparent_is_white():
    array = pixels(channels=4)
    alpha = array[..., 3:] / 255.0
    expected = array[..., :3] * alpha + 255 * (1 - alpha)
    assert abs(decode(encoded(array), 8) - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_with_transparency(channels):
    image = Image.merge("LA", (flat(0, mode="L"), flat(51, mode="L")))
    assert abs(decode(encoded(image), 8, channels).astype(int) - 204).max() <= 1


def test_a_palette_with_transparency():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.paste(1, (4, 0, 8, 8))
    array = decode(encoded(image, transparency=0), 8)
    np.testing.assert_array_equal(array[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(array[0, 7], [0, 100, 0])


def test_a_transparent_colour():
    array = decode(encoded(flat(1, 2, 3), transparency=(1, 2, 3)), 8)
    assert array.min() == 255


def test_sixteen_bits_are_scaled():
    values = np.array([[0, 65535], [32768, 257]], np.uint16)
    np.testing.assert_array_equal(decode(encoded(values), 2, 1)[..., 0], [[0, 255], [128, 1]])
    np.testing.assert_array_equal(decode(encoded(values, "TIFF"), 2, 1)[..., 0], [[0, 255], [128, 1]])
    np.testing.assert_array_equal(decode(b"P5 2 2 65535\n" + values.astype(">u2").tobytes(), 2, 1)[..., 0], [[0, 255], [128, 1]])


@pytest.mark.parametrize("type", [np.float32, np.int32])
def test_pixels_without_a_scale_are_broken(type):
    with pytest.raises(Broken, match="32-bit"):
        decode(encoded(np.ones((4, 4), type), "TIFF"), 4)


def test_cmyk_is_made_rgb():
    array = decode(encoded(flat(0, 255, 255, 0, mode="CMYK"), "JPEG", quality=100), 8)
    assert abs(array.astype(int) - [255, 0, 0]).max() <= 4


def test_one_bit():
    assert decode(encoded(flat(1, mode="1")), 4).min() == 255


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_of_exif_is_applied(orientation, format):
    array = np.zeros((16, 32, 3), np.uint8)
    array[:8, 8:16] = 255  # the top left of the centre
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"lossless": True} if format == "WEBP" else {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    decoded = decode(encoded(array, format, exif=exif, **how), 16)[::15, ::15, 0] > 128
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    assert [tuple(place) for place in np.argwhere(decoded)] == [corner]
    if orientation >= 5:
        assert inspect(encoded(array, format, exif=exif, **how))[2:4] == (16, 32)


def test_damaged_exif_data_in_a_sound_image():
    assert decode(encoded(smooth(8, 8), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(format):
    how = {"lossless": True} if format == "WEBP" else {}
    data = encoded(flat(255, 0, 0), format, save_all=True, append_images=[flat(0, 255, 0)], duration=100, **how)
    np.testing.assert_array_equal(decode(data, 4), np.broadcast_to([255, 0, 0], (4, 4, 3)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"these are words", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png()[:-30], None),
        (encoded(smooth(64, 64), "JPEG")[:-200], "truncated"),
        (encoded(smooth(64, 64), "JPEG")[:30], None),
        (vast_png(), f"{MAX_PIXELS:,}"),
        (vast_png(2**31 - 1, 1), f"{MAX_PIXELS:,}"),
    ],
    ids=["empty", "text", "postscript", "cut-png", "cut-jpeg", "header-only", "vast", "ribbon"],
)
def test_what_is_broken(data, reason):
    for attempt in (lambda: decode(data, 8), lambda: inspect(data)):
        with pytest.raises(Broken, match=reason) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_every_damage_is_broken_or_read():
    """Bytes changed anywhere: an array comes back, or Broken; nothing else."""
    random = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        sound = np.frombuffer(encoded(smooth(24, 24), format), np.uint8)
        for _ in range(40):
            data = sound.copy()
            data[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
            with contextlib.suppress(Broken):
                assert decode(data.tobytes(), 8).shape == (8, 8, 3)


def test_equal_pictures_have_equal_digests():
    array = smooth(16, 16)
    png, bmp, tiff = (inspect(encoded(array, format)) for format in ("PNG", "BMP", "TIFF"))
    assert png.digest == bmp.digest == tiff.digest
    assert (png.format, png.mode, png.width, png.height) == ("PNG", "RGB", 16, 16)
    array[3, 3, 0] += 1
    assert inspect(encoded(array)).digest != png.digest
