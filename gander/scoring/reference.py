"""The real images that scores are made against: a run's own, a folder's, or a file of their vectors that somebody shared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gander.data import Dataset, open_source, prepare
from gander.data.held_out import of_probe, split_of
from gander.data.sources import Source, share
from gander.errors import UserError, shown
from gander.metrics.features import Features
from gander.run import Run
from gander.scoring.measured import Measured, cached, load

HELD_OUT = ("test", "val", "valid", "validation")  # the first of these splits that is there, and is not the reference
LEAST = 20  # images that can stand for those that were not trained on


@dataclass(frozen=True, eq=False)
class Reference:
    """Vectors of real images, the images where they are at hand, and others of their kind that nobody trained on.

    `trained` tells whether the run was trained on these images, or on `part` of them; None of a folder, where nobody knows.
    """

    measured: Measured
    dataset: Dataset | None = None
    held_out: Dataset | None = None
    lacking: str = ""  # why nothing is held out
    trained: bool | None = None
    part: Dataset | None = None  # what a run was trained on, where that was a fraction of these images


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


def source_of(run: Run | None, data: str | None, split: str | None) -> Source:
    """The images at `data`, by default those that the run was trained on. UserError where they are not to be had."""
    trained: dict[str, Any] = run.described.get("data", {}) if run else {}
    where = data or str(trained.get("where", ""))
    own = where == trained.get("where")
    try:
        if not where:
            raise UserError("run.json does not say where they are")
        return open_source(where, split=split or (trained.get("split") if own else None))
    except UserError as error:
        if data or run is None or split:
            raise
        raise UserError(
            f"the images that {run.folder} was trained on are not to be had ({error}); name them: --data FOLDER"
        ) from None


def of_data(run: Run | None, data: str | None, split: str | None, resolution: int, channels: int, network: Features) -> Reference:
    """The images of `source_of` and their vectors. UserError where those of the run's own place are others by now."""
    source = source_of(run, data, split)
    dataset = prepare(source, resolution, channels=channels, allow_broken=True)
    trained: dict[str, Any] = run.described.get("data", {}) if run else {}
    fraction, part = run.fraction if run else 1.0, None
    if fraction != 1:
        part = prepare(share(source, fraction), resolution, channels=channels, allow_broken=True)
    same = (part or dataset).fingerprint == trained.get("fingerprint")
    if not data and not same and source.split == trained.get("split"):
        where = shown(source.where)
        raise UserError(f"{where} holds other images than those that were trained on; --data {where} says that these are meant")
    held_out, lacking = _held_out(source, dataset, str(trained.get("split")))
    return Reference(cached(dataset, network), dataset, held_out, lacking, same if run else None, part if same else None)


def _held_out(source: Source, dataset: Dataset, trained: str) -> tuple[Dataset | None, str]:
    """Images of the same kind that were not trained on, or why there are none."""
    if source.probe:
        return of_probe(dataset), ""
    split = split_of(source, HELD_OUT, [trained])
    if split is None:
        return None, f"{shown(source.where)} has no split test or val whose images were not trained on"
    try:
        other = open_source(source.where, split=split)
        found = prepare(other, dataset.resolution, channels=dataset.channels, allow_broken=True)
    except UserError as error:
        return None, f"its split {split} cannot be read ({error})"
    return (found, "") if len(found) >= LEAST else (None, f"its split {split} has {len(found)} images, too few")
