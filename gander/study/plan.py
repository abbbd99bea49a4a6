"""What was asked of a study, checked before any run: the arms, the images, what every run is told, what it is judged by."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gander import distributed, recipes, training
from gander.data.sources import share
from gander.errors import UserError
from gander.metrics import inception
from gander.recipes.experiment import Experiment, Facts
from gander.run import Outcome, circumstances
from gander.scoring import FEWEST
from gander.study import arms as of
from gander.train import precision as precisions

OWN = ("data", "run", "seed")  # flags of `train` that a study gives its runs itself
KEPT = ("score_every", "score_features", "precision")  # that it tells them in its own way
# Flags that may be others when a study goes on: they change no number.
FREE = ("device", "workers", "log_every", "save_every", "sample_every", "keep_every", "tensorboard")


class Plan(NamedTuple):
    recipe: str
    data: str
    equal: str
    vary: dict[str, list[Any]]
    given: dict[str, Any]  # knobs of all arms
    flags: dict[str, Any]  # of `train`
    precision: str | None  # of all runs; None where machines that are not seen from here shall choose
    first: training.Plan  # of a run of the first arm, with all images
    arms: list[of.Arm]
    trials: list[Experiment]  # of each arm, on the meta device
    asked: dict[str, Any]  # what makes it this study and no other, but for the images

    @property
    def game(self) -> bool:
        """Whether samples are scored; else what was learnt is examined."""
        return hasattr(self.first.trial.learner, "sampler")

    @property
    def probe(self) -> str | None:
        """Whose grades a run's log has: they are of images in colour."""
        source = self.first.source
        return source.name if source.probe and self.flags["channels"] == 3 else None

    @property
    def features(self) -> str:
        return self.flags["score_features"] or ("inception" if inception.at_hand() else "random-conv")

    @property
    def classes(self) -> int:
        """That a classifier tells apart; 0 for what learns without labels."""
        return self.first.source.num_classes if self.first.trial.labelled else 0

    def train(self, arm: Mapping[str, Any], kept: Mapping[str, Any], **last: Any) -> list[str]:
        """The words of a run of this arm, with features and precision as study.json has them; `last` comes after all others."""
        flags = {name: value for name, value in self.flags.items() if value != options()[name] and name not in KEPT}
        flags |= {**arm["knobs"], **last}
        if kept.get("precision"):
            flags["precision"] = kept["precision"]
        if self.game and "score_every" not in flags:
            flags["score_every"] = self.flags["score_every"] or arm["steps"]  # by default the last step alone
        if self.game and flags["score_every"]:
            flags["score_features"] = kept["features"]
        said = [word for name, value in flags.items() for word in of.words(name, value)]
        return ["train", self.recipe, "--data", self.data, *said]


def options() -> dict[str, Any]:
    """The flags of `train` that `compare` takes too, with their defaults."""
    parameters = inspect.signature(training.train).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in OWN}


def made_of(
    recipe: str,
    data: str,
    vary: of.Vary,
    more: Mapping[str, Any],
    *,
    equal: str,
    outcome: str | None,
    elsewhere: bool,
) -> Plan:
    """The plan, or UserError with the line that `train` would give of any arm. `more` are flags and knobs of `train`; `elsewhere`:
    on machines whose devices are not seen from here."""
    defaults = options()
    flags = {name: more.get(name, default) for name, default in defaults.items()}
    given = {name: value for name, value in more.items() if name not in defaults}
    training.check_flags(*(flags[name] for name in ("log_every", "save_every", "score_every", "init", "tensorboard")))
    known = recipes.knobs(recipes.load(recipe)) | of.FLAGS
    varied = of.varied(vary, known)
    if equal == "time" and "steps" in varied:
        raise UserError("--equal time sets the steps, which are varied; take --equal steps")
    if elsewhere:
        precision = flags["precision"] and precisions.resolve(flags["precision"], torch.device("cpu"))
    else:
        precision = precisions.resolve(flags["precision"], distributed.device(flags["device"]))
    where = None if elsewhere else flags["device"]
    knobs = {**given, **{name: values[0] for name, values in varied.items() if name not in of.FLAGS}}
    scored = flags["score_every"] > 0
    first = training.planned(recipe, knobs, data, flags["split"], flags["channels"], where, scored=scored)
    asked = {
        "recipe": Path(recipe).name,
        "data": first.source.name,
        "vary": varied,
        "knobs": {name: value for name, value in given.items() if value != known[name].default},
        "flags": {name: value for name, value in flags.items() if name not in FREE and value != defaults[name]},
        "equal": equal,
        "outcome": outcome,
    }
    plan = Plan(recipe, data, equal, varied, given, flags, precision, first, [], [], asked)
    if not plan.game and not hasattr(first.trial.learner, "examine"):
        raise UserError(f"{recipe} makes no samples to score, and is not examined: there is nothing to judge its runs by")
    if plan.game and len(first.source) < FEWEST:
        raise UserError(f"{len(first.source)} images are too few to score samples against, which takes {FEWEST}; give more")
    return _with_arms(plan, lambda fraction: len(share(first.source, fraction)), first.source.num_classes)


