"""One image file -> one uint8 array of the size that is asked for.

Preparation workers import this module and little else: no torch here, so that they start in a tenth of a second.
"""

import contextlib
import hashlib
import io
import logging
import os
import struct
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif"))
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")  # nothing that starts a program, as EPS does
MAX_PIXELS = 178_956_970  # from here on Pillow calls it a decompression bomb
FILTER = "Pillow Lanczos down, bicubic up, large JPEG by DCT scaling first"
VERSION = 1  # of what this file makes of an image: another one, another cache

_TOO_LARGE = f"claims more than {MAX_PIXELS:,} pixels"
_DRAFT = 3  # a JPEG is decoded at this many times the size asked for, or more: 51 dB and better from the full decode
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it complains of is in the exception too


class Broken(Exception):
    """This file is no image that can be used; the text says why, in a few words."""


class Facts(NamedTuple):
    """What `inspect` tells of one image file."""

    format: str
    mode: str
    width: int  # as it is looked at: after the rotation that EXIF asks for
    height: int
    digest: str  # of the pixels in colour: equal for equal pictures, whatever file they came in


def decode(data: bytes, resolution: int, channels: int = 3) -> np.ndarray:
    """The bytes of an image file as a uint8 array (resolution, resolution, channels).

    The rotation in EXIF is applied, transparency composited on white, 16 bits scaled to 8, of an animation the first
    frame taken; colour profiles are left aside. The short side is resized to `resolution` (Lanczos down, bicubic up, both
    antialiased), then the centre is cut out. Raises Broken for what is no whole image, claims more than MAX_PIXELS, or has
    32-bit pixels.
    """
    return decode_sized(data, resolution, channels)[0]


def decode_sized(data: bytes, resolution: int, channels: int = 3) -> tuple[np.ndarray, int]:
    """The array of `decode` and the short side that the image had."""
    image, short = _load(data, resolution * _DRAFT)
    turn = _turn(image)
    image = _square(_colour(image, "L" if channels == 1 else "RGB"), resolution)
    image = image if turn is None else image.transpose(turn)
    return np.asarray(image).reshape(resolution, resolution, channels), short


def inspect(data: bytes) -> Facts:
    """Format, mode, size and a hash of the pixels, from a full decode. Raises Broken as `decode` does."""
    image, _ = _load(data)
    kind, mode, turn = image.format or "", image.mode, _turn(image)
    image = _colour(image, "RGBA")
    image = image if turn is None else image.transpose(turn)
    digest = hashlib.sha256(struct.pack("<2I", *image.size))
    for strip in _strips(image):
        digest.update(image.crop(strip).tobytes())
    return Facts(kind, mode, *image.size, digest.hexdigest()[:32])


def size(data: bytes) -> tuple[int, int]:
    """Width and height of an image, from its header. Raises Broken where it has none that can be read."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            return image.size
    except Exception as error:  # decoders raise all kinds of errors on hostile bytes
        raise Broken((str(error) or type(error).__name__).splitlines()[0][:200]) from None


def _load(data: bytes, enough: int | None = None) -> tuple[Image.Image, int]:
    """The decoded image and its full short side; with `enough`, a JPEG may come smaller, with no side under that."""
    if not data:
        raise Broken("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images that can be read, and of bombs under the limit
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Broken(_TOO_LARGE)
            if enough and image.format in ("JPEG", "MPO"):
                image.draft(None, (enough, enough))
            with _hushed() if image.format == "TIFF" else contextlib.nullcontext():
                image.load()
    except (Broken, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise Broken(_TOO_LARGE) from None
    except (UnidentifiedImageError, KeyError):  # KeyError: a Pillow without AVIF
        raise Broken("is not an image in a format that is read here") from None
    except Exception as error:  # decoders raise all kinds of errors on hostile bytes
        raise Broken((str(error) or type(error).__name__).splitlines()[0][:200]) from None
    return image, min(width, height)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what libtiff writes to the standard error of the process: it is what the exception says."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How EXIF says that the image is to be turned to be looked at."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data in a sound image
        return None


def _colour(image: Image.Image, mode: str) -> Image.Image:
    """The image in `mode`: L or RGB, on white where it was transparent, or RGBA."""
    try:
        image = _eight_bits(image)
        if image.has_transparency_data:
            image = image if image.mode == "RGBA" else image.convert("RGBA")
            for strip in _strips(image) if mode != "RGBA" else ():
                part = image.crop(strip)
                image.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part), strip)
        return image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise Broken(f"has pixels of mode {image.mode}, which cannot be made {mode} ({error})") from None


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """The image in boxes of a million pixels: what is done so takes no memory for a second large image."""
    rows = max(1, (1 << 20) // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Broken(f"has 32-bit pixels (mode {image.mode}), for which there is no agreed scale; save it with 8 or 16 bits")
    return image


def _square(image: Image.Image, resolution: int) -> Image.Image:
    """The short side resized and the centre cut out, in one pass that is never larger than its result."""
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    filter = Image.Resampling.BICUBIC if short < resolution else Image.Resampling.LANCZOS
    # Pillow reads beyond the box where its filter reaches out: equal to resizing all and then cutting.
    return image.resize((resolution, resolution), filter, (left, top, left + short, top + short))
