"""What a run folder holds, as far as a page shows it: text of bounded length and finite numbers, whatever the files say."""

import contextlib
import csv
import heapq
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from gander.errors import UserError, shown
from gander.files import read_json
from gander.run import Run

MOST_LINES, MOST_SERIES, MOST_POINTS = 1_000_000, 300, 5_000  # of a log
HUGE = 1e100
MOST_ITEMS, MOST_LETTERS = 120, 400  # of what is listed, and of one of its words
MISTAKES = 20

Series = dict[str, list[tuple[float, float]]]


@dataclass
class Entry:
    """One set of scores with its card."""

    name: str
    step: float
    scores: dict[str, tuple[str, str, str]]  # name -> value ± error, which way is better, how it was found
    card: dict[str, str]
    remarks: list[str]
    real: bool


@dataclass
class Exam:
    """What a classifier made of its held-out images."""

    about: str
    classes: list[str]
    counts: list[list[int]]  # a row a class, a column for what it was called


@dataclass
class Gathered:
    """A run as a page shows it."""

    folder: Path
    name: str
    recipe: str
    data: str
    where: str  # the data are, as the command said it
    steps: int = 0  # that it shall take; 0 where run.json does not say
    step: int = 0  # that it came to
    seconds: float = 0.0
    knobs: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    command: str = ""
    classes: list[str] = field(default_factory=list)
    epoch: float = 0.0  # steps of one; 0 where it cannot be told
    series: Series = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    protocol: dict[str, str] = field(default_factory=dict)  # the card of the scores in the log
    exam: Exam | None = None
    mistakes: list[dict[str, str]] = field(default_factory=list)
    grids: dict[int, Path] = field(default_factory=dict)  # by step
    pictures: dict[str, Path] = field(default_factory=dict)  # nearest, interpolation, classes: the newest of each
    notes: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        if self.steps and self.step >= self.steps:
            return f"finished, {self.step:,} steps"
        of = f" of {self.steps:,}" if self.steps else ""
        return f"step {self.step:,}{of}: stopped, or still training"


