"""The protocol card: all that decides what a score may be compared with, and `scores.json`, where scores lie with their cards."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gander import files
from gander.errors import UserError, shown


@dataclass(frozen=True)
class Card:
    """How a number was made. Scores are compared only where their cards are equal; fields that do not apply are None."""

    features: str  # name of the network that made the vectors
    weights: str  # the start of the sha256 of its weights
    resize: str  # what it does to images of any size
    reference: str
    split: str | None
    reference_hash: str  # the start of the fingerprint of the split's images
    reference_images: int  # that were taken, in the order of their content's hash
    reference_of: int  # that the split has
    resolution: int  # at which both sets came to the network
    channels: int
    filter: str  # by which the reference was brought to it
    samples: int
    labels: str | None = None  # "in turn" where samples have each class as often, and the reference has not
    generator: str | None = None  # ema or live
    standing: int | None = None  # batches of 64 that batch norm's statistics were estimated over; 0 for the running ones
    truncation: float | None = None
    seed: int | None = None

    def lines(self) -> list[str]:
        """For people."""
        made = "files"
        if self.generator:
            made = f"{self.generator}, seed {self.seed}, " + (
                f"truncation {self.truncation:g}" if self.truncation else "no truncation"
            )
            made += f", batch statistics over {self.standing} × 64" if self.standing else ", running batch statistics"
            made += f", classes {self.labels}, which the reference's are not" if self.labels else ""
        share = f"{self.reference_images:,}" + (f" of {self.reference_of:,}" if self.reference_of != self.reference_images else "")
        split = f", {self.split}" if self.split else ""
        colour = "grey" if self.channels == 1 else "colour"
        lines = [
            f"features   {self.features} {self.weights}, resize {self.resize}",
            f"reference  {self.reference}{split}: {share} images {self.reference_hash}",
            f"images     {self.resolution} px, {colour}, 8 bits; the centre of the reference by {self.filter}",
            f"samples    {self.samples:,}: {made}",
        ]
        return [shown(line) for line in lines]  # a file of vectors may come from a stranger


def differences(cards: Sequence[Card]) -> dict[str, list[Any]]:
    """The fields in which cards differ, with each one's value. What a reference is called does not matter: its hash does."""
    names = [field.name for field in fields(Card) if field.name != "reference"]
    found = {name: [getattr(card, name) for card in cards] for name in names}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


class Score(NamedTuple):
    """A number, its standard error by the method named in `how`, and which way is up."""

    name: str
    value: float
    error: float
    how: str
    better: str  # "lower" or "higher"

    def worded(self) -> str:
        """Value ± error to the error's second figure."""
        if not 0 < self.error < math.inf:
            return f"{self.value:.4g}"
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"


class Result(NamedTuple):
    """The scores of one run or folder."""

    name: str
    subject: dict[str, Any]  # which images: step and checkpoint of a run, fingerprint and sizes of a folder
    card: Card
    scores: list[Score]
    notes: list[str]
    classes: dict[str, float]  # the Fréchet distance within each class, where both sets have labels
    memorisation: str  # the verdict, or why there is none
    picture: np.ndarray | None = None  # of the samples nearest to training images
    real: bool = False  # held-out images, the floor: nobody's rival

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        scores = [score._asdict() | {"error": score.error if math.isfinite(score.error) else None} for score in self.scores]
        found = {"name": self.name, "subject": self.subject, "card": asdict(self.card), "scores": scores, "notes": self.notes}
        return found | {"classes": self.classes, "memorisation": self.memorisation, "real": self.real}


def plain_name(result: Result) -> str:
    """A name for files: the step of a run, or the name of a folder, and what tells it from others of that name."""
    subject = result.subject
    return f"step{subject['step']}" if "step" in subject else f"{subject['folder']}-{subject['hash'][:6]}"


def keep(file: Path, results: Sequence[Result]) -> None:
    """Write results into `scores.json`, in place of those of the same subjects and cards."""
    new = [result.plain() for result in results]
    same = [(entry["subject"], entry["card"]) for entry in new]
    with _alone(file):
        found = read(file)
        old = [entry for entry in found["scores"] if (entry.get("subject"), entry.get("card")) not in same]
        files.write_json(file, {**found, "scores": old + new})


def keep_protocol(file: Path, card: Card, names: Sequence[str]) -> None:
    """Write down how the scores in a run's log are made; the first of the names is that which the best step is known by."""
    with _alone(file):
        files.write_json(file, {**read(file), "training": {"card": asdict(card), "scores": list(names)}})


def best_of_training(file: Path) -> str:
    """The name in a run's log of the score that its best step is known by; empty where it never was scored."""
    found = read(file).get("training")
    names = found.get("scores") if isinstance(found, dict) else None
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold off other processes that write scores into this folder, for ten seconds at most."""
    end = time.monotonic() + 10
    with contextlib.ExitStack() as held:
        while True:
            try:
                what = f"{file} is being written by another process; say it again"
                held.enter_context(files.lock(file.with_name(f".{file.name}.lock"), what))
                break
            except UserError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield


def read(file: Path) -> dict[str, Any]:
    """What `scores.json` holds: `scores`, a list, and `training`. UserError where it is something else."""
    if not file.exists():
        return {"scores": []}
    if file.is_symlink():
        raise UserError(f"{file} is a link, which a run does not follow; put what it leads to in its place")
    found = files.read_json(file)
    entries = found.get("scores", []) if isinstance(found, dict) else None
    if not isinstance(entries, list) or any(not isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file} holds no scores; delete it, or name another file")
    return {**found, "scores": entries}
