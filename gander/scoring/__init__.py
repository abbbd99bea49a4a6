"""From a run or a folder of images to scores with a card: `score`. `watch.py` does the same, smaller, while a run trains."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gander.data import open_source
from gander.errors import UserError, unknown
from gander.metrics import inception
from gander.metrics.features import FEATURES, HINT, Features, features
from gander.probes import PROBES, Probe
from gander.run import Run
from gander.sampling import load_generator
from gander.scoring import compute, copies, learned, paths, subjects
from gander.scoring.card import Card, Result
from gander.scoring.measured import MOST, Measured
from gander.scoring.reference import Reference, of_data, of_file, source_of
from gander.scoring.subjects import Subject
from gander.train import checkpoint

SAMPLES = 10_000  # of a run, where no number is asked for
LEAST = 1_000  # images of a set that are scored without being asked for by number
FEWEST = 20  # that are scored at all


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
    """The features asked for, by a word or by a classifier's run; by default Inception where its weights are named or in the cache,
    else random-conv.
    """
    if name is None:
        name = "inception" if weights or resize or inception.at_hand() else "random-conv"
    if name in FEATURES:
        return features(name, weights, device, resize)
    if not Path(name).is_dir():
        raise UserError(f"{unknown('features', name, FEATURES)} (or the folder of a classifier's run)")
    for flag, given in (("--weights", weights), ("--resize", resize)):
        if given:
            raise UserError(f"{flag} {given} is of no use to the run {name}, which has its own; leave it out")
    return learned.features_of(name, device)


def hint(network: Features) -> str:
    """What would make the figures comparable with published ones; nothing where they are."""
    if network.reference:
        return ""
    why = "not the weights and the resize of published figures" if network.name == "inception" else ""
    why = why or FEATURES.get(network.name, "a classifier that was trained here; compare its figures with its own alone")
    named = "" if network.name in ("inception", "random-conv") else "--features inception "  # else --weights would be its own
    return f"{network.name}: {why}; {named}{HINT}"


def check(subjects_asked: Sequence[str], wanted: Wanted) -> None:
    """UserError for what is wrong with any of the subjects, or with what is asked, before any work is done."""
    runs = [where for where in subjects_asked if is_run(where)]
    for name, given, of in (
        ("--resolution", wanted.resolution is not None, "folders"),
        ("--step", wanted.step is not None, "runs"),
        ("--truncation", wanted.truncation is not None, "runs"),
        ("--seed", wanted.seed != 0, "runs"),
        ("--network", wanted.network != "ema", "runs"),
        ("--standing", wanted.standing != 8, "runs"),
        ("--recipe", wanted.recipe is not None, "runs"),
    ):
        if given and len(runs) == (len(subjects_asked) if of == "folders" else 0):
            raise UserError(f"{name} is for {of}, and there is none among {', '.join(subjects_asked)}; leave it out")
    if wanted.samples is not None and wanted.samples < FEWEST:
        raise UserError(f"--samples {wanted.samples} are too few for any score; take {FEWEST} or more")
    if wanted.truncation is not None and not 0 < wanted.truncation < float("inf"):
        raise UserError(f"truncation {wanted.truncation} is not over 0; 0.7 is a usual one")
    if wanted.standing < 0:
        raise UserError(f"--standing {wanted.standing} is no number of batches; 8 is usual, 0 takes the running statistics")
    of_vectors = wanted.data is not None and wanted.data.endswith(".safetensors")
    if of_vectors and wanted.split:
        raise UserError(f"--split {wanted.split} is for images, and {wanted.data} holds vectors of one split; leave it out")
    for where in subjects_asked:
        run = Run.open(where) if where in runs else None
        if run:
            checkpoint.find(run.checkpoints, wanted.step)
        elif not Path(where).expanduser().exists() and wanted.data is None:
            raise UserError(f"{where} does not exist; name a run, or a folder of images and real ones: --data FOLDER")
        elif wanted.data is None:
            raise UserError(f"{where} is no run, which would know its images; name the real ones: --data FOLDER")
        else:
            _enough(where, len(open_source(where)), wanted.samples)
        if not of_vectors and len(source := source_of(run, wanted.data, wanted.split)) < FEWEST:
            raise UserError(f"{source.where} has {len(source)} images to compare with, and a score needs {FEWEST}; give more")


def is_run(where: str) -> bool:
    return (Path(where) / "run.json").is_file()


def score(where: str, network: Features, wanted: Wanted) -> tuple[list[Result], Reference]:
    """Every score of a run's samples, or of a folder's images, against real images; with `floor` also what held-out ones get.

    What `check` sees was seen. UserError for what only the images tell, before any sample is drawn.
    """
    run = Run.open(where) if is_run(where) else None
    shared = of_file(Path(wanted.data), network) if wanted.data and wanted.data.endswith(".safetensors") else None
    if run:
        checkpointed: dict[str, Any] = {"step": wanted.step, "network": wanted.network, "standing": wanted.standing}
        generator, step = load_generator(run, **checkpointed, recipe=wanted.recipe, device=network.device)
        resolution, channels, count = generator.resolution, run.described["facts"].get("channels", 3), wanted.samples or SAMPLES
    else:
        dataset, notes = subjects.open_files(
            open_source(where), wanted.resolution or (shared.measured.facts["resolution"] if shared else None)
        )
        resolution, channels, count = dataset.resolution, 3, _enough(where, len(dataset), wanted.samples)
    reference = shared or of_data(run, wanted.data, wanted.split, resolution, channels, network)
    facts = reference.measured.facts
    if shared and run:
        trained = str(run.described.get("data", {}).get("fingerprint"))[:16] == facts["hash"]
        reference = replace(shared, trained=trained)
    if (facts["resolution"], facts["channels"]) != (resolution, channels):
        theirs, ours = (
            f"{side} px and {c} channels" for side, c in ((facts["resolution"], facts["channels"]), (resolution, channels))
        )
        raise UserError(f"{wanted.data} is of images of {theirs}, {where} of {ours}; make one like that")
    if wanted.samples is None and len(reference.measured) < LEAST:
        few = f"{wanted.data or facts['name']} has {len(reference.measured):,} images to compare with"
        raise UserError(
            f"{few}, where scores against fewer than {LEAST:,} say little; --samples {count} asks for them all the same"
        )
    if wanted.floor:
        if reference.held_out is None:
            raise UserError(f"--floor scores real images that were held out, and {reference.lacking}; name others: --data FOLDER")
        count = min(count, len(reference.held_out))  # a distance falls with the number of images: as many of both
    looked_at = count if _probe(facts) else copies.SUSPECTS
    if run:
        how: dict[str, Any] = {
            "seed": wanted.seed,
            "truncation": wanted.truncation,
            "kind": wanted.network,
            "standing": wanted.standing,
        }
        made = subjects.of_run(run, generator, step, count, network, looked_at=looked_at, **how)
    else:
        enlarged = reference.dataset.enlarged if reference.dataset else 0
        notes += [f"{enlarged:,} of {facts['of']:,} real images were enlarged to {resolution} px"] if enlarged else []
        made = subjects.of_files(where, dataset, notes, count, network, looked_at)
    if reference.part is not None:
        made.notes.append(f"trained on {len(reference.part):,} of these {facts['of']:,} images, scored against all of them")
    results = [_judged(made, reference, network)]
    if run:
        results[0].scores.extend(paths.length(generator, network, count, wanted.seed, wanted.truncation))
    if wanted.floor and reference.held_out is not None:
        name = f"real images ({facts['name']}, {reference.held_out.split})"
        real = subjects.of_files(name, reference.held_out, [], count, network, looked_at)
        results.append(_judged(real, reference, network, real=True))
    return results, reference


def _enough(where: str, there: int, asked: int | None) -> int:
    """How many of the images that are there to take. UserError where they are too few."""
    if there < FEWEST:
        raise UserError(f"{where} has {there:,} images, and a score needs {FEWEST}; give more")
    if asked is not None and asked > there:
        raise UserError(f"{where} has {there:,} images, fewer than the {asked:,} asked for; take --samples {there}")
    if asked is None and there < LEAST:
        advice = f"--samples {there} gives them all the same, with their errors"
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
        channels=facts["channels"],
        filter=facts["filter"],
        samples=samples,
        **made,
    )


def _judged(subject: Subject, reference: Reference, network: Features, real: bool = False) -> Result:
    measured, facts = reference.measured, reference.measured.facts
    labels, notes = _labels(subject, facts["classes"])
    of_real = measured.labels if labels is not None else None
    found = compute.all_scores(subject.vectors, labels, subject.logits, measured.vectors, of_real, network)
    if probe := _probe(facts):
        found.scores.extend(compute.grades(probe, subject.images, labels))
    verdict, picture = ("these are the held-out images", None) if real else copies.judged(subject, reference, network)
    made = dict(subject.made)
    if subject.made and labels is not None and _uneven(measured):
        made["labels"] = "in turn"
    card = card_of(measured, network, len(subject.vectors), **made)
    classes = {facts["classes"][label]: value for label, value in found.classes.items()}
    said = subject.notes + notes + found.notes
    return Result(subject.name, subject.facts, card, found.scores, said, classes, verdict, picture, real)


def _probe(facts: dict[str, Any]) -> Probe | None:
    """The probe that the reference is drawn by, where it can grade: in colour."""
    kind, _, name = facts["hash"].rpartition(":")[0].partition(":")
    return PROBES[name] if kind == "probe" and facts["channels"] == 3 else None


def _uneven(measured: Measured) -> bool:
    """Whether a class has half again as many images as another: samples whose labels go round are then of another law."""
    counts = np.bincount(measured.labels, minlength=len(measured.facts["classes"]))
    return bool(counts.max() > 1.5 * counts.min())


def _labels(subject: Subject, classes: list[str]) -> tuple[np.ndarray | None, list[str]]:
    """The subject's labels as numbers of the reference's classes; None, and why, where they are others."""
    if subject.labels is None or not classes:
        return None, []
    if odd := sorted(set(subject.classes) ^ set(classes)):
        return None, [f"no distance within classes: {odd[0]!r} is a class of one set only"]
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in subject.classes])[subject.labels], []