def decoded(plan: Plan, seeds: int, say: Callable[[str], None]) -> dict[str, Any] | int:
    """study.json as it begins, once every image is decoded as the arms want it; the signal where one stopped that."""
    wanted = {name: plan.flags[name] for name in ("channels", "workers", "allow_broken")} | {"progress": True}
    sides: dict[tuple[float, int], Experiment] = {}
    for arm, trial in zip(plan.arms, plan.trials, strict=True):
        for fraction in (1.0, arm.fraction):  # all of them, which samples are scored against, and what the arm is trained on
            sides.setdefault((fraction, trial.side or trial.resolution), trial)
    each: dict[float, training.Decoded] = {}
    for (fraction, _), trial in sides.items():
        source = share(plan.first.source, fraction)
        found = training.decoded(plan.first._replace(trial=trial, source=source), wanted)
        if isinstance(found, Outcome):
            return found.signal
        each.setdefault(fraction, found)
    dataset, held_out = each[1.0].dataset, each[1.0].held_out
    # of fewer images, where some are broken
    plan = _with_arms(plan, lambda fraction: len(each[fraction].dataset), dataset.num_classes)
    for note in training.notes(dataset, held_out):
        say(f"note: {note}")
    for arm in plan.arms[1:] if plan.equal == "parameters" else []:
        width = arm.knobs.get("width", recipes.knobs(plan.first.function)["width"].default)
        named = f"{plan.arms[0].name} has {plan.arms[0].parameters:,}"
        say(f"{arm.name}: {arm.parameters:,} parameters at width {width}; {named}")
    parts = {"images": dataset, "held_out": held_out}
    images = {name: {"count": len(part), "fingerprint": part.fingerprint} for name, part in parts.items() if part}
    return {
        "plan": {**plan.asked, **images},
        **circumstances(),
        "features": plan.features,
        "precision": plan.precision,
        "arms": [arm._asdict() | {"fingerprint": each[arm.fraction].dataset.fingerprint} for arm in plan.arms],
        "asked": [seeds],
        "runs": [
            {"arm": arm.name, "seed": seed, "folder": f"runs/{arm.folder}-seed{seed}", "state": "waiting", "died": 0}
            for seed in range(seeds)
            for arm in plan.arms
        ],
    }


def _with_arms(plan: Plan, images: Callable[[float], int], classes: int) -> Plan:
    """The plan with the arms that so many images of each fraction make. UserError for what is wrong with any of them."""
    facts, same = Facts(images(1.0), classes, plan.flags["channels"]), plan.equal == "parameters"
    given = plan.given | {name: plan.flags[name] for name in of.FLAGS}
    arms, trials = of.arms(plan.first.function, facts, plan.vary, given, same_parameters=same, images=images)
    for arm, trial in zip(arms, trials, strict=True):
        training.check_batch(trial, images(arm.fraction), arm.fraction)
        distributed.check_batch(trial.batch, trial.learner.accumulate)
    return plan._replace(arms=arms, trials=trials)
