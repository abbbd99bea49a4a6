"""Run folders -> one HTML file: what was gathered, in the template, with its style and script inside."""

import base64
import contextlib
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from gander import __version__
from gander.errors import UserError
from gander.files import write_atomic
from gander.report import looked
from gander.report.curves import charted
from gander.report.gather import Gathered, gather, words
from gander.report.pictures import Picture, encoded, frames, opened

HERE = Path(__file__).parent
LARGEST = 10_000_000  # bytes of a page
FRAMES = 40  # of the slider, all runs together
FRAMES_BYTES, PICTURES_BYTES, MAPS_BYTES = 2_600_000, 1_000_000, 3_600_000  # of files, of files, of text
MOST_RUNS = 12
OUTCOMES = ("steps", "last scores", "time", "speed", "machine")  # facts that runs side by side are held against each other by
MOST_CLASSES = 25  # of a table of confusions
ABOUT = {
    "interpolation": "Between samples",
    "classes": "Samples of each class",
    "nearest": "Nearest training images",
}


def write(
    folders: Sequence[str | Path],
    out: Path,
    *,
    defaults: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[Sequence[str]] = (),
) -> int:
    """One page of all the runs in these folders, at `out`; its size in bytes.

    Args:
        defaults: for each run those of its recipe's knobs, which the page holds its own against; none where they are not known.
        notes: for each run sentences that its part of the page shall say.

    Raises:
        UserError: for a folder that is no run; for more runs than a page can hold.
    """
    if len(folders) > MOST_RUNS:
        raise UserError(f"{len(folders)} runs are too many for a page; name {MOST_RUNS} or fewer")
    runs = [gather(folder) for folder in folders]
    _named(runs)
    for run, said in zip(runs, notes, strict=False):
        run.notes += [words(sentence) for sentence in said]
    text = rendered(runs, [dict(found) for found in defaults] or [{} for _ in runs]).encode()
    if len(text) > LARGEST:
        raise UserError(f"a page of these {len(runs)} runs takes {len(text) / 1e6:.1f} MB, over {LARGEST / 1e6:.0f}; name fewer")
    write_atomic(out, text)
    return len(text)


def rendered(runs: Sequence[Gathered], defaults: Sequence[Mapping[str, Any]]) -> str:
    """The page."""
    style, script = (_read(name) for name in ("style.css", "script.js"))
    explored = _explored(runs)
    tracks = _tracks(runs)
    values: dict[str, Any] = {
        "title": runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side",
        "runs": runs,
        "one": runs[0] if len(runs) == 1 else None,
        "knobs": [_knobs(run, known) for run, known in zip(runs, defaults, strict=True)],
        "commands": [_command(run, known) for run, known in zip(runs, defaults, strict=True)],
        "differing": _differing(runs),
        "outcomes": [
            (name, [run.facts.get(name, "–") for run in runs]) for name in OUTCOMES if any(name in run.facts for run in runs)
        ],
        "tracks": tracks,
        "pictures": _pictures(runs),
        "groups": [(group.title, [(Markup(chart.svg), chart.says) for chart in group.charts]) for group in charted(runs)],
        "tables": [_scores(run) for run in runs],
        "confusions": [_confusion(run) for run in runs],
        "explored": explored,
        "notes": [(run.name, note) for run in runs for note in run.notes],
        "version": __version__,
        "style": Markup(style),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "data": htmlsafe_json_dumps(
            {"tracks": [{**track, "last": 0} for track in tracks], "explored": explored}, separators=(",", ":")
        ),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("page.html")).render(values)


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _named(runs: Sequence[Gathered]) -> None:
    """Runs of one name get their number behind it."""
    names = [run.name for run in runs]
    for number, run in enumerate(runs, 1):
        if names.count(run.name) > 1:
            run.name = f"{run.name} ({number})"


