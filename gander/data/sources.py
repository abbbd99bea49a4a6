"""Where images come from: a folder, a zip, parquet files, the Hub, a probe. Listing is cheap: nothing is decoded."""

import contextlib
import hashlib
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from gander import files
from gander.data.images import SUFFIXES, Broken
from gander.errors import UserError, unknown

if TYPE_CHECKING:
    from gander.data.hub import Rows
    from gander.probes import Probe

Kind = Literal["folder", "zip", "rows", "probe"]
Read = Callable[[str], bytes]

SPLITS = frozenset(("train", "val", "valid", "validation", "test"))
PROBE_IMAGES = 50_000
_PASSED_OVER = frozenset(("__MACOSX", "@eaDir"))  # besides all that begins with a dot


class Entry(NamedTuple):
    """One image that has been listed."""

    name: str  # below the split, with "/": what its class, order and content hash follow from
    label: int  # 0 where there are no classes
    path: str  # as the folder, zip or table finds it
    size: int  # bytes; 0 where that is not known before reading
    stamp: tuple[int, ...]  # a folder: times of the last change; a zip: CRC-32


@dataclass(frozen=True)
class Source:
    """A listed set of images, as `open_source` gives it."""

    name: str  # letters, digits, - and _: for the names of runs
    where: str  # as it was asked for
    kind: Kind
    split: str | None  # the one that was chosen, None where there are none
    splits: tuple[str, ...]
    classes: tuple[str, ...]  # of all labelled splits together; empty for images without labels
    entries: Sequence[Entry] = field(repr=False)
    root: Path | None = None
    rows: "Rows | None" = field(default=None, repr=False)
    probe: "Probe | None" = field(default=None, repr=False)

    def __len__(self) -> int:
        return PROBE_IMAGES if self.probe else len(self.entries)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def listing(self) -> str:
        """A hash of all that is known without reading a file: where it is unchanged, so are the images."""
        digest = hashlib.sha256(self.kind.encode())
        if self.rows is not None:
            digest.update(f"\0{self.rows.fingerprint}\0{self.split}".encode())
        for entry in self.entries:
            digest.update(f"\0{entry.name}\0{entry.size}\0{entry.stamp}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def open_source(where: str | Path, *, split: str | None = None) -> Source:
    """List the images at `where`: a folder, a zip, a folder of parquet files, `probe:NAME`, or `owner/name` on the Hub.

    A folder or zip is read so. A single wrapping folder is skipped. If all folders at a level are named train, val, valid,
    validation or test they are splits: `train` is taken where no other is asked for. The folders of the next level are the
    classes, numbered in the order of their names over all splits; deeper levels are not. Images without a folder
    have no label; beside class folders they are an error. Hidden files and folders without images are passed over; links to
    files are followed, links to folders refused. A name is a data set of the Hub only where no such file or folder is.

    Raises UserError for what is not there, is no whole zip, has no images, is the folder of a run, or has no such split.
    """
    text, path = str(where), Path(where).expanduser()
    if isinstance(where, str) and where.startswith("probe:"):
        return _open_probe(where, split)
    if path.is_dir():
        return _open_folder(text, path, split)
    if path.is_file():
        return _open_zip(text, path, split)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text):
        from gander.data import hub

        return hub.open_rows(text, split, hub.from_hub(text))
    raise UserError(
        f"there is no folder or file {text!r}; data are a folder or zip of images, probe:twins, or owner/name on the Hub"
    )


@contextlib.contextmanager
def reader(kind: Kind, root: Path | None, rows: "Rows | None" = None) -> Iterator[Read]:
    """`read(path)`: the bytes of an entry, at most files.MAX_ENTRY_BYTES of them. What cannot be read is Broken."""
    if kind == "zip":
        with files.open_zip(_present(root)) as archive:
            yield lambda path: _of_zip(archive, path)
    elif kind == "rows":
        yield _present(rows).read
    else:
        folder = _present(root)
        yield lambda path: _of_folder(folder, path)


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


