"""Images that are not trained on: a split that is there, more of a probe, or a tenth set aside; and what must hold of them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from gander.data.prepare import Dataset, prepare
from gander.data.sources import PROBE_IMAGES, Source, class_folders, cut, open_source
from gander.errors import UserError, shown
from gander.probes import PROBES

SPLITS = ("val", "valid", "validation", "test")  # the first of them that is there judges what is trained
PROBE_HELD_OUT = 10_000


def split_of(source: Source, order: Sequence[str] = SPLITS, but: Sequence[str | None] = ()) -> str | None:
    """The first of these splits that is there, and is neither the source's own nor one of `but`."""
    there = {split.lower(): split for split in source.splits if split not in (source.split, *but)}
    return next((there[name] for name in order if name in there), None)


def beside(source: Source) -> tuple[Source, Source]:
    """(what to train on, what to judge by): the source and its split val, valid, validation or test, the first that is there.

    Of a set with labels a split without is passed over. Where there is none, nine tenths of each class and the tenth that is then
    held out. A probe stands for both: `prepare_held_out` draws others. UserError where their classes differ.
    """
    if source.probe:
        return source, source
    unlabelled: list[str | None] = []
    while (split := split_of(source, but=unlabelled)) is not None:
        other = open_source(source.where, split=split)
        if other.classes or not source.classes:
            _same_classes(source, other)
            return source, other
        unlabelled.append(split)
    return cut(source, "training"), cut(source, "held out")


def prepare_held_out(source: Source, resolution: int, **options: Any) -> Dataset:
    """`prepare`; of a probe 10,000 images that it is not trained on."""
    if source.probe is None:
        return prepare(source, resolution, **options)
    return of_probe(prepare(source, resolution, **options))


def of_probe(dataset: Dataset) -> Dataset:
    """The 10,000 images of a probe that follow those it is trained on."""
    rows = np.arange(PROBE_IMAGES, PROBE_IMAGES + PROBE_HELD_OUT)
    images, labels = PROBES[dataset.name].draw(0, rows, dataset.resolution)
    if dataset.channels == 1:
        images = np.stack([np.asarray(Image.fromarray(image).convert("L"))[..., None] for image in images])
    facts: dict[str, Any] = {"split": "held out", "fingerprint": f"{dataset.fingerprint}, held out"}
    return replace(dataset, images=images, labels=labels, names=tuple(map(str, rows)), **facts)


def worded(source: Source) -> str:
    """What is held out, for people: split val, a tenth, ..."""
    if source.probe:
        return "more of the probe"
    return "a tenth of each class, by name" if source.part else f"split {source.split}"


def check_labels(source: Source, held_out: Source | None = None) -> None:
    """UserError where there is nothing to learn from: no labels, one class, a class without images, of `held_out` too."""
    where = shown(source.where)
    if source.num_classes == 0:
        raise UserError(
            f"{where} has no labels, which a classifier learns from: put the images of each class into a folder of its own"
        )
    if source.num_classes == 1:
        raise UserError(f"{where} has one class, {shown(source.classes[0])!r}; a classifier tells two or more apart")
    if source.probe:
        return
    there = {entry.label for entry in source.entries}
    empty = [name for number, name in enumerate(source.classes) if number not in there]
    folders = class_folders(source).union(class_folders(held_out) if held_out and held_out.classes else ())
    if empty := sorted({*empty, *(folders - {*source.classes})}):
        raise UserError(f"{where} has no image of {_listed(empty)}; add some, or delete the class")


def check_images(dataset: Dataset) -> None:
    """UserError for a class whose images are all broken."""
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    if empty := [dataset.classes[i] for i in np.flatnonzero(counts == 0)]:
        raise UserError(f"no image of {_listed(empty)} can be read; gander check lists what is wrong with them")


def in_both(dataset: Dataset, held_out: Dataset) -> int:
    """How many held-out images are also trained on, by their prepared pixels."""
    same: dict[bytes, list[int]] = {}
    for i, key in enumerate(_keys(dataset)):
        same.setdefault(key, []).append(i)
    return sum(
        any(np.array_equal(dataset.images[i], held_out.images[j]) for i in same.get(key, ()))
        for j, key in enumerate(_keys(held_out))
    )


def _keys(dataset: Dataset) -> Iterator[bytes]:
    """A hash of two rows of each image: where they differ, so do the images, and little is read."""
    third = dataset.resolution // 3
    for start in range(0, len(dataset), 1024):
        for rows in dataset.images[start : start + 1024, third :: third + 1]:
            yield hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).digest()


def _same_classes(source: Source, other: Source) -> None:
    if not source.classes:
        return
    train, judge = ({part.classes[entry.label] for entry in part.entries} for part in (source, other))
    if train != judge:
        lacking = [f"{_listed(sorted(a - b))} only in {split}" for a, b, split in
                   ((train, judge, source.split), (judge, train, other.split)) if a - b]  # fmt: skip
        raise UserError(f"the classes of {shown(source.where)} differ between its splits: {'; '.join(lacking)}; give both the same")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
