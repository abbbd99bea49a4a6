"""From a run or a folder of images to scores with a card: `score`. `watch.py` does the same, smaller, while a run trains."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gander.errors import UserError
from gander.metrics import inception
from gander.metrics.features import FEATURES, HINT, Features, features
from gander.probes import PROBES
from gander.run import Run
from gander.sampling import load_generator
from gander.scoring import compute, copies, subjects
from gander.scoring.card import Card, Result
from gander.scoring.measured import MOST, Measured
from gander.scoring.reference import Reference, of_data, of_file
from gander.scoring.subjects import Subject

SAMPLES = 10_000  # of a run, where no number is asked for
LEAST = 1_000  # images of a set that are scored without being asked for by number


class Wanted(NamedTuple):
    """What is asked of a score; `gander.verbs.score` tells what each is."""

    data: str | None = None
    split: str | None = None
    samples: int | None = None
    resolution: int | None = None
    seed: int = 0
    truncation: float | None = None
    step: int | None = None
    network: str = "ema"
    standing: int = 8
    floor: bool = False
    recipe: str | None = None


def features_for(device: torch.device, name: str | None = None, weights: str | None = None, resize: str | None = None) -> Features:
    """The features asked for; by default Inception where its weights are named or in the cache, else random-conv."""
    if name is None:
        name = "inception" if weights or resize or inception.at_hand() else "random-conv"
    return features(name, weights, device, resize)


def hint(network: Features) -> str:
    """What would make the figures comparable with published ones; nothing where they are."""
    if network.reference:
        return ""
    why = "not the weights and the resize of published figures" if network.name == "inception" else FEATURES[network.name]
    named = "--features inception " if network.name == "dinov2" else ""  # else --weights would be its own
    return f"{network.name}: {why}; {named}{HINT}"


def score(where: str, network: Features, wanted: Wanted) -> tuple[list[Result], Reference]:
    """Every score of a run's samples, or of a folder's images, against real images; with `floor` also what held-out ones get.

    UserError for what cannot be scored, before any sample is drawn.
    """
    if wanted.samples is not None and wanted.samples < 2 * compute.BLOCKS:
        raise UserError(f"--samples {wanted.samples} are too few for any score; take {2 * compute.BLOCKS} or more")
    run = Run.open(where) if (Path(where) / "run.json").is_file() else None
    if run is None and wanted.data is None:
        if not Path(where).exists():
            raise UserError(f"{where} does not exist; name a run, or a folder of images and real ones: --data FOLDER")
        raise UserError(f"{where} is no run, which would know its images; name the real ones: --data FOLDER")
    shared = of_file(Path(wanted.data), network) if wanted.data and wanted.data.endswith(".safetensors") else None
    if run:
        checkpointed: dict[str, Any] = {
            "step": wanted.step,
            "network": wanted.network,
            "standing": wanted.standing,
            "recipe": wanted.recipe,
        }
        generator, step = load_generator(run, **checkpointed, device=network.device)
        resolution, channels, count = generator.resolution, run.described["facts"].get("channels", 3), wanted.samples or SAMPLES
    else:
        dataset, sides = subjects.open_files(where, wanted.resolution or (shared.measured.facts["resolution"] if shared else None))
        resolution, channels, count = dataset.resolution, 3, _enough(where, len(dataset), wanted.samples)
    reference = shared or of_data(run, wanted.data, wanted.split, resolution, channels, network)
    facts = reference.measured.facts
    if facts["resolution"] != resolution:
        raise UserError(f"{wanted.data} is of {facts['resolution']} px images, {where} of {resolution} px; make one of that size")
    if wanted.samples is None:
        _enough(wanted.data or facts["name"], len(reference.measured), None)
    if wanted.floor and reference.held_out is None:
        raise UserError(f"--floor scores real images that were held out, and {reference.lacking}; name others: --data FOLDER")
    if run:
        how = {"seed": wanted.seed, "truncation": wanted.truncation}
        made = subjects.of_run(run, generator, step, count, network, wanted.network, wanted.standing, **how)
    else:
        made = subjects.of_files(dataset, sides, count, network)
    results = [_judged(made, reference, network)]
    if wanted.floor and reference.held_out is not None:
        results.append(_judged(subjects.of_files(reference.held_out, Counter(), count, network), reference, network, real=True))
    return results, reference


def _enough(where: str, there: int, asked: int | None) -> int:
    """How many of the images that are there to take. UserError where they are too few."""
    if asked is not None and asked > there:
        raise UserError(f"{where} has {there:,} images, fewer than the {asked:,} asked for; take --samples {there}")
    if asked is None and there < LEAST:
        advice = f"--samples {there} gives them all the same, with their errors" if there >= 2 * compute.BLOCKS else "give more"
        raise UserError(f"{where} has {there:,} images, where scores of fewer than {LEAST:,} say little; {advice}")
    return asked or min(there, MOST)


def card_of(measured: Measured, network: Features, samples: int, **made) -> Card:
    """The card of scores against these real images. `made` tells how samples were made."""
    facts = measured.facts
    return Card(
        features=network.name,
        weights=network.hash[:16],
        resize=network.resize,
        reference=facts["name"],
        split=facts["split"],
        reference_hash=facts["hash"],
        reference_images=len(measured),
        reference_of=facts["of"],
        resolution=facts["resolution"],
        filter=facts["filter"],
        samples=samples,
        **made,
    )


def _judged(subject: Subject, reference: Reference, network: Features, real: bool = False) -> Result:
    measured, facts = reference.measured, reference.measured.facts
    labels, notes = _labels(subject, facts["classes"])
    of_real = measured.labels if labels is not None else None
    found = compute.all_scores(subject.vectors, labels, subject.logits, measured.vectors, of_real, network)
    if facts["hash"].startswith("probe:") and subject.images.shape[3] == 3:
        found.scores.extend(compute.grades(PROBES[facts["name"]], subject.images, labels))
    verdict, picture = ("these are the held-out images", None) if real else copies.judged(subject, reference, network)
    card = card_of(measured, network, len(subject.vectors), **subject.made)
    classes = {facts["classes"][label]: value for label, value in found.classes.items()}
    name = f"real images ({facts['name']}, {subject.facts['split']})" if real else subject.name
    said = subject.notes + notes + found.notes
    return Result(name, subject.facts, card, found.scores, said, classes, verdict, picture, real)


def _labels(subject: Subject, classes: list[str]) -> tuple[np.ndarray | None, list[str]]:
    """The subject's labels as numbers of the reference's classes; None, and why, where they are others."""
    if subject.labels is None or not classes:
        return None, []
    if odd := sorted(set(subject.classes) ^ set(classes)):
        return None, [f"no distance within classes: {odd[0]!r} is a class of one set only"]
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in subject.classes])[subject.labels], []
