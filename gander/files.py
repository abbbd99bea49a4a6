"""Files that are whole or absent: atomic writes, hashes, the cache folder, the lock of a run folder, safe archives."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gander.errors import UserError


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside `path`, fsync, rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2) + "\n")


MAX_JSON_BYTES = 16 << 20  # which may become twenty times as much in memory


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file of at most so many bytes; UserError where it is not JSON, or larger."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"{path} is larger than {most / 1e6:,.0f} MB, as no such file is; restore it from a copy, or delete it")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); restore it from a copy, or delete it") from None


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut (a no-op where folders cannot be opened, as on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """`GANDER_CACHE`, else the user's cache folder on this system."""
    if named := os.environ.get("GANDER_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(base) / "gander"


def seconds(variable: str, default: float) -> float:
    """A time that the environment may set. UserError where it is no number of seconds."""
    asked = os.environ.get(variable, str(default))
    try:
        if 0 < (found := float(asked)) < float("inf"):
            return found
    except ValueError:
        pass
    raise UserError(f"{variable}={asked} is not a number of seconds; set it to {default:g}, or unset it")


def need_space(folder: Path, size: int, what: str) -> None:
    """UserError unless `size` bytes are free where `folder` is (or will be)."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(f"{what} needs {size / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free; make room")


@contextlib.contextmanager
def lock(path: Path, refusal: str) -> Iterator[None]:
    """Hold the operating system's lock on `path`; it dies with its process. UserError(refusal) where another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)  # a link could lead anywhere
    handle = os.open(path, flags, 0o666)
    try:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise UserError(f"{path} cannot be locked ({error.strerror}); put it on a disk that knows locks") from None
            raise UserError(refusal) from None
        yield
    finally:
        os.close(handle)


MAX_ARCHIVE_ENTRIES = 10_000_000
MAX_ENTRY_BYTES = 256 << 20  # one image of an archive, unpacked


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip whose every entry may be read in place (nothing is ever extracted).

    Raises UserError for a file that is no zip or is cut off, and for entries that a fair archive does not have:
    absolute paths, `..`, links, encryption, more than 256 MiB in one image, other packing than deflate (a few kilobytes of
    bzip2 or LZMA unpack to gigabytes at one go).
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is not a whole zip archive ({error}); download or pack it again") from None
    try:
        entries = archive.infolist()
        if len(entries) > MAX_ARCHIVE_ENTRIES:
            raise UserError(f"{path} has {len(entries):,} entries, over the limit of {MAX_ARCHIVE_ENTRIES:,}; split it")
        for entry in entries:
            if wrong := _wrong_with(entry):
                raise UserError(f"{path} is refused: its entry {entry.filename!r} {wrong}; pack the images again")
    except BaseException:
        archive.close()
        raise
    return archive


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of one entry, never more than its stated size or 256 MiB: a bomb that lies about its size raises."""
    entry = archive.getinfo(name)
    with archive.open(entry) as file:
        data = file.read(min(entry.file_size, MAX_ENTRY_BYTES) + 1)
    if len(data) > entry.file_size or len(data) > MAX_ENTRY_BYTES:
        raise UserError(f"{archive.filename} is refused: its entry {name!r} inflates to more than it states")
    return data


def _wrong_with(entry: zipfile.ZipInfo) -> str | None:
    name = entry.filename.replace("\\", "/")
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "climbs out of its folder"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed by another method than deflate"
    if entry.file_size > MAX_ENTRY_BYTES:
        return f"unpacks to {entry.file_size / 1e6:,.0f} MB, more than one image may take"
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
