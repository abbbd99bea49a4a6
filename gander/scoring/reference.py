"""The real images that scores are made against: a run's own, a folder's, or a file of their vectors that somebody shared."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gander.data import Dataset, open_source, prepare
from gander.data.sources import PROBE_IMAGES, Source
from gander.errors import UserError
from gander.metrics.features import Features
from gander.probes import PROBES
from gander.run import Run
from gander.scoring.measured import Measured, cached, load

HELD_OUT = ("test", "val", "valid", "validation")  # the first of these splits that is there, and is not the reference
HELD_OUT_OF_PROBES = 10_000


@dataclass(frozen=True, eq=False)
class Reference:
    """Vectors of real images, the images where they are at hand, and others of their kind that nobody trained on."""

    measured: Measured
    dataset: Dataset | None = None
    held_out: Dataset | None = None
    lacking: str = ""  # why nothing is held out


def of_file(file: Path, network: Features) -> Reference:
    """What `--save-reference` wrote. UserError where it was made by another network."""
    if not file.exists():
        raise UserError(f"there is no file {file}; make one: gander score ... --save-reference {file}")
    measured = load(file)
    theirs = [measured.facts[key] for key in ("features", "weights", "resize")]
    ours = [network.name, network.hash[:16], network.resize]
    if theirs != ours:
        raise UserError(f"{file} was made with {' '.join(theirs)}, here are {' '.join(ours)}; take the same --features for both")
    return Reference(measured, lacking="the reference is a file of vectors, with no images beside it")


def of_data(run: Run | None, data: str | None, split: str | None, resolution: int, channels: int, network: Features) -> Reference:
    """The images at `data`, by default those that the run was trained on. UserError where these are gone, or are others now."""
    trained: dict[str, Any] = run.described.get("data", {}) if run else {}
    where = data or str(trained.get("where", ""))
    try:
        source = open_source(where, split=split or (None if data else trained.get("split")))
    except UserError as error:
        if data or run is None:
            raise
        raise UserError(
            f"the images that {run.folder} was trained on are not to be had ({error}); name them: --data FOLDER"
        ) from None
    dataset = prepare(source, resolution, channels=channels)
    if not data and dataset.fingerprint != trained.get("fingerprint"):
        raise UserError(f"{where} holds other images than those that were trained on; --data {where} says that these are meant")
    return Reference(cached(dataset, network), dataset, *_held_out(source, dataset))


def _held_out(source: Source, dataset: Dataset) -> tuple[Dataset | None, str]:
    """Images of the same kind, or why there are none."""
    if source.probe:
        rows = np.arange(PROBE_IMAGES, PROBE_IMAGES + HELD_OUT_OF_PROBES)
        images, labels = PROBES[source.name].draw(0, rows, dataset.resolution)
        if dataset.channels == 1:
            return None, "a probe in grey has no held-out images"
        facts: dict[str, Any] = {"split": "held out", "fingerprint": f"{dataset.fingerprint}, held out"}
        return replace(dataset, images=images, labels=labels, names=tuple(map(str, rows)), **facts), ""
    split = next((split for split in HELD_OUT if split in source.splits and split != source.split), None)
    if split is None:
        return None, f"{source.where} has no split test or val whose images were not trained on"
    return prepare(open_source(source.where, split=split), dataset.resolution, channels=dataset.channels), ""
