"""Words -> verbs. A verb's flags are its function's keyword arguments, and its recipe's."""

import contextlib
import dataclasses
import inspect
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from gander import __version__
from gander.errors import UserError, shown, unknown
from gander.recipes import RECIPES

# Kept here so that `gander --help` loads nothing; a test holds them against gander.verbs.
VERBS = {
    "ls": "the recipes",
    "show": "a recipe's knobs with their reasons, its networks' sizes, what a step costs here",
    "train": "train a recipe on a folder of images, or go on with a run",
    "sample": "images from a trained run: a sheet, files, a film strip, a GIF",
    "score": "how good a run's samples are: Fréchet and kernel distance, precision and recall, memorisation",
    "look": "where a run's attention layers look, on samples and real images; the film of its training",
    "report": "one HTML file of a run, or of several side by side: to look at, to mail, to print",
    "serve": "a live page of a run: samples, the way between them, where attention looks",
    "predict": "labels and probabilities that a classifier gives a folder of images, as a table",
    "lr": "how high a learning rate a classifier or auto-encoder bears: a picture and a suggestion",
    "compare": "does a knob matter? train every arm over several seeds, test the differences, say it plainly",
    "check": "what is in a folder, zip or data set of images",
    "cp": "copy a recipe to a file of your own",
    "doctor": "what works on this machine",
}
WITH_KNOBS = ("train", "show", "lr", "compare")
REPEATED = ("vary",)  # flags that may be given several times
_NO_MEMORY = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")  # how torch says it of a CPU


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a mistake that a person can mend, 130 or 143 for a stop that was asked."""
    words = list(sys.argv[1:] if words is None else words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that has no γ shall still show the rest
    try:
        return _run(words)
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        print("gander: stopped at once; what was saved before is whole", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, without loading torch
            return _complain("the device's memory is full; take a smaller --batch, or cut it by --accumulate 2, 4, ...")
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            return _complain("that takes more memory than there is here; take a smaller network, batch or image")
        raise
    except BrokenPipeError:  # `gander ls | head`
        sys.stderr.close()
        return 1 if words[:1] == ["train"] else 0
    except OSError as error:
        if error.errno is None or not error.strerror:
            raise
        what = f" ({error.filename})" if error.filename else ""
        return _complain(f"{error.strerror}{what}; nothing that was saved before is lost")


def _complain(line: str) -> int:
    print(f"gander: {shown(line)}", file=sys.stderr)
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
    parameters = list(inspect.signature(function).parameters.values())
    given, words = _positional(verb, [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD], words)
    several: list[str] = []
    while words and not words[0].startswith("-") and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        several.append(words.pop(0))
    knobs = _knobs(given["recipe"]) if verb in WITH_KNOBS else {}
    places = several or [f"{p.name.upper()} ..." for p in parameters if p.kind is p.VAR_POSITIONAL]
    program = f"gander {verb} {' '.join([*given.values(), *places])}".strip()
    flags = _flags(function)
    if verb == "compare":  # all that train is told may stand there, but for what the runs differ in
        flags = {name: flag for name, flag in _flags(verbs.train).items() if name not in ("run", "seed")} | flags
    values = _parse(program, function, flags, knobs, words)
    outcome = function(*given.values(), *several, **values)
    return 128 + stopped if (stopped := getattr(outcome, "signal", 0)) else 0


def _overview() -> str:
    verbs = "\n".join(f"  {name:8} {sentence}" for name, sentence in VERBS.items())
    return f"gander {__version__}: attention in image models\n\n{verbs}\n\nRecipes:\n{_recipes()}\n\ngander VERB --help tells more."


def _recipes() -> str:
    return "\n".join(f"  {name:22} {sentence}" for name, sentence in RECIPES.items())


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


Flag = tuple[Any, Any, str]  # type, default, help


def _flags(function: Callable) -> dict[str, Flag]:
    """The keyword-only arguments of a verb."""
    from gander import recipes

    hints, helps = get_type_hints(function), recipes.arguments(function.__doc__ or "")
    options = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return {p.name: (_in_words(hints[p.name]), p.default, helps.get(p.name, "")) for p in options}


def _in_words(kind: Any) -> Any:
    """The part of a type that can be typed: `Sequence[str] | Mapping[...]` is words; a mapping is for Python."""
    return tuple[str, ...] if any(get_origin(part) is Mapping for part in get_args(kind)) else kind


def _knobs(recipe: str) -> dict[str, Flag]:
    from gander import recipes

    return dict(recipes.knobs(recipes.load(recipe)))


def _parse(program: str, function: Callable, flags: dict[str, Flag], knobs: dict[str, Flag], words: list[str]) -> dict[str, Any]:
    import tyro

    known = {f"--{name.replace('_', '-')}" for name in flags | knobs}
    known |= {f"--no-{name.replace('_', '-')}" for name, (kind, _, _) in (flags | knobs).items() if kind is bool}
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known and flag != "--help":
            raise unknown("knob" if knobs else "flag", flag, known)
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    for name, (_, default, text) in flags.items():
        if default is inspect.Parameter.empty and f"--{name}" not in given and not given & {"-h", "--help"}:
            raise UserError(f"{program} needs --{name}: {text}")
    groups = [("command", _made("command", flags)), *([("knob", _made("knob", knobs))] if knobs else [])]
    both = dataclasses.make_dataclass("Flags", groups)
    both.__doc__ = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: Any = tyro.cli(both, args=words, prog=program, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UserError(_one_line(complaint.getvalue(), program)) from None
    return {
        name: getattr(getattr(parsed, group), name)
        for group, made in groups
        for name in [field.name for field in dataclasses.fields(made)]
    }


def _made(name: str, fields: dict[str, Flag]) -> type:
    """A dataclass whose fields are the flags: what tyro reads."""
    import tyro

    required = inspect.Parameter.empty
    return dataclasses.make_dataclass(
        name,
        [
            (key, Annotated[_repeated(kind) if key in REPEATED else kind, tyro.conf.arg(help=text, metavar=_metavar(kind))])
            + ((dataclasses.field(default=default),) if default is not required else ())
            for key, (kind, default, text) in sorted(fields.items(), key=lambda item: item[1][1] is not required)
        ],
    )


def _repeated(kind: Any) -> Any:
    """Of a flag that may be given several times."""
    import tyro

    return Annotated[kind, tyro.conf.UseAppendAction]


def _metavar(kind: Any) -> str | None:
    """INT for `int | None`, {a,b} for `Literal["a", "b"] | None`, where tyro would write {None}|INT; its own word for the rest."""
    kinds = [k for k in get_args(kind) if k is not type(None)]
    if type(None) not in get_args(kind) or len(kinds) != 1:
        return None
    if get_origin(kinds[0]) is Literal:
        return "{" + ",".join(map(str, get_args(kinds[0]))) + "}"
    return "INT [INT ...]" if get_args(kinds[0]) else kinds[0].__name__.upper()


def _one_line(complaint: str, program: str) -> str:
    """The parser's boxed complaint as one line, without its title and its copy of the help."""
    words = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    lines = [re.sub(r"[│╭╮╰╯─]+", " ", line).strip() for line in words.splitlines()]
    text = " ".join(line for line in lines[1:] if line and not line.startswith("For full helptext"))
    text = text.partition("Argument helptext:")[0].replace(f"{program} --help", "").strip()
    return f"{text.removeprefix('Error parsing ')}; `{program} --help` tells more"


if __name__ == "__main__":
    raise SystemExit(main())
