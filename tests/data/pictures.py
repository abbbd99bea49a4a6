"""Small made images, as files of all kinds."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int = 0, width: int = 8, height: int = 8, channels: int = 3) -> np.ndarray:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return array[..., 0] if channels == 1 else array


def encoded(image: Image.Image | np.ndarray, format: str = "PNG", **how) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def png(seed: int = 0, **size) -> bytes:
    return encoded(pixels(seed, **size))


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pack(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def many(count: int, folder: str = "") -> dict[str, bytes]:
    return {f"{folder}{i:03d}.png": png(i) for i in range(count)}


def vast_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes whose header claims a great many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
