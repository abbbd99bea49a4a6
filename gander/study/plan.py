"""What was asked of a study, checked before any run: the arms, the images, what every run is told, what it is judged by."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gander import distributed, recipes
from gander.data import open_source
from gander.data.held_out import beside, check_labels
from gander.data.sources import Source
from gander.errors import UserError
from gander.metrics import inception
from gander.recipes.experiment import Experiment, Facts
from gander.run import circumstances
from gander.scoring import FEWEST
from gander.study import arms as of
from gander.study import outcome as outcomes
from gander.train import precision as precisions
from gander.training import train

OWN = ("data", "run", "seed")  # flags of `train` that a study gives its runs itself
# Flags that may be others when a study goes on: they change no number.
FREE = ("device", "workers", "log_every", "save_every", "sample_every", "keep_every", "tensorboard")


class Plan(NamedTuple):
    recipe: str
    data: str
    source: Source
    held_out: Source | None  # what a learner that makes no samples is examined on
    vary: dict[str, list[Any]]
    flags: dict[str, Any]  # of `train`
    words: list[str]  # behind `gander train RECIPE --data DATA`, for all arms
    trial: Experiment  # of the first arm, on the meta device
    game: bool  # its samples are scored; else what it learnt is examined
    probe: str | None
    described: dict[str, Any]  # as study.json begins

    def train(self, arm: Mapping[str, Any], features: str, **last: Any) -> list[str]:
        """The words of a run of this arm; the knobs and flags in `last` come after all others."""
        flags = {**arm["knobs"], **last}
        if self.game and "score_every" not in flags:
            flags["score_every"] = self.flags["score_every"] or arm["steps"]  # by default the last step alone
        if self.game and flags["score_every"]:
            flags["score_features"] = features
        said = [word for name, value in flags.items() for word in of.words(name, value)]
        return ["train", self.recipe, "--data", self.data, *self.words, *said]


def options() -> dict[str, Any]:
    """The flags of `train` that `compare` takes too, with their defaults."""
    parameters = inspect.signature(train).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in OWN}


def made_of(
    recipe: str,
    data: str,
    vary: of.Vary,
    more: Mapping[str, Any],
    *,
    seeds: int,
    equal: str,
    outcome: str | None,
    elsewhere: bool,
    say: Callable[[str], None],
) -> Plan:
    """The plan, or UserError with the line that `train` would give. `more` are flags and knobs of `train`; `elsewhere`: on machines
    whose devices are not seen from here."""
    defaults = options()
    flags = {name: more.get(name, default) for name, default in defaults.items()}
    given = {name: value for name, value in more.items() if name not in defaults}
    function = recipes.load(recipe)
    known = recipes.knobs(function)
    recipes.resolve(function, given)
    varied = of.varied(vary, known)
    if equal == "time" and "steps" in varied:
        raise UserError("--equal time sets the steps, which are varied; take --equal steps")
    if not elsewhere:
        precisions.resolve(flags["precision"], distributed.device(flags["device"]))
    source, held_out = open_source(data, split=flags["split"]), None

    def tried() -> tuple[list[of.Arm], Experiment]:
        facts = Facts(len(source), source.num_classes, flags["channels"])
        return of.arms(function, facts, varied, given, same_parameters=equal == "parameters")

    arms, trial = tried()
    game, probe = hasattr(trial.learner, "sampler"), source.name if source.probe else None
    if hasattr(trial.learner, "examine"):
        source, held_out = beside(source)
        if trial.labelled:
            check_labels(source)
        arms, trial = tried()  # of fewer images, where some were set aside
    elif not game:
        raise UserError(f"{recipe} makes no samples to score, and is not examined: there is nothing to judge its runs by")
    if trial.batch > len(source):
        raise UserError(f"{len(source):,} images are fewer than a batch of {trial.batch}; take --batch {len(source)} or less")
    if game and len(source) < FEWEST:
        raise UserError(f"{len(source)} images are too few to score samples against, which takes {FEWEST}; give more")
    if flags["score_every"] and not game:
        raise UserError(f"{recipe} makes no samples that could be scored; leave --score-every out")
    outcomes.check(outcome, game, probe)
    for arm in arms[1:] if equal == "parameters" else []:
        said = f"{arm.parameters:,} parameters at width {arm.knobs.get('width', known['width'].default)}"
        say(f"{arm.name}: {said}; {arms[0].name} has {arms[0].parameters:,}")
    passed = {name: value for name, value in flags.items() if value != defaults[name] and not name.startswith("score_")}
    words = [word for name, value in passed.items() for word in of.words(name, value)]
    described = {
        "plan": {
            "recipe": Path(recipe).name,
            "data": source.name,
            "vary": varied,
            "knobs": {name: value for name, value in given.items() if value != known[name].default},
            "flags": {name: value for name, value in flags.items() if name not in FREE and value != defaults[name]},
            "equal": equal,
            "outcome": outcome,
        },
        **circumstances(),
        "features": flags["score_features"] or ("inception" if inception.at_hand() else "random-conv"),
        "arms": [arm._asdict() for arm in arms],
        "asked": [seeds],
        "runs": [
            {"arm": arm.name, "seed": seed, "folder": f"runs/{arm.folder}-seed{seed}", "state": "waiting", "died": 0}
            for seed in range(seeds)
            for arm in arms
        ],
    }
    return Plan(recipe, data, source, held_out, varied, flags, words, trial, game, probe, described)
