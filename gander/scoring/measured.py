"""Real images as vectors: measured once, kept in the cache by their content, or in a file that can be shared."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from gander import files
from gander.data import Dataset
from gander.data.prepare import MAX_RESOLUTION
from gander.errors import UserError
from gander.metrics.features import Features, extract
from gander.probes import PROBES

MOST = 50_000  # images of a set: what published figures are made with
BATCH = 64
VERSION = 2  # of the order and of what is in the file
LARGEST = 1e12  # of a number that a network makes of an image
FACTS: dict[str, Any] = {
    "name": str,
    "split": (str, type(None)),
    "hash": str,
    "of": int,
    "resolution": int,
    "filter": str,
    "classes": list,
}
FACTS |= {"features": str, "weights": str, "resize": str}


@dataclass(frozen=True, eq=False)
class Measured:
    """Vectors of real images in the order of their content's hash: the first n are a random choice, whatever the names.

    `rows` are their places in the data set, `facts` what a card has to say of them.
    """

    vectors: Float[np.ndarray, "n d"]
    labels: Int64[np.ndarray, " n"]
    rows: Int64[np.ndarray, " n"]
    facts: dict[str, Any]
    logits: Float[np.ndarray, "n k"] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def first(self, count: int) -> "Measured":
        """The first `count` of them."""
        return Measured(self.vectors[:count], self.labels[:count], self.rows[:count], self.facts)

    def last(self, count: int) -> "Measured":
        """The last `count` of them."""
        start = len(self) - count
        return Measured(self.vectors[start:], self.labels[start:], self.rows[start:], self.facts)


def order(dataset: Dataset) -> Int64[np.ndarray, " n"]:
    """Rows by the hash of their pixels, then of their label."""
    keys = [(hashlib.sha256(image.tobytes()).digest(), int(label)) for image, label in zip(dataset.images, dataset.labels)]  # noqa: B905 - equally many
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def measure(dataset: Dataset, network: Features, count: int = MOST, *, logits: bool = False, progress: bool = True) -> Measured:
    """Vectors of the first `count` images in the order of their hashes (of all, where there are fewer)."""
    rows = order(dataset)[:count]
    batches = _batches(dataset, rows, f"{network.name} of {dataset.name}", progress)
    vectors, answers = extract(network, batches, len(rows), logits=logits)
    return Measured(vectors, dataset.labels[rows], rows, _facts(dataset, network), answers)


def _facts(dataset: Dataset, network: Features) -> dict[str, Any]:
    of_images: dict[str, Any] = {"name": dataset.name, "split": dataset.split, "hash": dataset.fingerprint[:16], "of": len(dataset)}
    of_images |= {"resolution": dataset.resolution, "channels": dataset.channels, "filter": dataset.filter}
    of_images |= {"classes": list(dataset.classes)}
    return of_images | {"features": network.name, "weights": network.hash[:16], "resize": network.resize}


def _batches(dataset: Dataset, rows: Int64[np.ndarray, " n"], what: str, progress: bool) -> Iterator[tuple[Tensor, Tensor]]:
    hidden = not (progress and sys.stderr.isatty())
    for start in tqdm(range(0, len(rows), BATCH), desc=what, unit=f"×{BATCH} images", disable=hidden, leave=False):
        images = torch.from_numpy(dataset.images[rows[start : start + BATCH]]).permute(0, 3, 1, 2)
        yield torch.arange(start, start + len(images)), images


def cached(dataset: Dataset, network: Features, count: int = MOST, *, progress: bool = True) -> Measured:
    """As `measure`, from the cache where the same images were measured by the same network before."""
    what = (dataset.fingerprint, dataset.resolution, dataset.channels, dataset.filter, network.hash, network.resize, VERSION)
    key = hashlib.sha256("\0".join(map(str, what)).encode()).hexdigest()[:32]
    file = files.cache_folder() / "features" / f"{key}.safetensors"
    wanted = min(count, len(dataset))
    with contextlib.suppress(UserError, OSError):
        found = load(file, wanted)
        if len(found) >= wanted:
            # the content is the same, where it lies may be not: name and classes are those of this data set
            # so are the numbers of the labels, which another split may move
            return Measured(found.vectors, dataset.labels[found.rows], found.rows, _facts(dataset, network))
    found = measure(dataset, network, count, progress=progress)
    with contextlib.suppress(UserError, OSError):  # a full disk costs the next time, not this one
        files.need_space(file.parent, 2 * found.vectors.nbytes, "keeping the reference's vectors")
        store(file, found)
    return found


def store(file: Path, measured: Measured) -> None:
    """Write vectors, labels and facts as one safetensors file, whole or not at all."""
    tensors = {"vectors": measured.vectors, "labels": measured.labels, "rows": measured.rows}
    whole = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}
    files.write_atomic(file, save(whole, {"gander": json.dumps(measured.facts)}))


def load(file: Path, count: int = MOST) -> Measured:
    """The first `count` of what `store` wrote. UserError where the file is none of these."""
    try:
        with safe_open(file, "np") as opened:
            facts = json.loads((opened.metadata() or {}).get("gander", "null"))
            slices = [opened.get_slice(name) for name in ("vectors", "labels", "rows")]
            shapes = [tuple(each.get_shape()) for each in slices]
            if list(map(len, shapes)) != [2, 1, 1] or len({shape[0] for shape in shapes}) > 1:
                raise ValueError(f"vectors, labels and rows are {shapes}")
            vectors, labels, rows = (each[: min(count, shapes[0][0])] for each in slices)
        if odd := _odd(facts, vectors, labels):
            raise ValueError(f"its {odd} is odd")
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} is no reference that gander wrote ({line}); make one: --save-reference FILE") from None
    return Measured(vectors, labels.astype(np.int64), rows.astype(np.int64), facts)


def _odd(facts: Any, vectors: np.ndarray, labels: np.ndarray) -> str:
    """What is wrong with the content of a file, in a word; empty where nothing is."""
    for key, kind in FACTS.items():
        value = facts.get(key, ...) if isinstance(facts, dict) else ...
        if type(value) not in (kind if isinstance(kind, tuple) else (kind,)):  # a bool is no whole number here
            return key
    if not 1 <= facts["resolution"] <= MAX_RESOLUTION or facts["channels"] not in (1, 3) or facts["of"] < len(vectors):
        return "size"
    if not all(type(name) is str for name in facts["classes"]):
        return "list of classes"
    if facts["hash"].startswith("probe:") and facts["hash"] not in {f"probe:{p.name}:{p.version}" for p in PROBES.values()}:
        return "probe"
    if labels.dtype.kind not in "iu" or (len(labels) and not 0 <= labels.min() <= labels.max() < max(1, len(facts["classes"]))):
        return "label"
    if vectors.dtype != np.float32 or not (np.abs(vectors) < LARGEST).all():
        return "vector"
    return ""
