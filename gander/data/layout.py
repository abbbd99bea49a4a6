"""The names of files -> splits, classes and entries. Nothing is read here."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gander.data.images import SUFFIXES
from gander.errors import UserError, shown, unknown

SPLITS = frozenset(("train", "val", "valid", "validation", "test"))

Found = tuple[tuple[str, ...], str, int, tuple[int, ...]]  # the parts of the name, then path, size and stamp of an entry


class Entry(NamedTuple):
    """One image that has been listed."""

    name: str  # below the split, with "/": what its class, order and content hash follow from
    label: int  # 0 where there are no classes
    path: str  # as the folder, zip or table finds it
    size: int  # bytes; 0 where that is not known before reading
    stamp: tuple[int, ...]  # a folder: times of the last change; a zip: CRC-32


def choose_split(where: str, splits: Sequence[str], split: str | None) -> str | None:
    """The split asked for, else train, else the only one; UserError where that is none."""
    if split is not None:
        if not splits:
            raise UserError(f"{where} has no splits; got --split {split}; leave it away")
        if split not in splits:
            raise unknown("split", split, splits)
        return split
    train = [name for name in splits if name.lower() == "train"]
    if not train and len(splits) > 1:
        raise UserError(f"{where} has the splits {', '.join(splits)} and no train; say which with --split")
    return train[0] if train else splits[0] if splits else None


class Layout(NamedTuple):
    """How the images of a folder or zip are divided."""

    split: str | None
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]


def arrange(where: str, found: Sequence[Found], others: Counter[str], split: str | None) -> Layout:
    """Splits and classes from the names of the folders, as `open_source` says; `others` counts what is no image."""
    if not found:
        there = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(3)) or "no files"
        raise UserError(f"{where} has no images (found: {there}); images end in {' '.join(sorted(SUFFIXES))}")
    level, (loose, folders) = 0, _level(found, 0)
    if not loose and len(folders) == 1 and not _are_splits(folders):
        level, (loose, folders) = 1, _level(found, 1)
    splits: tuple[str, ...] = ()
    if _are_splits(folders):
        _refuse_both(where, loose, folders, "the splits")
        splits, level = tuple(sorted(folders)), level + 1
    chosen = choose_split(where, splits, split)
    classes: set[str] = set()
    for part in splits or (None,):
        loose, folders = _level([item for item in found if part is None or item[0][level - 1] == part], level)
        _refuse_both(where, loose, folders, "the class folders")
        classes |= folders
        if part == chosen:
            labelled = bool(folders)
    numbers = {name: number for number, name in enumerate(sorted(classes))} if labelled else {}
    entries = [
        Entry("/".join(parts[level:]), numbers[parts[level]] if labelled else 0, path, size, stamp)
        for parts, path, size, stamp in found
        if chosen is None or parts[level - 1] == chosen
    ]
    return Layout(chosen, splits, tuple(numbers), tuple(sorted(entries)))


def _level(found: Iterable[Found], level: int) -> tuple[list[str], set[str]]:
    """What lies at a level: images by themselves, and folders with images."""
    loose, folders = [], set()
    for parts, *_ in found:
        if len(parts) == level + 1:
            loose.append("/".join(parts))
        else:
            folders.add(parts[level])
    return loose, folders


def _are_splits(folders: set[str]) -> bool:
    return bool(folders) and all(name.lower() in SPLITS for name in folders)


def _refuse_both(where: str, loose: list[str], folders: set[str], what: str) -> None:
    if loose and folders:
        few = ", ".join(sorted(folders)[:3]) + (" ..." if len(folders) > 3 else "")
        raise UserError(
            f"{where} has {len(loose):,} images (such as {shown(min(loose))}) beside {what} {shown(few)}; "
            "move them into one of these, or name another folder"
        )
