"""Where images come from: a folder, a zip, parquet files, the Hub, a probe. Listing is cheap: nothing is decoded."""

import contextlib
import hashlib
import os
import re
import stat
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gander import files
from gander.data.images import SUFFIXES, Broken
from gander.data.layout import Entry, Found, arrange
from gander.errors import UserError, shown, unknown

if TYPE_CHECKING:
    from gander.data.hub import Rows
    from gander.probes import Probe

Kind = Literal["folder", "zip", "rows", "probe"]
Part = Literal["training", "held out"]
Read = Callable[[str], bytes]

PROBE_IMAGES = 50_000
_PASSED_OVER = frozenset(("__MACOSX", "@eaDir"))  # besides all that begins with a dot


@dataclass(frozen=True)
class Source:
    """A listed set of images, as `open_source` gives it."""

    name: str  # letters, digits, - and _: for the names of runs
    where: str  # as it was asked for
    kind: Kind
    split: str | None  # the one that was chosen, None where there are none
    splits: tuple[str, ...]
    classes: tuple[str, ...]  # of all labelled splits together; empty for images without labels
    entries: tuple[Entry, ...] = field(repr=False)
    root: Path | None = None
    others: Mapping[str, int] = field(default_factory=dict, repr=False)  # suffix -> files that are no images
    rows: "Rows | None" = field(default=None, repr=False)
    probe: "Probe | None" = field(default=None, repr=False)
    part: "Part | None" = None  # of a set that was `cut`
    fraction: float = 1.0  # of its images, where a `share` of them was taken

    def __len__(self) -> int:
        return max(1, round(self.fraction * PROBE_IMAGES)) if self.probe else len(self.entries)

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
    if text.startswith("probe:"):
        return _open_probe(text, split)
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


def cut(source: Source, part: Part) -> Source:
    """Nine tenths of the images of each class, to train on, or the tenth (one image at least) that is held out.

    Held out are those whose names have the lowest SHA-256: at every resolution, seed and machine the same. UserError for a class of
    one image.
    """
    held: set[str] = set()
    for label, names in _in_order(source).items():
        if len(names) < 2:
            what = f"class {shown(source.classes[label])!r}" if source.classes else "whole"
            raise UserError(
                f"the {what} of {source.where} is one image, and none is left to be held out; give it more, or a split val"
            )
        held.update(names[: max(1, len(names) // 10)])
    wanted = part == "held out"
    return replace(source, entries=tuple(entry for entry in source.entries if (entry.name in held) == wanted), part=part)


def share(source: Source, fraction: float) -> Source:
    """This fraction of the images of each class, one at least: those whose names have the lowest SHA-256; of a probe the first.

    They are the same for every seed, resolution and machine, and part of any larger fraction. UserError outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"--fraction {fraction} is no part of the images; take a number over 0, up to 1: 0.1 is a tenth")
    if fraction == 1:
        return source
    chosen = {name for names in _in_order(source).values() for name in names[: max(1, round(fraction * len(names)))]}
    return replace(source, entries=tuple(entry for entry in source.entries if entry.name in chosen), fraction=fraction)


def _in_order(source: Source) -> dict[int, list[str]]:
    """The names of each class by their SHA-256: in an order that has nothing to do with what they say."""
    classes: defaultdict[int, list[str]] = defaultdict(list)
    for entry in source.entries:
        classes[entry.label].append(entry.name)
    for names in classes.values():
        names.sort(key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
    return classes


def class_folders(source: Source) -> set[str]:
    """The folders where those of the classes stand, with images or without; none of a table or a probe."""
    if source.kind not in ("folder", "zip") or source.root is None:
        return set()
    first = source.entries[0]
    path = first.path.replace("\\", "/") if source.kind == "zip" else first.path
    above = _parts(path)[: -len(_parts(first.name))]
    if source.kind == "folder":
        with os.scandir(source.root.joinpath(*above)) as items:
            found = {item.name for item in items if item.is_dir()}
    else:
        with files.open_zip(source.root) as archive:
            parts = {_parts(info.filename.replace("\\", "/").rpartition("/")[0]) for info in archive.infolist()}
        found = {each[len(above)] for each in parts if len(each) > len(above) and each[: len(above)] == above}
    return {name for name in found if not _passed_over(name)}


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


def plain_name(text: str) -> str:
    """Letters, digits, - and _ only."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-") or "data"


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
        suffix = _suffix(item.name)
        state = _state_of(item) if suffix in SUFFIXES else None
        if state is None or not stat.S_ISREG(state.st_mode):
            others[suffix] += 1
            continue
        found.append((parts, "/".join(parts), state.st_size, (state.st_mtime_ns, state.st_ctime_ns)))
    if not found and others[".parquet"]:
        from gander.data import hub

        return hub.open_rows(where, split, hub.from_parquet(root))
    return _laid_out(where, root.resolve().name, "folder", root, found, others, split)


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as items:
            for item in items:
                if _passed_over(item.name):
                    continue
                if item.is_symlink() and os.path.isdir(item.path):
                    raise UserError(f"{item.path} is a link to a folder, which is not followed; put the images in its place")
                yield (*above, item.name), item
                if item.is_dir(follow_symlinks=False):
                    yield from _walk(Path(item.path), (*above, item.name))
    except PermissionError:
        raise UserError(f"{folder} may not be read; give yourself the right to") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} changed while it was listed; say the same again when it is at rest") from None


def _state_of(item: os.DirEntry[str]) -> os.stat_result | None:
    """Of the file that a link leads to; None where it leads nowhere, and for a file that has just gone."""
    try:
        return item.stat()
    except PermissionError:
        raise UserError(f"{item.path} may not be read; give yourself the right to") from None
    except OSError:
        return None


def _open_zip(where: str, path: Path, split: str | None) -> Source:
    if not zipfile.is_zipfile(path) and path.suffix.lower() != ".zip":
        raise UserError(f"{where} is neither a folder nor a zip archive; unpack it and name the folder")
    found: dict[tuple[str, ...], Found] = {}
    others = Counter[str]()
    above: dict[str, tuple[str, ...] | None] = {}  # the folders seen so far; None for those that are passed over
    with files.open_zip(path) as archive:
        for info in archive.infolist():
            folder, _, base = info.filename.replace("\\", "/").rpartition("/")
            if folder not in above:
                parts = _parts(folder)
                above[folder] = None if any(map(_passed_over, parts)) else parts
            around = above[folder]
            if around is None or not base or _passed_over(base):
                continue
            suffix = _suffix(base)
            if suffix in SUFFIXES:
                parts = (*around, base)
                found[parts] = (parts, info.filename, info.file_size, (info.CRC,))  # the last of a name, as unzip has it
            else:
                others[suffix] += 1
    return _laid_out(where, path.resolve().stem, "zip", path, list(found.values()), others, split)


def _laid_out(
    where: str, name: str, kind: Kind, root: Path, found: Sequence[Found], others: Counter[str], split: str | None
) -> Source:
    layout = arrange(where, found, others, split)
    return Source(plain_name(name), where, kind, *layout, root=root, others=dict(others.most_common()))


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name in _PASSED_OVER


def _suffix(name: str) -> str:
    _, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot else "without a suffix"


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
    except KeyError:
        raise Broken("is no longer in the archive") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, OverflowError) as error:
        raise Broken(f"cannot be unpacked ({shown(str(error)) or type(error).__name__})") from None


def _present(value):
    assert value is not None
    return value
