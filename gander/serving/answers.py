"""The addresses of the server, and what is answered there."""

import base64
import io
import json
import re
import threading
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from importlib import resources
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from gander.errors import UserError
from gander.serving.asked import INDEX, SEED, SHARE, TRUNCATION, Reader, four, read, whole, word
from gander.serving.networks import Networks

WAITING = 16  # questions to the networks that wait for their turn; more are told to come again
ARCHIVES = 2  # made at a time
MAX_COUNT = 1_000_000  # that is read at all; the networks say how many they make
MAX_IMAGE = 16 << 20  # bytes of an image that is sent

T = TypeVar("T")


class Busy(Exception):
    """Too many ask at once."""


class Answer(NamedTuple):
    body: bytes
    kind: str = "application/json"
    name: str | None = None  # the file to save it as


class Turns:
    """The networks answer one question at a time, in the order they came, on a thread of their own.

    torch starts a team of threads for every thread that calls it: one for each request would be many.
    """

    def __init__(self, most: int = WAITING):
        self.most, self.asking, self._closed = most, 0, False
        self._count = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "networks")

    def __call__(self, function: Callable[..., T], *args: Any, begun: bool = False, **options: Any) -> T:
        """What the function returns. Raises Busy where `most` are waiting already, unless this goes on with what has `begun`."""
        with self._count:
            if self._closed or (self.asking >= self.most and not begun):
                raise Busy
            self.asking += 1
            answer = self._thread.submit(function, *args, **options)
        try:
            return answer.result()
        except CancelledError:
            raise Busy from None
        finally:
            with self._count:
                self.asking -= 1

    def close(self) -> None:
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)


def page() -> dict[str, Answer]:
    """The files of the page by their addresses: read once, and no other file ever."""
    kinds = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"), "/icon.svg": ("icon.svg", "image/svg+xml")}
    for script in ("page.js", "explorer.js", "pad.js", "ask.js"):
        kinds[f"/{script}"] = (script, "text/javascript")
    folder = resources.files("gander.serving") / "page"
    return {path: Answer((folder / file).read_bytes(), f"{kind}; charset=utf-8") for path, (file, kind) in kinds.items()}


class Answers:
    """Address -> answer: `routes[method][path](query, body)`.

    Raises UserError for what cannot be answered, Busy where too many ask.
    """

    def __init__(self, networks: Networks, turns: Turns):
        self.networks, self.turns = networks, turns
        self._archives = threading.BoundedSemaphore(ARCHIVES)
        of_seed: dict[str, Reader] = {"seed": SEED, "label": word, "truncation": TRUNCATION}
        one = {**of_seed, "index": INDEX}
        pixel = whole(0, networks.resolution - 1)
        here = {"y": pixel, "x": pixel}
        several = {**of_seed, "start": INDEX, "count": whole(1, MAX_COUNT)}
        self.routes: dict[str, dict[str, Callable[[str, bytes], Answer]]] = {
            "GET": {
                "/api/run": self._of(lambda: _json(networks.facts()), {}),
                "/api/samples": self._of(self._samples, several),
                "/api/sample.png": self._of(self._sample, one),
                "/api/samples.zip": self._of(self._archive, several),
                "/api/between.png": self._of(self._between, {**of_seed, "corners": four, "x": SHARE, "y": SHARE}),
                "/api/look": self._of(self._look_at_sample, {**one, **here}),
            },
            "POST": {"/api/look": lambda query, body: self._look_at_image(body, **read(query, {"label": word, **here}))},
        }

    @staticmethod
    def _of(function: Callable[..., Answer], readers: Mapping[str, Reader]) -> Callable[[str, bytes], Answer]:
        return lambda query, body: function(**read(query, readers))

    def _samples(
        self, seed: int = 0, start: int = 0, count: int = 1, label: str | None = None, truncation: float | None = None
    ) -> Answer:
        images = self.turns(self.networks.samples, seed, start, count, label, truncation)
        listed = [
            {"index": i, "label": self.networks.label_of(i, label), "png": _base64(image)} for i, image in enumerate(images, start)
        ]
        return _json({"step": self.networks.step, "seed": seed, "images": listed})

    def _sample(self, seed: int = 0, index: int = 0, label: str | None = None, truncation: float | None = None) -> Answer:
        (image,) = self.turns(self.networks.samples, seed, index, 1, label, truncation)
        return Answer(png(image), "image/png", f"{self._name(seed)}-{index:06d}.png")

    def _archive(
        self, seed: int = 0, start: int = 0, count: int = 1, label: str | None = None, truncation: float | None = None
    ) -> Answer:
        """The files of `gander sample --out FOLDER`, and what they are."""
        networks = self.networks
        if count > networks.zipped:
            raise UserError(
                f"count {count} is over {networks.zipped}, the most of one archive; gander sample --out FOLDER takes any"
            )
        if not self._archives.acquire(blocking=False):
            raise Busy
        try:
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
                for first in range(start, start + count, networks.shown):
                    some = min(networks.shown, start + count - first)
                    images = self.turns(networks.samples, seed, first, some, label, truncation, begun=first > start)
                    for i, image in enumerate(images, first):
                        archive.writestr(f"{i:06d}.png", png(image))
                facts = networks.facts()
                made = {name: facts[name] for name in ("run", "recipe", "data", "step")}
                made |= {"network": networks.network, "seed": seed, "start": start, "count": count}
                made |= {"label": label, "truncation": truncation}
                archive.writestr("samples.json", json.dumps(made, indent=1) + "\n")
        finally:
            self._archives.release()
        return Answer(out.getvalue(), "application/zip", f"{self._name(seed)}.zip")

    def _between(
        self,
        seed: int = 0,
        corners: tuple[int, ...] = (0, 1, 2, 3),
        x: float = 0.5,
        y: float = 0.5,
        label: str | None = None,
        truncation: float | None = None,
    ) -> Answer:
        return Answer(png(self.turns(self.networks.between, seed, corners, x, y, label, truncation)), "image/png")

    def _look_at_sample(
        self,
        seed: int = 0,
        index: int = 0,
        label: str | None = None,
        truncation: float | None = None,
        y: int | None = None,
        x: int | None = None,
    ) -> Answer:
        image, looks = self.turns(self.networks.look_at_sample, seed, index, label, truncation, _position(y, x))
        number = self.networks.label_of(index, label)
        return _json({"index": index, "label": number, "image": _base64(image), "networks": looks})

    def _look_at_image(self, body: bytes, label: str | None = None, y: int | None = None, x: int | None = None) -> Answer:
        image, looks, made = self.turns(self.networks.look_at_image, body, label, _position(y, x))
        if "made" in made:
            made["made"] = _base64(made["made"])
        return _json({"image": _base64(image), "networks": looks, **made})

    def _name(self, seed: int) -> str:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", self.networks.run.folder.resolve().name)[:60]
        return f"{plain}-step{self.networks.step}-seed{seed}"


def png(image: np.ndarray) -> bytes:
    """uint8 (h, w, c) -> the bytes of a PNG."""
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "PNG")
    return out.getvalue()


def _base64(image: np.ndarray) -> str:
    return base64.b64encode(png(image)).decode()


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value, allow_nan=False, separators=(",", ":")).encode())


def _position(y: int | None, x: int | None) -> tuple[int, int] | None:
    if y is not None and x is not None:
        return y, x
    if y is None and x is None:
        return None
    raise UserError("a position is y and x; give both, or neither")
