"""Words -> verbs. A verb's flags are its function's keyword arguments, and its recipe's."""

import contextlib
import dataclasses
import inspect
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_type_hints

from gander import __version__
from gander.errors import UserError, unknown
from gander.recipes import RECIPES

# Kept here so that `gander --help` loads nothing; a test holds them against gander.verbs.
VERBS = {
    "ls": "the recipes",
    "show": "a recipe's knobs with their reasons, its networks' sizes, what a step costs here",
    "train": "train a recipe on a folder of images, or go on with a run",
    "sample": "images from a trained run: a sheet, files, a film strip, a GIF",
    "check": "what is in a folder, zip or data set of images",
    "cp": "copy a recipe to a file of your own",
    "doctor": "what works on this machine",
}
WITH_KNOBS = ("train", "show")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a mistake that a person can mend, 130 or 143 for a stop that was asked."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _run(words)
    except UserError as error:
        print(f"gander: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gander: stopped at once; the last checkpoint is whole", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `gander ls | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno is None or not error.strerror:
            raise
        what = f" ({error.filename})" if error.filename else ""
        print(f"gander: {error.strerror}{what}; nothing that was saved before is lost", file=sys.stderr)
        return 2


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"gander {__version__}")
        return 0
    verb, *words = words
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    if verb in WITH_KNOBS and words in (["-h"], ["--help"]):
        print(f"gander {verb} RECIPE [flags]: {VERBS[verb]}\n\nRecipes:\n{_recipes()}\n\nFlags: gander {verb} RECIPE --help")
        return 0
    from gander import verbs

    function = verbs.VERBS[verb]
    places = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    given, words = _positional(verb, places, words)
    fields = _fields(function, given.get("recipe") if verb in WITH_KNOBS else None)
    values = _parse(f"gander {verb} {' '.join(given.values())}".strip(), function, fields, words)
    outcome = function(**given, **values)
    return 128 + outcome.signal if verb == "train" and outcome.signal else 0


def _overview() -> str:
    verbs = "\n".join(f"  {name:8} {sentence}" for name, sentence in VERBS.items())
    return f"gander {__version__}: attention in image models\n\n{verbs}\n\nRecipes:\n{_recipes()}\n\ngander VERB --help tells more."


def _recipes() -> str:
    return "\n".join(f"  {name:15} {sentence}" for name, sentence in RECIPES.items())


def _positional(verb: str, names: list[str], words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The words that have no flag, by the names of the verb's arguments; and the rest."""
    given: dict[str, str] = {}
    rest = list(words)
    for name in names:
        if rest and not rest[0].startswith("-"):
            given[name] = rest.pop(0)
        elif not {"-h", "--help"} & set(rest):
            raise UserError(f"gander {verb} wants a {name} first: gander {verb} {' '.join(map(str.upper, names))}")
        else:
            given[name] = name.upper()
    return given, rest


def _fields(function: Callable, recipe: str | None) -> dict[str, tuple[Any, Any, str]]:
    """Flag name -> (type, default, help), of the verb and of the recipe."""
    from gander import recipes

    hints, helps = get_type_hints(function), recipes._arguments(function.__doc__ or "")
    options = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    fields = {p.name: (hints[p.name], p.default, helps.get(p.name, "")) for p in options}
    if recipe is not None:
        fields |= recipes.knobs(recipes.load(recipe))
    return fields


def _parse(program: str, function: Callable, fields: dict[str, tuple[Any, Any, str]], words: list[str]) -> dict[str, Any]:
    import tyro

    flags = {f"--{name.replace('_', '-')}" for name in fields}
    flags |= {f"--no-{name.replace('_', '-')}" for name, (kind, _, _) in fields.items() if kind is bool}
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in flags and flag != "--help":
            raise unknown("knob" if "recipe" in program or len(fields) > 12 else "flag", flag, flags)
    made = dataclasses.make_dataclass(
        "Flags",
        [
            (name, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(default=default))
            if default is not inspect.Parameter.empty
            else (name, Annotated[kind, tyro.conf.arg(help=text)])
            for name, (kind, default, text) in sorted(fields.items(), key=lambda item: item[1][1] is not inspect.Parameter.empty)
        ],
    )
    made.__doc__ = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            flags_given = tyro.cli(made, args=words, prog=program, config=(tyro.conf.FlagConversionOff,) if False else ())
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UserError(_one_line(complaint.getvalue())) from None
    return {name: getattr(flags_given, name) for name in fields}


def _one_line(complaint: str) -> str:
    """The parser's boxed complaint as one line."""
    words = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    lines = [re.sub(r"[│╭╮╰╯─]+", " ", line).strip() for line in words.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("Parsing error", "For full helptext")))


if __name__ == "__main__":
    raise SystemExit(main())
