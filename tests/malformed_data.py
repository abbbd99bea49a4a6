"""Malformed zips and images, each a function of a seed, with the words that make gander read it.

A maker `kind(folder, random, number)` spoils what lies in a folder of its own, a copy of what `sound` makes: `photos/`, eight
small images; `photos.zip`, the same; `run/`, a run trained on them. What it gives are the words of one command.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

TINY = [
    *("--resolution", "16", "--width", "4", "--latent", "8", "--batch", "4"),
    *("--sample-every", "0", "--device", "cpu", "--workers", "1"),
]
FORMATS = {
    **{"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "jfif": "JPEG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF"},
    **{"tif": "TIFF", "tiff": "TIFF", "ppm": "PPM", "pgm": "PPM", "pbm": "PPM", "avif": "AVIF"},
}


def sound(folder: Path, train: Callable[[list[str]], Any]) -> None:
    """What is sound in `folder`, for copies of it to be spoiled; `train(words)` is `gander train` standing there."""
    contents = {f"{kind}/{i}.png": encoded("png", i) for kind in ("cats", "dogs") for i in range(4)}
    for name, data in contents.items():
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "photos" / name).write_bytes(data)
    with zipfile.ZipFile(folder / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    train(["train", "dcgan", "--data", "photos", "--run", "run", "--steps", "1", *TINY])


def encoded(suffix: str, seed: int = 0, **how: Any) -> bytes:
    array = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    image = Image.fromarray(array).convert({"pgm": "L", "pbm": "1", "gif": "P"}.get(suffix, "RGB"))
    file = io.BytesIO()
    image.save(file, FORMATS[suffix], **how)
    return file.getvalue()


def trained(data: str, *more: str) -> list[str]:
    return ["train", "dcgan", "--data", data, "--run", "new", "--steps", "1", *TINY, *more]


def resumed() -> list[str]:
    return ["train", "dcgan", "--data", "photos", "--run", "run", "--steps", "2", *TINY]


SAMPLED = ["sample", "run", "--count", "4", "--standing", "1", "--device", "cpu"]


def flipped(data: bytes, random: Random, count: int, within: int | None = None) -> bytes:
    """`count` bytes changed, among the first `within`."""
    spoiled = bytearray(data)
    for _ in range(count):
        spoiled[random.randrange(min(within or len(data), len(data)))] = random.randrange(256)
    return bytes(spoiled)


# Zips --------------------------------------------------------------------------------------------------------------------


def a_zip(folder: Path, random: Random, number: int) -> list[str]:
    way = ZIPS[number % len(ZIPS)]
    file = folder / "photos.zip"
    data = way(file.read_bytes(), random)
    file.write_bytes(data)
    return [["check", "photos.zip"], trained("photos.zip"), trained("photos.zip", "--allow-broken")][number // len(ZIPS) % 3]


def _added(data: bytes, *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        for name, content in entries:
            archive.writestr(name, content, method)
    return file.getvalue()


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def _in_directory(data: bytes, random: Random, offset: int, form: str, value: int) -> bytes:
    """A field of one entry of the central directory, set to `value`."""
    places = [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"]
    spoiled, at = bytearray(data), random.choice(places) + offset
    spoiled[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return bytes(spoiled)


def _lying_bomb(data: bytes, method: int) -> bytes:
    """An entry of 64 MiB that says it has a hundred bytes less than it takes packed."""
    vast = 64 << 20
    return _added(data, ("cats/bomb.png", b"\0" * vast), method=method).replace(struct.pack("<I", vast), struct.pack("<I", 9999))


def _zip64(data: bytes, random: Random) -> bytes:
    """An entry whose sizes are in a zip64 field, and absurd."""
    info = zipfile.ZipInfo("cats/z.png")
    info.extra = struct.pack("<HHQQQ", 1, 24, *(random.choice([0, 2**31, 2**63, 2**64 - 1]) for _ in range(3)))
    whole = _added(data, (info, b"x"))
    at = whole.rindex(b"PK\1\2")
    return whole[: at + 20] + b"\xff" * 8 + whole[at + 28 :]


ZIPS: list[Callable[[bytes, Random], bytes]] = [
    lambda data, random: flipped(data, random, 3),
    lambda data, random: flipped(data[: data.index(b"PK\1\2")], random, 40) + data[data.index(b"PK\1\2") :],
    lambda data, random: data[: data.index(b"PK\1\2")] + flipped(data[data.index(b"PK\1\2") :], random, 4),
    lambda data, random: data[: random.randrange(len(data))],
    lambda data, random: data[random.randrange(1, 200) :],
    lambda data, random: b"",
    lambda data, random: _in_directory(data, random, 24, "<I", random.choice([0, 9, 1 << 20, 2**28 + 1, 2**32 - 2])),
    lambda data, random: _in_directory(data, random, 20, "<I", random.choice([0, 9, 2**31, 2**32 - 2])),
    lambda data, random: _in_directory(data, random, 16, "<I", random.getrandbits(32)),
    lambda data, random: _in_directory(data, random, 10, "<H", random.choice([1, 9, 12, 14, 93, 99])),
    lambda data, random: _in_directory(data, random, 42, "<I", random.choice([1, 2**31, 2**32 - 2])),
    lambda data, random: _in_directory(data, random, 28, "<H", random.choice([0, 1, 60000])),
    lambda data, random: _in_directory(data, random, 8, "<H", 1),
    lambda data, random: _zip64(data, random),
    lambda data, random: _added(data, *((f"cats/n{i}.png", b"") for i in range(3000))),
    lambda data, random: _added(data, ("/".join(["deep"] * 3000) + "/a.png", b"x")),
    lambda data, random: _added(data, (random.choice(["../a.png", "cats/../../a.png", "..\\a.png"]), b"x")),
    lambda data, random: _added(data, (random.choice(["/a.png", "C:/a.png", "\\\\host\\a.png", "//a.png"]), b"x")),
    lambda data, random: _added(data, (_link("cats/l.png"), b"/etc/passwd")),
    lambda data, random: _added(data, ("cats/z.png", encoded("png")), ("cats/./z.png", b"x"), ("cats//z.png", b"y")),
    lambda data, random: _added(data, ("cats/a\nTraceback\x1b[2J\u202e\ud7ff.png", b"x"), ("cats/日本\0.png", b"x")),
    lambda data, random: _lying_bomb(data, zipfile.ZIP_DEFLATED),
    lambda data, random: _lying_bomb(data, random.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])),
    lambda data, random: _added(data, ("cats/zip.png", data)),
    lambda data, random: data[:-22] + flipped(data[-22:], random, 3),
    lambda data, random: data[:-22] + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0),
]


# Images ------------------------------------------------------------------------------------------------------------------


def an_image(folder: Path, random: Random, number: int) -> list[str]:
    suffix = list(FORMATS)[number % len(FORMATS)]
    way = IMAGES[number % len(IMAGES)]  # 13 formats by 8 ways
    (folder / "photos" / "cats" / f"spoiled.{suffix}").write_bytes(way(suffix, random))
    return [["check", "photos"], trained("photos"), trained("photos", "--allow-broken")][random.randrange(3)]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, pixels: bytes = b"\0" * 99) -> bytes:
    """An RGB PNG that claims this size, with more chunks before its pixels."""
    header = _chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *more, _chunk(b"IDAT", zlib.compress(pixels, 1)), _chunk(b"IEND", b"")))


def _claiming(suffix: str, random: Random) -> bytes:
    """A header that claims a great many pixels, over the limit and under it."""
    side = random.choice([13_000, 16_383, 60_000, 65_535])
    if suffix == "png":
        return png(side, side)
    if suffix in ("ppm", "pgm", "pbm"):
        return b"P%d %d %d %s" % (random.choice([1, 2, 3, 4, 5, 6]), side, side, b"255\n0 0 0")
    data = bytearray(encoded(suffix))
    if suffix == "bmp":
        data[18:26] = struct.pack("<2i", side, random.choice([side, -side, -(2**31), 0]))
    elif suffix == "gif":
        data[6:10] = struct.pack("<2H", side, side)
    elif suffix.startswith("j"):
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">2H", side, side)
    elif suffix.startswith("t"):
        for tag in (256, 257, 278):
            at = data.index(struct.pack("<H", tag), 8)
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, side)
    else:  # the sides are packed by bits, or kept in several places
        data[20:40] = random.randbytes(20)
    return bytes(data)


def _inflating(suffix: str, random: Random) -> bytes:
    """Metadata that inflates to much, and pixels of a PNG that do."""
    vast = zlib.compress(b"\0" * (80 << 20), 1)
    if suffix == "png":
        return png(8, 8, _chunk(b"iCCP", b"icc\0\0" + vast), pixels=b"\0" * 200)
    if suffix in ("jpg", "gif"):
        return png(8, 8, *[_chunk(b"zTXt", b"text\0\0" + zlib.compress(b"a" * (1 << 20)))] * 70, pixels=b"\0" * 200)
    if suffix in ("jpeg", "webp"):
        return png(8, 8, _chunk(b"iTXt", b"text\0\1\0\0\0" + vast), pixels=b"\0" * 200)
    if suffix in ("bmp", "ppm"):
        return png(9000, 9000, pixels=b"\0" * (9000 * 27_001))  # 81 million pixels in a megabyte
    if suffix in ("tif", "tiff"):
        return _of_tags(encoded("tiff", compression="tiff_adobe_deflate"), random)
    return png(8, 8, pixels=b"\0" * (64 << 20))


def _of_tags(data: bytes, random: Random) -> bytes:
    """A TIFF whose tags have other types, counts and values."""
    spoiled = bytearray(data)
    (at,) = struct.unpack_from("<I", spoiled, 4)
    (count,) = struct.unpack_from("<H", spoiled, at)
    for _ in range(3):
        entry = at + 2 + 12 * random.randrange(count)
        kind = random.choice([0, 1, 2, 3, 4, 5, 12, 13, 16, 99])
        struct.pack_into("<H", spoiled, entry + 2, kind) if random.random() < 0.5 else None
        struct.pack_into("<I", spoiled, entry + random.choice([4, 8]), random.choice([0, 1, 7, 65_536, 2**31, 2**32 - 1]))
    return bytes(spoiled)


IMAGES: list[Callable[[str, Random], bytes]] = [
    lambda suffix, random: flipped(encoded(suffix), random, 4, within=64),
    lambda suffix, random: flipped(encoded(suffix), random, 8),
    lambda suffix, random: encoded(suffix)[: random.randrange(len(encoded(suffix)))],
    _claiming,
    _inflating,
    lambda suffix, random: _of_tags(encoded("tiff", random.randrange(9)), random),
    lambda suffix, random: random.randbytes(random.randrange(100)),
    lambda suffix, random: encoded(suffix)[:40] + random.randbytes(200),
]
