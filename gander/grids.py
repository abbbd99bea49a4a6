"""Images to look at: from [-1, 1] to bytes, grids, PNG files and GIFs. The only way out of [-1, 1]."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from gander.files import write_atomic


def to_bytes(images: Tensor) -> np.ndarray:
    """(n, c, h, w) in [-1, 1] -> uint8 (n, h, w, c): round(127.5·(x + 1)), clipped."""
    scaled = (images.detach().float() + 1).mul(127.5).round().clamp(0, 255)
    return scaled.byte().permute(0, 2, 3, 1).cpu().numpy()


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """uint8 (n, h, w, c) -> one image (H, W, c), row by row, white between; as square as it can be unless told the columns."""
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def enlarge(image: np.ndarray, least: int = 512) -> np.ndarray:
    """Repeat pixels until the longer side is at least `least`: small images are to be looked at too."""
    times = max(1, math.ceil(least / max(image.shape[:2])))
    return image.repeat(times, 0).repeat(times, 1)


def save_png(path: Path, image: np.ndarray) -> None:
    write_atomic(path, _encode([image], "PNG"))


def save_gif(path: Path, images: Sequence[np.ndarray], seconds: float | Sequence[float] = 0.08) -> None:
    """A film that goes round; `seconds` is for each image, or one for each of them."""
    each = [int(s * 1000) for s in seconds] if isinstance(seconds, Sequence) else int(seconds * 1000)
    write_atomic(path, _encode(images, "GIF", duration=each, loop=0))


def _encode(images: Sequence[np.ndarray], kind: str, **options) -> bytes:
    first, *others = [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images]
    out = io.BytesIO()
    if others:
        options |= {"save_all": True, "append_images": others}
    first.save(out, kind, **options)
    return out.getvalue()
