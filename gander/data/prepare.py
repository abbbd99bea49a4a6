"""Decode every image once: a uint8 memory map in the cache, found again by what the images are."""

import contextlib
import hashlib
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from gander.data import images
from gander.data.cache import Shelf, read_meta, writing
from gander.data.images import Broken
from gander.data.sources import Read, Source, cut, open_source, share
from gander.data.workers import Job, step_of, work
from gander.errors import UserError, shown

MAX_BROKEN = 0.01  # share of the images; more of them stop the preparation
MAX_RESOLUTION = 4096
_BLOCK = 4 << 20  # bytes that a worker holds before it writes them


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images ready for training, as `prepare` gives them."""

    images: np.ndarray = field(repr=False)  # (n, h, w, c) uint8, a read-only memory map
    labels: np.ndarray = field(repr=False)  # (n,) int64, 0 where there are no classes
    names: tuple[str, ...] = field(repr=False)  # of the files, below the split; of a probe the indices
    classes: tuple[str, ...]
    name: str
    split: str | None
    fingerprint: str  # of the names and bytes of the images that were listed; of a probe its name and version
    filter: str  # how they were resized
    skipped: tuple[str, ...]  # names of broken files
    reasons: tuple[str, ...]  # what is wrong with each
    enlarged: int  # how many images were smaller than the resolution
    resolution: int
    channels: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.classes)


def prepare(
    source: Source,
    resolution: int,
    *,
    channels: int = 3,
    workers: int | None = None,
    allow_broken: bool = False,
    progress: bool = True,
    stopped: Callable[[], bool] | None = None,
) -> Dataset:
    """Every image of the source at one size: decoded the first time, found in the cache from then on.

    The cache is keyed by content (names and bytes), resolution, channels and filter; a folder whose listing is unchanged is
    not read again. Broken files are skipped and said; more than one in a hundred stop with UserError, unless
    `allow_broken`. `workers` processes decode; by default as many as there are cores, where that pays. `stopped` is asked
    often: where it says True, KeyboardInterrupt leaves, and nothing half done is kept. Of two processes that prepare the
    same at once, one works and the other waits.
    """
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise UserError(f"a resolution is from 1 to {MAX_RESOLUTION:,} pixels; got {resolution}")
    if channels not in (1, 3):
        raise UserError(f"images have 1 or 3 channels; got {channels}; take 3 for colour, 1 for grey")
    stopped = stopped or (lambda: False)
    listing = _listing_of_probe(source) if source.probe else source.listing()
    shelf = Shelf(listing, f"{resolution} {channels} {images.FILTER} {images.VERSION}", shown(source.where))
    folder = shelf.find()
    if folder is None:
        with writing(shelf.folder), shelf.alone(progress, stopped):
            folder = shelf.find() or _make(shelf, source, resolution, channels, workers, progress, stopped)
    dataset = _open(source, folder)
    _judge(source, dataset, allow_broken, progress)
    return dataset


def fill(read: Read, job: Job) -> list:
    """The task of a worker: decode the images of a job into their place in the file. [crc, short side, what is wrong] each."""
    resolution, channels = job["resolution"], job["channels"]
    block = np.zeros((len(job["paths"]), resolution, resolution, channels), np.uint8)
    answers: list[list] = []
    for place, path in enumerate(job["paths"]):
        crc, short, wrong = 0, 0, None
        try:
            data = read(path)
            crc = zlib.crc32(data)
            block[place], short = images.decode_sized(data, resolution, channels)
        except Broken as broken:
            wrong = shown(str(broken))
        answers.append([crc, short, wrong])
    with writing(job["out"]), open(job["out"], "r+b") as file:
        file.seek(job["start"] * block[0].nbytes)
        file.write(block.data)
    return answers


def _make(
    shelf: Shelf,
    source: Source,
    resolution: int,
    channels: int,
    workers: int | None,
    progress: bool,
    stopped: Callable[[], bool],
) -> Path:
    shape = (len(source), resolution, resolution, channels)
    hidden = None if progress else True  # None: hidden where nobody watches
    with (
        shelf.begin(int(np.prod(shape))) as folder,
        tqdm(total=len(source), desc=f"preparing {source.name}", unit=" images", disable=hidden, leave=False) as bar,
    ):
        if source.probe:
            return shelf.put_up(folder, _draw(source, shape, folder, bar, stopped))
        return shelf.put_up(folder, _decode(shelf, source, shape, folder, bar, workers, stopped))


def _decode(
    shelf: Shelf,
    source: Source,
    shape: tuple[int, ...],
    folder: Path,
    bar: tqdm,
    workers: int | None,
    stopped: Callable[[], bool],
) -> dict[str, Any]:
    """Fill the file of the folder; what is to be known of it."""
    entries, each, out = source.entries, int(np.prod(shape[1:])), folder / "images.u8"
    out.touch()
    step = max(1, min(step_of(source), _BLOCK // each))
    jobs: list[Job] = [
        {
            "start": start,
            "paths": [entry.path for entry in entries[start : start + step]],
            "resolution": shape[1],
            "channels": shape[3],
            "out": str(out),
        }
        for start in range(0, len(entries), step)
    ]
    answers: list[list] = [[]] * len(entries)
    with contextlib.closing(work(fill, source, jobs, workers, stopped)) as done:
        for job, answer in done:
            answers[job["start"] : job["start"] + len(answer)] = answer
            bar.update(len(answer))
    _refuse_changed(source, shelf.listing)
    wrong = {i: answer[2] for i, answer in enumerate(answers) if answer[2] is not None}
    if len(wrong) == len(entries):
        raise UserError(
            f"none of the {len(entries):,} images of {source.where} can be read: "
            f"{shown(entries[0].name)} {wrong[0]}; gander check tells more"
        )
    _close_gaps(out, len(entries), each, wrong)
    return {
        "shape": [len(entries) - len(wrong), *shape[1:]],
        "fingerprint": _fingerprint(source, [answer[0] for answer in answers]),
        "filter": images.FILTER,
        "broken": [[entries[i].name, reason] for i, reason in wrong.items()],
        "enlarged": sum(answer[1] < shape[1] for answer in answers if answer[2] is None),
    }


def _draw(source: Source, shape: tuple[int, ...], folder: Path, bar: tqdm, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Fill the file of the folder with the images of a probe."""
    assert source.probe is not None
    labels, step = np.zeros(len(source), np.int64), 500
    with (folder / "images.u8").open("wb") as file:
        for start in range(0, len(source), step):
            if stopped():
                raise KeyboardInterrupt
            rows = np.arange(start, min(start + step, len(source)))
            block, labels[rows] = source.probe.draw(0, rows, shape[1])
            if shape[3] == 1:
                block = np.stack([np.asarray(Image.fromarray(image).convert("L"))[..., None] for image in block])
            file.write(np.ascontiguousarray(block).data)
            bar.update(len(rows))
    np.save(folder / "labels.npy", labels, allow_pickle=False)
    fingerprint = _listing_of_probe(source)
    return {"shape": list(shape), "fingerprint": fingerprint, "filter": "drawn at this size", "broken": [], "enlarged": 0}