def plain_name(text: str) -> str:
    """Letters, digits, - and _ only."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-") or "data"


def shown(name: str) -> str:
    """A file name that any terminal can print."""
    return name.encode("utf-8", "backslashreplace").decode()


def _open_probe(where: str, split: str | None) -> Source:
    from gander.probes import PROBES

    name = where.removeprefix("probe:")
    if name not in PROBES:
        raise unknown("probe", name, PROBES)
    if split is not None:
        raise UserError(f"{where} has no splits; got --split {split}; leave it away")
    probe = PROBES[name]
    classes = tuple(str(label) for label in range(probe.num_classes))
    return Source(name, where, "probe", None, (), classes, (), probe=probe)


def _open_folder(where: str, root: Path, split: str | None) -> Source:
    if (root / "run.json").is_file():
        raise UserError(f"{where} is the folder of a run, not of images (it has a run.json); name a folder of images")
    found, others = [], Counter[str]()
    for parts, item in _walk(root):
        if item.is_dir(follow_symlinks=False):
            continue
        suffix = os.path.splitext(item.name)[1].lower()
        if suffix not in SUFFIXES or not item.is_file():
            others[suffix or "without a suffix"] += 1
            continue
        state = item.stat()
        found.append((parts, "/".join(parts), state.st_size, (state.st_mtime_ns, state.st_ctime_ns)))
    if not found and others[".parquet"]:
        from gander.data import hub

        return hub.open_rows(where, split, hub.from_parquet(root))
    return _arrange(where, plain_name(root.resolve().name), "folder", root, found, others, split)


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as items:
            for item in items:
                if item.name.startswith(".") or item.name in _PASSED_OVER:
                    continue
                if item.is_symlink() and item.is_dir():
                    raise UserError(
                        f"{shown(item.path)} is a link to a folder, which is not followed; put the images in its place"
                    )
                yield (*above, item.name), item
                if item.is_dir(follow_symlinks=False):
                    yield from _walk(Path(item.path), (*above, item.name))
    except PermissionError:
        raise UserError(f"{shown(str(folder))} may not be read; give yourself the right to") from None


def _open_zip(where: str, path: Path, split: str | None) -> Source:
    if not zipfile.is_zipfile(path) and path.suffix.lower() != ".zip":
        raise UserError(f"{where} is neither a folder nor a zip archive; unpack it and name the folder")
    found, others = {}, Counter[str]()
    with files.open_zip(path) as archive:
        for info in archive.infolist():
            parts = tuple(part for part in info.filename.replace("\\", "/").split("/") if part not in ("", "."))
            if info.is_dir() or not parts or any(part.startswith(".") or part in _PASSED_OVER for part in parts):
                continue
            suffix = os.path.splitext(parts[-1])[1].lower()
            if suffix in SUFFIXES:
                found[parts] = (parts, info.filename, info.file_size, (info.CRC,))  # the last of a name, as unzip has it
            else:
                others[suffix or "without a suffix"] += 1
    return _arrange(where, plain_name(path.resolve().stem), "zip", path, list(found.values()), others, split)


_Found = tuple[tuple[str, ...], str, int, tuple[int, ...]]  # parts of the name, path, size, stamp


def _arrange(
    where: str, name: str, kind: Kind, root: Path, found: Sequence[_Found], others: Counter[str], split: str | None
) -> Source:
    """Splits and classes from the names of the folders."""
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
    return Source(name, where, kind, chosen, splits, tuple(numbers), tuple(sorted(entries)), root)


def _level(found: Iterable[_Found], level: int) -> tuple[list[str], set[str]]:
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


def _of_folder(root: Path, path: str) -> bytes:
    try:
        with open(root / path, "rb") as file:
            data = file.read(files.MAX_ENTRY_BYTES + 1)
    except OSError as error:
        raise Broken(f"cannot be read ({error.strerror})") from None
    if len(data) > files.MAX_ENTRY_BYTES:
        raise Broken(f"is larger than {files.MAX_ENTRY_BYTES / 1e6:,.0f} MB")
    return data


def _of_zip(archive: zipfile.ZipFile, path: str) -> bytes:
    try:
        return files.read_entry(archive, path)
    except UserError:
        raise Broken("inflates to more than it states") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise Broken(f"cannot be unpacked ({shown(str(error)) or type(error).__name__})") from None


def _present(value):
    assert value is not None
    return value
