"""Image files of a run -> small `data:` addresses. Opened as PNG alone, with limits; what cannot be read is passed over."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gander.report.gather import plain_file

MAX_BYTES, MAX_PIXELS = 64 << 20, 1 << 26  # of a file
LARGEST = 1024  # px of the longer side in a page
FRAME = 200_000  # bytes of one of many
LEAST = 40  # px: smaller than that no picture is made
QUALITIES = (90, 82, 72, 60)


class Picture(NamedTuple):
    """An image in a page."""

    src: str
    width: int
    height: int
    small: bool  # its pixels are to be seen as squares


def opened(file: Path) -> Image.Image | None:
    """The image in a PNG file, at its own size where it was enlarged; None where it cannot be had."""
    if not plain_file(file) or file.stat().st_size > MAX_BYTES:
        return None
    try:
        with Image.open(file, formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            found = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return shrunk(found)


def shrunk(image: Image.Image) -> Image.Image:
    """The image of which this one repeats each pixel, as small as there is one."""
    pixels = np.asarray(image)
    for times in range(16, 1, -1):
        if image.width % times or image.height % times:
            continue
        small = pixels[::times, ::times]
        if np.array_equal(small.repeat(times, 0).repeat(times, 1), pixels):
            return Image.fromarray(np.ascontiguousarray(small))
    return image


def encoded(image: Image.Image, most: int) -> Picture:
    """As PNG where that takes at most `most` bytes, else as JPEG, ever coarser, then ever smaller, until it does."""
    width, height = image.size
    small = max(image.size) < LARGEST // 2
    if max(image.size) > LARGEST:
        image = image.copy()
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    data, kind = (_saved(image, "PNG") if small else b""), "png"
    while not data or len(data) > most:
        for quality in QUALITIES:
            data, kind = _saved(image, "JPEG", quality=quality, subsampling=0), "jpeg"
            if len(data) <= most:
                break
        else:
            if max(image.size) <= LEAST:
                break
            image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)), Image.Resampling.LANCZOS)
    return Picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width, height, small)


def _saved(image: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly chosen, the first and last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / max(1, most - 1))] for i in range(most)]


def frames(files: dict[int, Path], most: int, size: int) -> dict[int, Picture]:
    """Of the grids by step at most `most`, in `size` bytes together."""
    chosen = thinned(sorted(files), most)
    each = min(FRAME, size // max(1, len(chosen)))
    return {step: encoded(image, each) for step in chosen if (image := opened(files[step]))}