def _listing_of_probe(source: Source) -> str:
    """Its name and version, which are its fingerprint too; of a share of it how many there are."""
    assert source.probe is not None
    some = f", first {len(source)}" if source.fraction < 1 else ""
    return f"probe:{source.name}:{source.probe.version}{some}"


def _fingerprint(source: Source, crcs: Sequence[int]) -> str:
    """Equal for a folder, its copy and its zip; a zip states its CRCs, which a broken entry may not have."""
    digest = hashlib.sha256()
    for entry, crc in zip(source.entries, crcs, strict=True):
        name = entry.name if source.rows is None or not source.classes else f"{source.classes[entry.label]}/{entry.name}"
        crc = entry.stamp[0] if source.kind == "zip" else crc
        digest.update(f"{name}\0{entry.size}\0{crc}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _refuse_changed(source: Source, listing: str) -> None:
    if source.root is None:
        return
    try:
        now = open_source(source.where, split=source.split)
        same = share(cut(now, source.part) if source.part else now, source.fraction).listing() == listing
    except UserError:
        same = False
    if not same:
        raise UserError(f"{source.where} changed while it was read; say the same again when it is at rest")


def _close_gaps(out: Path, count: int, each: int, wrong: dict[int, str]) -> None:
    """Move the images behind broken ones forward, in order."""
    if not wrong:
        return
    with out.open("r+b") as file:
        kept = 0
        for i in range(count):
            if i in wrong:
                continue
            if i != kept:
                file.seek(i * each)
                image = file.read(each)
                file.seek(kept * each)
                file.write(image)
            kept += 1
        file.truncate(kept * each)


def _open(source: Source, folder: Path) -> Dataset:
    meta = read_meta(folder)
    shape = tuple(meta["shape"])
    skipped = tuple(name for name, _ in meta["broken"])
    if source.probe:
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        names = tuple(map(str, range(len(source))))
    else:
        gone = set(skipped)
        kept = [entry for entry in source.entries if entry.name not in gone]
        labels = np.array([entry.label for entry in kept], np.int64)
        names = tuple(entry.name for entry in kept)
    return Dataset(
        images=np.memmap(folder / "images.u8", np.uint8, "r", shape=shape),
        labels=labels,
        names=names,
        classes=source.classes,
        name=source.name,
        split=source.split,
        fingerprint=meta["fingerprint"],
        filter=meta["filter"],
        skipped=skipped,
        reasons=tuple(reason for _, reason in meta["broken"]),
        enlarged=meta["enlarged"],
        resolution=shape[1],
        channels=shape[3],
    )


def _judge(source: Source, dataset: Dataset, allow_broken: bool, progress: bool) -> None:
    """Say which files are broken; refuse where they are more than MAX_BROKEN."""
    broken = len(dataset.skipped)
    if not broken:
        return
    few = "; ".join(f"{shown(name)} {reason}" for name, reason in zip(dataset.skipped[:3], dataset.reasons, strict=False))
    said = f"{broken:,} of the {len(source):,} images of {source.where} are broken ({few}{'; ...' if broken > 3 else ''})"
    if broken > MAX_BROKEN * len(source) and not allow_broken:
        raise UserError(f"{said}; gander check lists them; allow_broken (--allow-broken) goes on without them")
    if progress:
        print(f"{said}; going on without them", file=sys.stderr)
