"""What is compared: `--vary` -> arms, each with its knobs, its network's size and its folder's name; all of it checked first."""

import contextlib
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from gander import recipes
from gander.errors import UserError, unknown
from gander.estimate import worded
from gander.recipes import Knob, Recipe
from gander.recipes.experiment import Experiment, Facts

Vary = Mapping[str, Sequence[Any]] | Sequence[str]
FLAGS = {"fraction": Knob(float, 1.0, "of the images to train on")}  # of `train`, that may be varied as knobs are


class Arm(NamedTuple):
    """One of what is compared. `knobs` are all those that differ from the recipe's defaults, and what is varied."""

    name: str
    folder: str
    knobs: dict[str, Any]
    steps: int
    parameters: int
    images: int  # that a step takes
    fraction: float = 1.0  # of all images, that it is trained on


def varied(vary: Vary, known: Mapping[str, Knob]) -> dict[str, list[Any]]:
    """`attention=none,self` and the like -> {"attention": ["none", "self"]}, each value of its knob's type.

    A mapping, as Python gives it, is taken with its values as they are, but 1 is 1.0 for a knob of floats. UserError for
    a knob that the recipe has not, for fewer than two values, for one that stands there twice.
    """
    pairs: list[tuple[str, list[Any]]] = []
    if isinstance(vary, Mapping):
        pairs = [(name, list(values)) for name, values in vary.items()]
    else:
        if wrong := next((word for word in vary if "=" not in word), None):
            raise UserError(f"--vary {wrong} names no values; say it like --vary attention=none,self")
        pairs = [(word.partition("=")[0], [*word.partition("=")[2].split(",")]) for word in vary]
    found: dict[str, list[Any]] = {}
    for name, values in pairs:
        name = name.strip().replace("-", "_")
        if name not in known:
            raise unknown("knob", name, known)
        if name in found:
            raise UserError(f"--vary {name} is given twice; put all its values behind one, with commas")
        if not isinstance(vary, Mapping):
            if not all(value.strip() for value in values):
                raise UserError(f"--vary {name}={','.join(values)} has an empty value; put one on both sides of each comma")
            values = [_typed(name, known[name], value.strip()) for value in values]
        elif known[name].type is float:
            values = [float(value) if type(value) is int else value for value in values]  # 1 and 1.0 are one arm
        for i, value in enumerate(values):
            if value in values[:i]:
                raise UserError(f"--vary {name} has {worded(value)} twice, and the same arm twice tells nothing; name it once")
        if len(values) < 2:
            raise UserError(
                f"--vary {name}={','.join(map(worded, values))} leaves nothing to compare with; give two values or more"
            )
        found[name] = values
    if not found:
        raise UserError("nothing is varied; say what, like --vary attention=none,self")
    return found


def _typed(name: str, knob: Knob, word: str) -> Any:
    """One value as the command line reads it behind `--name`; one of several numbers has spaces between them."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(knob.type, args=word.split() or [""])
    except SystemExit:
        raise UserError(f"--vary {name}: {word!r} is not a value of this knob; its default is {worded(knob.default)}") from None


def arms(
    recipe: Recipe,
    facts: Facts,
    vary: Mapping[str, Sequence[Any]],
    given: Mapping[str, Any],
    *,
    same_parameters: bool = False,
    images: Callable[[float], int] | None = None,
) -> tuple[list[Arm], list[Experiment]]:
    """The grid of all values, the first arm being what the others are held against; and their experiments, on the meta device.

    UserError for what the recipe refuses of any arm. `images` tells how many a fraction of all is; by default each has those of the
    facts. `same_parameters` moves the knob `width` of the others so that their networks
    have as nearly as can be as many parameters as the first arm's.
    """
    known = recipes.knobs(recipe) | FLAGS
    for name in vary:
        if name in given and given[name] != known[name].default:
            raise UserError(f"{name} is both varied and set to {worded(given[name])}; leave one of them out")
    if same_parameters and "width" not in known:
        raise UserError("--equal parameters moves the knob `width`, which this recipe has not; take --equal steps or time")
    if same_parameters and "width" in vary:
        raise UserError("--equal parameters moves the width, which is varied; take --equal steps or time")
    made: list[Arm] = []
    trials: list[Experiment] = []
    for values in itertools.product(*vary.values()):
        chosen = dict(zip(vary, values, strict=True))
        knobs = {**given, **chosen}
        fraction = float(knobs.get("fraction", 1.0))
        resolved = recipes.resolve(recipe, {name: value for name, value in knobs.items() if name not in FLAGS})
        seen = replace(facts, num_images=images(fraction)) if images else facts
        trial = built(recipe, seen, resolved)
        count = parameters(trial)
        if made and same_parameters:
            knobs["width"], count = widened(recipe, seen, resolved, made[0].parameters)
        trials.append(trial)
        changed = {name: value for name, value in knobs.items() if value != known[name].default or name in vary}
        name, folder = _named(chosen), _folder(chosen, [arm.folder for arm in made])
        made.append(Arm(name, folder, changed, trial.steps, count, trial.batch * trial.learner.draws_per_step, fraction))
    return made, trials


def built(recipe: Recipe, facts: Facts, resolved: Mapping[str, Any]) -> Experiment:
    """The experiment without its numbers: all that can be wrong with the knobs is said here."""
    with torch.device("meta"):
        return recipe(facts, **resolved)


def parameters(trial: Experiment) -> int:
    """Of the networks that are trained; an average of one is none of them."""
    networks = [network for name, network in trial.networks.items() if not name.endswith("ema")]
    return sum(p.numel() for network in networks for p in network.parameters() if p.requires_grad)


def widened(recipe: Recipe, facts: Facts, resolved: Mapping[str, Any], target: int) -> tuple[int, int]:
    """(width, parameters) of the width that brings the networks nearest to `target`; widths that are refused are passed over."""
    width = resolved["width"]
    best = (width, parameters(built(recipe, facts, resolved)))
    way = 1 if best[1] < target else -1
    for other in range(width + 1, 4 * width + 1) if way > 0 else range(width - 1, 0, -1):
        try:
            count = parameters(built(recipe, facts, {**resolved, "width": other}))
        except UserError:
            continue
        if abs(count - target) < abs(best[1] - target):
            best = (other, count)
        if (count - target) * way >= 0:
            break
    return best


def words(name: str, value: Any) -> list[str]:
    """A knob or flag as it is typed: --width 8, --betas 0.0 0.9, --flip, --no-flip."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple | list) else [value])]


def _named(chosen: Mapping[str, Any]) -> str:
    """`self` where one knob of words is varied; else `width 16`, or `attention self, width 16`."""
    if len(chosen) == 1 and all(isinstance(value, str) for value in chosen.values()):
        return str(next(iter(chosen.values())))
    return ", ".join(f"{name} {worded(value)}" for name, value in chosen.items())


def _folder(chosen: Mapping[str, Any], taken: Sequence[str]) -> str:
    """A name for a folder, another for each arm."""
    name = re.sub(r"[^A-Za-z0-9_]+", "-", _named(chosen)).strip("-")[:60] or "arm"
    return name if name not in taken else f"{name}-{len(taken) + 1}"
