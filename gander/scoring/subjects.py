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
from gander.data import Dataset, prepare, sizes
from gander.data.sources import Source
from gander.errors import UserError
from gander.files import sha256
from gander.metrics.features import Features, extract
from gander.run import Run
from gander.scoring.measured import measure
from gander.train.samples import sample

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
    images: UInt8[np.ndarray, "m h w c"]  # the first ones, as many as are to be looked at
    notes: list[str]


def of_run(
    run: Run,
    generator: Any,
    step: int,
    count: int,
    network: Features,
    *,
    looked_at: int,
    kind: str,
    standing: int,
    seed: int,
    truncation: float | None,
) -> Subject:
    """The first `count` samples of a seed. UserError for NaN in them."""
    weights = sha256(run.checkpoints / f"{step:08d}" / f"{'generator_ema' if kind == 'ema' else 'generator'}.safetensors")
    channels, side = run.described["facts"].get("channels", 3), generator.resolution
    images = np.empty((min(count, looked_at), side, side, channels), np.uint8)
    hidden = not sys.stderr.isatty()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        starts = range(0, count, BATCH)
        for start in tqdm(starts, desc=f"samples of {run.folder.name}", unit=f"×{BATCH} images", disable=hidden, leave=False):
            rows = range(start, min(start + BATCH, count))
            made = sample(generator, seed, rows, truncation=truncation, batch=BATCH, device=network.device)
            if not made.isfinite().all():
                raise UserError(f"{run.folder} makes samples that hold NaN or infinity at step {step}; take an earlier --step")
            pixels = grids.to_bytes(made)
            if rows.start < len(images):
                images[rows.start : rows.stop] = pixels[: len(images) - rows.start]
            yield torch.arange(rows.start, rows.stop), torch.from_numpy(pixels).permute(0, 3, 1, 2)

    vectors, logits = extract(network, batches(), count, logits=True)
    facts = {"run": run.folder.name, "recipe": run.described["recipe"], "step": step, "weights": weights[:16]}
    classes = tuple(run.described.get("classes", [])) if generator.num_classes else ()
    labels = np.arange(count) % generator.num_classes if classes else None
    made = {"generator": kind, "standing": standing, "seed": seed, "truncation": truncation}
    return Subject(f"{run.folder}, step {step:,}", facts, made, vectors, logits, labels, classes, images, [])


def open_files(source: Source, resolution: int | None) -> tuple[Dataset, list[str]]:
    """The images of a folder at one size, by default the short side that most of them have; and what is to be said of that."""
    if source.probe:
        return prepare(source, resolution or PROBE_SIDE), []
    found = sizes(source)
    sides = Counter[int]()
    for (width, height), number in found.items():
        sides[min(width, height)] += number
    side, total = resolution or sides.most_common(1)[0][0], sum(sides.values())
    dataset, notes = prepare(source, side, allow_broken=True), []
    if other := total - sides[side]:
        notes += [f"{other:,} of {total:,} images had another short side ({min(sides)} to {max(sides)} px): brought to {side}"]
    if oblong := sum(number for (width, height), number in found.items() if width != height):
        notes += [f"{oblong:,} of {total:,} images are not square: their centre is taken, where other tools squeeze the whole"]
    if dataset.skipped:
        notes += [f"{len(dataset.skipped):,} images are broken and left out"]
    return dataset, notes


def of_files(where: str, dataset: Dataset, notes: list[str], count: int, network: Features, looked_at: int) -> Subject:
    """`count` images of a folder, the first in the order of their content's hash: a choice that no name decides."""
    found = measure(dataset, network, count, logits=True)
    facts = {"folder": dataset.name, "split": dataset.split, "hash": dataset.fingerprint[:16], "of": len(dataset)}
    labels = found.labels if dataset.classes else None
    images = dataset.images[found.rows[:looked_at]]
    return Subject(where, facts, {}, found.vectors, found.logits, labels, dataset.classes, images, notes)