def _knobs(run: Gathered, defaults: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """(name, value, default where it is another), those that differ first."""
    known = {name: words(list(value) if isinstance(value, tuple) else value) for name, value in defaults.items()}
    listed = [(name, value, known[name] if known.get(name, value) != value else None) for name, value in run.knobs.items()]
    return sorted(listed, key=lambda knob: knob[2] is None)


def _command(run: Gathered, defaults: Mapping[str, Any]) -> str:
    """What to say to make the run again: as it was said, where that was on the command line by itself."""
    with contextlib.suppress(ValueError):  # quoted anew: what is copied into a shell is one command of words
        if run.command.startswith("gander train ") and not run.command.endswith("…"):
            return shlex.join(shlex.split(run.command))
    changed = [(name, value) for name, value, default in _knobs(run, defaults) if default is not None or not defaults]
    flags = [part for name, value in changed for part in _flag(name, value)]
    return shlex.join(["gander", "train", run.recipe, "--data", run.where, "--seed", run.facts["seed"], *flags])


def _flag(name: str, value: str) -> list[str]:
    flag = name.replace("_", "-")
    if value in ("yes", "no"):
        return [f"--{flag}" if value == "yes" else f"--no-{flag}"]
    return [] if value == "none" else [f"--{flag}", *value.split()]


def _differing(runs: Sequence[Gathered]) -> list[tuple[str, list[str]]]:
    """In what the runs differ: (name, the value of each)."""
    found = [{"recipe": run.recipe, "data": run.data, "seed": run.facts.get("seed", ""), **run.knobs} for run in runs]
    names = dict.fromkeys(name for knobs in found for name in knobs)
    rows = [(name, [knobs.get(name, "–") for knobs in found]) for name in names]
    return [row for row in rows if any(value != row[1][0] for value in row[1])]


def _tracks(runs: Sequence[Gathered]) -> list[dict[str, Any]]:
    """The grids of samples of each run, by step, for the slider; the last is an image of the page."""
    there, found = [run for run in runs if run.grids], []
    for run in there:
        shown = frames(run.grids, max(2, FRAMES // len(there)), FRAMES_BYTES // len(there))
        if shown:
            pictures = list(shown.values())
            sources = [picture.src for picture in pictures]
            found.append({"name": run.name, "steps": list(shown), "frames": sources[:-1], "last": pictures[-1]})
    return found


def _pictures(runs: Sequence[Gathered]) -> list[tuple[str, str, list[tuple[str, str, list[str], Picture]]]]:
    """Those that were made beside the grids: (kind, title, [(run, step, its classes, picture)])."""
    files = [(kind, run, run.pictures[kind]) for kind in ABOUT for run in runs if kind in run.pictures]
    most = PICTURES_BYTES // max(1, len(files))
    shown: dict[str, list[tuple[str, str, list[str], Picture]]] = {}
    for kind, run, file in files:
        if image := opened(file):
            step = re.search(r"step(\d{1,12})", file.name)
            said = f"step {int(step[1]):,}" if step else ""
            shown.setdefault(kind, []).append((run.name, said, run.classes[:20], encoded(image, most)))
    return [(kind, ABOUT[kind], found) for kind, found in shown.items()]


def _explored(runs: Sequence[Gathered]) -> list[dict[str, Any]]:
    """The maps of each run, as long as all together fit."""
    found, left = [], MAPS_BYTES
    for run in runs:
        try:
            maps = looked.read(run.folder)
        except UserError as error:
            run.notes.append(words(error))
            continue
        if maps is None:
            continue
        run.notes += maps.pop("notes")
        size = len(htmlsafe_json_dumps(maps, separators=(",", ":")))
        if size > left:
            run.notes.append(f"its maps of attention are too large to stand beside the others: gander report {words(run.folder)}")
            continue
        left -= size
        found.append({"run": run.name, **maps})
    return found


def _scores(run: Gathered) -> dict[str, Any]:
    """The kept scores of a run side by side, and in what their cards differ."""
    entries = run.entries[:6]
    rivals = [entry.card for entry in entries if not entry.real]
    fields = dict.fromkeys(name for card in rivals for name in card if name != "reference")
    differ = [name for name in fields if len({card.get(name) for card in rivals}) > 1]
    names = dict.fromkeys(name for entry in entries for name in entry.scores)
    rows = []
    for name in names:
        _, better, how = next(entry.scores[name] for entry in entries if name in entry.scores)
        rows.append((name, [entry.scores[name][0] if name in entry.scores else "–" for entry in entries], better, how))
    return {"run": run.name, "entries": entries, "rows": rows, "differ": differ, "protocol": run.protocol}


def _confusion(run: Gathered) -> dict[str, Any] | None:
    """The table of an exam, each count with its share of its row, and the pairs that are taken for each other most."""
    exam = run.exam
    if exam is None:
        return None
    names, totals = exam.classes, [max(1, sum(row)) for row in exam.counts]
    wrong = [(row[j], i, j) for i, row in enumerate(exam.counts) for j in range(len(row)) if i != j and row[j]]
    pairs = [
        (names[i], names[j], count, f"{count / totals[i]:.0%}") for count, i, j in sorted(wrong, key=lambda pair: -pair[0])[:10]
    ]
    rows = []
    if len(names) <= MOST_CLASSES:
        for i, row in enumerate(exam.counts):
            rows.append((names[i], [(count, f"{count / totals[i]:.2f}", i == j) for j, count in enumerate(row)]))
    right = sum(exam.counts[i][i] for i in range(len(names))) / max(1, sum(map(sum, exam.counts)))
    return {"run": run.name, "about": exam.about, "names": names, "rows": rows, "pairs": pairs, "right": f"{right:.1%}"}
