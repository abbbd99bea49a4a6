"""The shelf of prepared images: folders that are whole or absent, found by content, or by a listing that is known already."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gander import files
from gander.errors import UserError

SPARE = 64 << 20  # bytes that stay free on the disk


@dataclass(frozen=True)
class Shelf:
    """The place in the cache of the images of one `listing`, prepared in one `kind` of way.

    `listings/<listing>.json` tells the fingerprint of the images; `<fingerprint and kind>/` holds `images.u8` and `meta.json`.
    """

    listing: str
    kind: str
    where: str  # for what is said to people

    @property
    def folder(self) -> Path:
        return files.cache_folder() / "prepared"

    def find(self) -> Path | None:
        """The folder with the images, if it is there and whole."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, UserError):
            folder = self._final(files.read_json(self._pointer())["fingerprint"])
            shape = read_meta(folder)["shape"]
            if (folder / "images.u8").stat().st_size == int(np.prod(shape, dtype=np.int64)):
                return folder
        return None

    @contextlib.contextmanager
    def alone(self, say: bool, stopped: Callable[[], bool]) -> Iterator[None]:
        """Wait until no other process prepares the same, then hold it off."""
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(files.lock(self.folder / f"{self._key(self.listing, self.kind)}.lock", "held"))
                    break
                except UserError:
                    if say:
                        print(f"another process prepares {self.where}; waiting for it", file=sys.stderr)
                    say = False
                    if stopped():
                        raise KeyboardInterrupt from None
                    time.sleep(0.2)
            yield

    @contextlib.contextmanager
    def begin(self, size: int) -> Iterator[Path]:
        """A temporary folder with room for `size` bytes; it is gone afterwards unless it was put up. Call it alone."""
        files.need_space(self.folder, size + SPARE, f"preparing {self.where}")
        self._sweep()
        # with the process in its name: a worker of one that was killed may still write into the old folder
        folder = self.folder / f".{self._key(self.listing, self.kind)}.{os.getpid()}.tmp"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put_up(self, folder: Path, meta: dict[str, Any]) -> Path:
        """Move a finished folder to its place, then let the listing point there."""
        with (folder / "images.u8").open("r+b") as file:
            os.fsync(file.fileno())
        files.write_atomic(folder / "meta.json", json.dumps(meta, indent=1))
        final = self._final(meta["fingerprint"])
        files.write_atomic(self._pointer(), json.dumps({"fingerprint": meta["fingerprint"], "source": self.where}))
        if self.find() is None:  # else the same images are there already, prepared from another place
            shutil.rmtree(final, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process was faster, with the same bytes
                os.replace(folder, final)
            files.sync_folder(self.folder)
        return final

    def _sweep(self) -> None:
        """Take away what killed processes left: temporary folders whose lock nobody else holds."""
        for folder in self.folder.glob(".*.tmp"):
            key = folder.name.split(".")[1]
            if key == self._key(self.listing, self.kind):  # held by this very process
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with contextlib.suppress(UserError), files.lock(self.folder / f"{key}.lock", "held"):
                shutil.rmtree(folder, ignore_errors=True)

    def _pointer(self) -> Path:
        return self.folder / "listings" / f"{self._key(self.listing)}.json"

    def _final(self, fingerprint: str) -> Path:
        return self.folder / self._key(fingerprint, self.kind)

    @staticmethod
    def _key(*parts: str) -> str:
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def read_meta(folder: Path) -> dict[str, Any]:
    """What is known of prepared images. It lists the broken files, which may be very many."""
    return files.read_json(folder / "meta.json", most=1 << 30)


@contextlib.contextmanager
def writing(where: str | Path) -> Iterator[None]:
    """One line where the disk is full, or nobody may write."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"the disk is full at {where}; make room, or set GANDER_CACHE to a folder elsewhere") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise UserError(f"{where} cannot be written ({error.strerror}); set GANDER_CACHE to a folder of your own") from None
        raise