def words(value: Any, most: int = MOST_LETTERS) -> str:
    """Any value of JSON on one bounded line that can be printed; what was a tuple by its parts."""
    if isinstance(value, list):
        value = " ".join(f"{item}" for item in value[:MOST_ITEMS])
    text = "none" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value}"
    text = shown(text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def worded(values: Any) -> dict[str, str]:
    """A mapping of JSON as words, of at most MOST_ITEMS."""
    return {words(key): words(value) for key, value in list(_mapping(values).items())[:MOST_ITEMS]}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """A number that can be drawn: finite, and of a size that sums and ratios of such keep. Else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= HUGE:
        return None
    return float(value) if abs(value) >= 1 / HUGE else 0.0


def gather(folder: str | Path) -> Gathered:
    """All that the run folder holds. UserError where it is none; what is damaged in it is left out, and a note says so."""
    run = Run.open(folder)
    told, knobs = run.described, run.described["knobs"]
    data = _mapping(told.get("data"))
    found = Gathered(
        folder=run.folder,
        name=words(run.folder.resolve().name),
        recipe=words(told["recipe"]),
        data=words(data.get("name", "")),
        where=words(data.get("where") or data.get("name") or "DATA"),
        knobs=worded(knobs),
        command=words(told.get("command") or "", 4_000),
        classes=[words(name, 80) for name in told.get("classes", [])],
    )
    times = _log(run, found)
    found.seconds = _seconds(times)
    batch, images = number(knobs.get("batch")) or 0.0, number(told["facts"].get("num_images")) or 0.0
    found.epoch = float(images // batch) if batch >= 1 else 0.0
    found.steps = int(number(knobs.get("steps")) or found.epoch * (number(knobs.get("epochs")) or 0))
    found.facts = _facts(told, data, found)
    for part in (_scores, _exam, _mistakes, _files):
        try:
            part(run, found)
        except (UserError, OSError, ValueError, csv.Error) as error:
            found.notes.append(words(error))
    return found


def _log(run: Run, found: Gathered) -> list[float]:
    """Put the log's numbers into `series`; the times of its lines."""
    times = []
    try:
        for count, line in enumerate(run.logged()):
            if count == MOST_LINES:
                raise UserError(f"{run.log_file} has more than {MOST_LINES:,} lines; the rest of them is not shown")
            step = number(line.get("step"))
            if step is None:
                continue
            found.step = max(found.step, int(step))
            times += [t] if (t := number(line.get("time"))) is not None else []
            for name, value in line.items():
                if name in ("step", "time") or (value := number(value)) is None:
                    continue
                name = words(name, 120)
                if name in found.series or len(found.series) < MOST_SERIES:
                    points = found.series.setdefault(name, [])
                    points.append((step, value))
                    if len(points) >= MOST_POINTS:
                        del points[1::2]
    except (UserError, OSError) as error:
        found.notes.append(words(error))
    return times


def _seconds(times: list[float]) -> float:
    """Between the first and the last line, without pauses: gaps of over ten times the usual one."""
    gaps = sorted(b - a for a, b in itertools.pairwise(times) if b > a)
    usual = gaps[len(gaps) // 2] if gaps else 0.0
    return float(sum(gap for gap in gaps if gap <= 10 * usual))


def _facts(told: Mapping[str, Any], data: Mapping[str, Any], found: Gathered) -> dict[str, str]:
    facts = {name: number(told["facts"].get(name)) or 0 for name in ("num_images", "num_classes", "channels")}
    said = f"{words(data.get('name', 'unknown'))}, {facts['num_images']:,.0f} images"
    said += f", {facts['num_classes']:,.0f} classes" if facts["num_classes"] else ", no classes"
    said += f", split {words(data['split'])}" if data.get("split") else ""
    said += f", a fraction of {words(told['fraction'])}" if told.get("fraction", 1) != 1 else ""
    said += ", grey" if facts["channels"] == 1 else ""
    speed = [value for _, value in found.series.get("images_per_second", [])]
    held = _mapping(told.get("held_out"))
    listed = {
        "recipe": found.recipe,
        "data": said,
        "held out": f"{words(held['count'])} images, {words(held.get('split', ''))}" if held.get("count") else "",
        "fingerprint of the data": words(data.get("fingerprint", ""), 24),
        "seed": words(told.get("seed")),
        "steps": found.state,
        "last scores": _last(found.series),
        "time": f"{_span(found.seconds)} of training" if found.seconds else "",
        "speed": f"{sorted(speed)[len(speed) // 2]:,.0f} images/s" if speed else "",
        "device": ", ".join(words(told[name]) for name in ("device", "precision") if told.get(name)),
        "machine": words(told.get("machine") or ""),
        "versions": ", ".join(f"{name} {value}" for name, value in worded(told.get("versions")).items()),
        "begun": words(told.get("created") or ""),
        "weights from": words(told.get("init") or ""),
    }
    return {name: value for name, value in listed.items() if value}


def _last(series: Series) -> str:
    """The newest of the scores, exams and grades in the log."""
    apart = ("gamma/", "sigma/", "variety/")
    names = [name for name in series if "/" in name and not name.startswith(apart) and not name.endswith(" error")][:6]
    said = []
    for name in names:
        errors = dict(series.get(f"{name} error", ()))
        step, value = series[name][-1]
        said.append(f"{name.partition('/')[2].replace('_', ' ')} {plus_minus(value, errors.get(step))}")
    return ", ".join(said)


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def plain_file(path: Path) -> bool:
    """Is there a file, and no link? Links could lead out of the run."""
    return path.is_file() and not path.is_symlink()


def _scores(run: Run, found: Gathered) -> None:
    file = run.folder / "scores.json"
    if not plain_file(file):
        return
    told = read_json(file)
    if not isinstance(told, dict):
        raise UserError(f"{file} holds no scores, so none are shown")
    found.protocol = _card(_mapping(told.get("training")).get("card"))
    entries = told.get("scores")
    for entry in entries[-40:] if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("scores"), list):
            found.entries.append(_entry(entry))
    found.entries.sort(key=lambda entry: (entry.real, -entry.step))


def _entry(told: Mapping[str, Any]) -> Entry:
    scores = {}
    for score in told["scores"][:MOST_ITEMS]:
        if isinstance(score, dict) and (value := number(score.get("value"))) is not None:
            better = "lower" if score.get("better") == "lower" else "higher"
            scores[words(score.get("name"))] = (plus_minus(value, number(score.get("error"))), better, words(score.get("how")))
    remarks = [words(told["memorisation"])] if told.get("memorisation") else []
    classes = _mapping(told.get("classes")).items()
    if worst := sorted(((number(value) or 0.0, words(name, 80)) for name, value in classes), reverse=True)[:10]:
        remarks.append("Within classes, worst first: " + ", ".join(f"{name} {value:.3g}" for value, name in worst) + ".")
    notes = told.get("notes")
    remarks += [words(note) for note in notes[:20]] if isinstance(notes, list) else []
    step = number(_mapping(told.get("subject")).get("step")) or 0.0
    return Entry(words(told.get("name")), step, scores, _card(told.get("card")), remarks, told.get("real") is True)


def _card(told: Any) -> dict[str, str]:
    return {name.replace("_", " "): value for name, value in worded(told).items() if value != "none"}


def plus_minus(value: float, error: float | None) -> str:
    """Value ± error to the error's second figure."""
    if not error or error < 0:
        return f"{value:.4g}"
    digits = max(0, min(12, 1 - math.floor(math.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _exam(run: Run, found: Gathered) -> None:
    file = run.folder / "exam.json"
    if not plain_file(file):
        return
    told = read_json(file)
    classes, counts = (told.get("classes"), told.get("counts")) if isinstance(told, dict) else (None, None)
    if not isinstance(counts, list) or not counts:
        return
    k = len(counts)
    if (
        not isinstance(classes, list)
        or len(classes) != k
        or any(not isinstance(row, list) or len(row) != k or any(number(n) is None for n in row) for row in counts)
    ):
        raise UserError(f"{file} holds no table of {k} classes by {k}, so none is shown")
    about = f"{words(told.get('images'))} held-out images ({words(told.get('split'))}) at step {words(told.get('step'))}"
    found.exam = Exam(about, [words(name, 80) for name in classes], [[int(n) for n in row] for row in counts])


def _mistakes(run: Run, found: Gathered) -> None:
    """The mistakes made with most confidence, of a predictions.csv that has the columns file, label, predicted and probability."""
    file = run.folder / "predictions.csv"
    if not plain_file(file) or file.stat().st_size > 64 << 20:
        return
    with file.open(newline="", encoding="utf-8", errors="replace") as lines:
        wrong = (row for row in _rows(lines) if row["label"] and row["label"] != row["predicted"])
        most = heapq.nlargest(MISTAKES, wrong, key=lambda row: float(row["probability"]))
    for row in most:
        share = f"{float(row['probability']):.1%}"
        found.mistakes.append({name: words(row[name]) for name in ("file", "label", "predicted")} | {"share": share})


def _rows(lines: TextIO) -> Iterator[dict[str, str]]:
    for row in csv.DictReader(lines):
        with contextlib.suppress(TypeError, ValueError):
            if math.isfinite(float(row.get("probability") or "nan")) and {"file", "label", "predicted"} <= row.keys():
                yield row


def _files(run: Run, found: Gathered) -> None:
    if run.samples.is_dir():
        found.grids = {int(f.stem): f for f in sorted(run.samples.glob("[0-9]" * 8 + ".png")) if plain_file(f)}
    for name, place, pattern in (
        ("nearest", run.samples, "nearest-*.png"),
        ("interpolation", run.folder / "look", "interpolation-step*.png"),
        ("classes", run.folder / "look", "classes-step*.png"),
    ):
        there = [f for f in place.glob(pattern) if plain_file(f)] if place.is_dir() else []
        if there:
            found.pictures[name] = max(there, key=lambda f: (f.stat().st_mtime, f.name))
