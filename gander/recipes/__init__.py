"""One readable file a system: the only room where all others meet. A recipe's arguments are its knobs, its body is wiring.

`RECIPES` is a list to read: importing it imports no recipe. A recipe of your own is a file with a function `recipe` in it
(`gander cp sagan mine.py` makes one), trained by `gander train ./mine.py`.
"""

import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from gander.errors import UserError, unknown

if TYPE_CHECKING:
    from gander.recipes.experiment import Experiment
    from gander.run import Run

RECIPES = {
    "all_attention": "no convolution: a deep stack of attention over latent tokens, against a vision transformer",
    "all_attention_pyramid": "no convolution: attention from 8×8 pixels up, against a vision transformer",
    "attention_classifier": "a classifier of attention alone: a vision transformer, trained by the lesson of imagewoof",
    "autoencoder": "an auto-encoder of DCGAN's networks, with attention where you ask for it; judged by held-out PSNR",
    "dcgan": "DCGAN: strided convolutions and batch norm; the plain baseline, with attention where you ask for it",
    "imagenette": "the recipe imagewoof for Imagenette, ten easy classes of ImageNet",
    "imagewoof": "an xresnet that learns labels, with attention anywhere in it: SimpleSelfAttention's experiment",
    "locate": "LocAtE, mended: features weighed by where they are, RootTanh, consistency; unconditional, 16 to 1024 px",
    "locate_faithful": "LocAtE v1.3 as its author left it, with gradients that are right",
    "pixel_discriminator": "no convolution: a discriminator that says where, of each pixel and in boxes",
    "sagan": "the SAGAN of Thalles Silva's article: unconditional, small, one attention layer in each network",
    "sagan_official": "the SAGAN of its authors: residual blocks, conditional, projection discriminator",
}

Recipe = Callable[..., "Experiment"]
LARGEST = 2**31 - 1  # of a knob that is a whole number: what any tensor takes as a size


class Knob(NamedTuple):
    type: Any
    default: Any
    help: str


def load(name: str) -> Recipe:
    """The recipe of this name, or of this file (`./mine.py`). UserError where there is none."""
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return importlib.import_module(f"gander.recipes.{name}").recipe


def _from_file(file: Path) -> Recipe:
    if not file.is_file():
        raise UserError(f"no recipe file {file}; `gander cp sagan {file.name}` makes one to start from")
    spec = importlib.util.spec_from_file_location(f"gander_recipe_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, "recipe", None)):
        raise UserError(f"{file} has no function `recipe(facts, *, ...) -> Experiment`; `gander cp sagan FILE` shows one")
    return module.recipe


def knobs(recipe: Recipe) -> dict[str, Knob]:
    """The keyword arguments of a recipe with type, default, and the reason that its docstring gives."""
    hints, helps = get_type_hints(recipe), arguments(recipe.__doc__ or "")
    parameters = list(inspect.signature(recipe).parameters.values())[1:]
    return {p.name: Knob(hints.get(p.name, str), p.default, helps.get(p.name, "")) for p in parameters}


def resolve(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every knob with its value: as given, else its default. UserError for a name that the recipe has not."""
    known = knobs(recipe)
    for name in given:
        if name not in known:
            raise unknown("knob", name, known)
    resolved = {name: given.get(name, knob.default) for name, knob in known.items()}
    for name, knob in known.items():
        _check(name, knob, resolved[name])
    return resolved


def _check(name: str, knob: Knob, value: Any) -> None:
    """UserError for a value that no knob of this kind can have, whatever the recipe."""
    if get_origin(knob.type) is Literal:
        if value not in get_args(knob.type):
            raise unknown(name, str(value), map(str, get_args(knob.type)))
    elif type(knob.default) is int and knob.default >= 1:
        if type(value) is not int or value < 1:
            raise UserError(f"{name} {value!r} is not a whole number from 1 on; its default is {knob.default}")
        if value > LARGEST:
            raise UserError(f"{name} {value:,} is over {LARGEST:,}; its default is {knob.default}")
    elif type(knob.default) is float and not (isinstance(value, int | float) and 0 <= value < math.inf):
        raise UserError(f"{name} {value!r} is not a number from 0 on; its default is {knob.default}")


def rebuild(run: "Run", recipe_file: str | None = None) -> "Experiment":
    """The experiment of a run, made again from its knobs and facts; weights are not loaded.

    A run folder by itself never makes code run: that of a recipe of the user's own is named again. UserError where it is not.
    """
    from gander.recipes.experiment import Facts

    name = run.described["recipe"]
    if not isinstance(name, str):
        raise UserError(f"{run.folder}/run.json names no recipe but {name!r}; restore it from a copy")
    if name.endswith(".py") and recipe_file is None:
        raise UserError(f"{run.folder} was made by a recipe of your own; name it again: --recipe ./{name}")
    recipe = load(recipe_file or name)
    try:
        facts = Facts(**run.described["facts"])
        return recipe(facts, **{key: as_typed(value) for key, value in resolve(recipe, run.described["knobs"]).items()})
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{run.folder}/run.json does not fit the recipe {name} ({error}); restore it from a copy") from None


def as_typed(value: Any) -> Any:
    """JSON has no tuples: its lists are knobs that were tuples."""
    return tuple(value) if isinstance(value, list) else value


def arguments(docstring: str) -> dict[str, str]:
    """The `Args:` of a docstring: name -> its lines as one."""
    _, _, section = inspect.cleandoc(docstring).partition("\nArgs:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
