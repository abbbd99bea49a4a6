"""What is scored: the samples of a run, or the images of a folder."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from gander import grids
from gander.data import Dataset, open_source, prepare, short_sides
from gander.errors import UserError
from gander.files import sha256
from gander.metrics.features import Features, extract
from gander.run import Run
from gander.scoring.measured import measure
from gander.train import checkpoint
from gander.train.samples import images_of, latents_of

BATCH = 64  # of samples, cut at the same places everywhere: networks may mix the images of a batch
PROBE_SIDE = 32  # px, of a probe that is scored as a folder would be


class Subject(NamedTuple):
    """Images to score, and their vectors. `facts` say which they are, `made` are the fields of the card that say how."""

    name: str
    facts: dict[str, Any]
    made: dict[str, Any]
    vectors: Float32[np.ndarray, "n d"]
    logits: Float32[np.ndarray, "n k"] | None
    labels: Int64[np.ndarray, " n"] | None
    classes: tuple[str, ...]
    images: UInt8[np.ndarray, "n h w c"]
    notes: list[str]


def of_run(run: Run, generator: Any, step: int, count: int, network: Features, kind: str, standing: int, **how: Any) -> Subject:
    """The first `count` samples of a seed. `how` has the seed and the truncation. UserError for NaN in them."""
    channels = run.described["facts"].get("channels", 3)
    images = np.empty((count, generator.resolution, generator.resolution, channels), np.uint8)
    hidden = not sys.stderr.isatty()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        starts = range(0, count, BATCH)
        for start in tqdm(starts, desc=f"samples of {run.folder.name}", unit=f"×{BATCH} images", disable=hidden, leave=False):
            rows = range(start, min(start + BATCH, count))
            made = drawn(generator, rows, network.device, **how)
            if not made.isfinite().all():
                raise UserError(f"{run.folder} makes samples that hold NaN or infinity at step {step}; take an earlier --step")
            images[rows.start : rows.stop] = grids.to_bytes(made)
            yield torch.arange(rows.start, rows.stop), torch.from_numpy(images[rows.start : rows.stop]).permute(0, 3, 1, 2)

    vectors, logits = extract(network, batches(), count, logits=True)
    name = "generator_ema" if kind == "ema" else "generator"
    weights = sha256(checkpoint.find(run.checkpoints, step)[0] / f"{name}.safetensors")
    facts = {"run": run.folder.name, "recipe": run.described["recipe"], "step": step, "weights": weights[:16]}
    classes = tuple(run.described.get("classes", [])) if generator.num_classes else ()
    labels = np.arange(count) % generator.num_classes if classes else None
    return Subject(
        f"{run.folder}, step {step:,}",
        facts,
        {"generator": kind, "standing": standing, **how},
        vectors,
        logits,
        labels,
        classes,
        images,
        [],
    )


def drawn(generator: Any, rows: range, device: torch.device, *, seed: int, truncation: float | None = None) -> Tensor:
    """One batch of samples in [-1, 1], with labels that go round the classes."""
    latents, labels = latents_of(generator, seed, rows, truncation=truncation)
    return images_of(generator, latents, labels, BATCH, device)


def open_files(where: str, resolution: int | None) -> tuple[Dataset, Counter[int]]:
    """The images of a folder at one size, by default the short side that most of them have; and how many have which."""
    source = open_source(where)
    sides = Counter([PROBE_SIDE]) if source.probe else short_sides(source)
    return prepare(source, resolution or sides.most_common(1)[0][0]), sides


def of_files(dataset: Dataset, sides: Counter[int], count: int, network: Features) -> Subject:
    """`count` images of a folder, the first in the order of their content's hash: a choice that no name decides."""
    found = measure(dataset, network, count, logits=True)
    notes = []
    if other := sum(number for side, number in sides.items() if side != dataset.resolution):
        range_of = f"{min(sides)} to {max(sides)} px"
        notes = [
            f"{other:,} of {sum(sides.values()):,} images had another short side ({range_of}): brought to {dataset.resolution}"
        ]
    facts = {"folder": dataset.name, "split": dataset.split, "hash": dataset.fingerprint[:16], "of": len(dataset)}
    labels = found.labels if dataset.classes else None
    return Subject(dataset.name, facts, {}, found.vectors, found.logits, labels, dataset.classes, dataset.images[found.rows], notes)
