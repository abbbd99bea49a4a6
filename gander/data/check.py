"""What is there, before anything is trained on it: sizes, modes, classes, splits, broken files, duplicates, leaks."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gander.data import images
from gander.data.images import Broken
from gander.data.sources import Read, Source, open_source, reader
from gander.data.workers import Job, step_of, work
from gander.errors import UserError, shown

_SHOWN = 5  # names of a kind that a report prints


@dataclass(frozen=True)
class Report:
    """What `check` found; `str(report)` is for people. Names are those below the source, with their split before them."""

    name: str
    where: str
    kind: str
    count: int  # over all splits
    splits: dict[str, int]
    classes: dict[str, dict[str, int]]  # split (or "" where there are none) -> class -> images
    others: dict[str, int] = field(default_factory=dict)  # suffix -> files that are no images, and passed over
    widths: tuple[int, int, int] | None = None  # least, median, most
    heights: tuple[int, int, int] | None = None
    short_sides: tuple[int, int, int] | None = None
    not_square: float = 0.0  # share of the images
    formats: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)  # name -> what is wrong
    duplicates: tuple[tuple[str, ...], ...] = ()  # groups of images with the same pixels
    leaks: tuple[tuple[str, ...], ...] = ()  # those of them that lie in several splits
    conflicts: tuple[tuple[str, ...], ...] = ()  # those of them that have several labels
    resolution: int | None = None  # a suggestion

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def check(
    where: Source | str | Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    stopped: Callable[[], bool] | None = None,
) -> Report:
    """Decode every image of every split and tell what is there; nothing is written.

    Of a probe and of tables (parquet, Hub) only the listing is told. Duplicates are images whose decoded pixels are equal,
    whatever their files; a leak is a duplicate in two splits. Raises UserError as `open_source` does.
    """
    first = where if isinstance(where, Source) else open_source(where)
    parts = [first if split == first.split else open_source(first.where, split=split) for split in first.splits] or [first]
    told = Report(
        name=first.name,
        where=first.where,
        kind=first.kind,
        count=sum(map(len, parts)),
        splits={str(part.split): len(part) for part in parts if part.split is not None},
        classes={part.split or "": _count_classes(part) for part in parts if part.classes and part.entries},
        others=dict(first.others),
    )
    return told if first.kind in ("probe", "rows") else _looked_at(told, parts, workers, progress, stopped)


def sizes(source: Source) -> Counter[tuple[int, int]]:
    """How many images have which (width, height), by their headers; those that cannot be read are left out.

    UserError where none can be read.
    """
    found = Counter[tuple[int, int]]()
    with reader(source.kind, source.root, source.rows) as read:
        for entry in source.entries:
            with contextlib.suppress(Broken):
                found[images.size(read(entry.path))] += 1
    if not found:
        raise UserError(f"none of the {len(source):,} images of {source.where} can be read; gander check tells more")
    return found


def look(read: Read, job: Job) -> list:
    """The task of a worker: the facts of each image of a job, or in words what is wrong with it."""
    found: list[list | str] = []
    for path in job["paths"]:
        try:
            found.append(list(images.inspect(read(path))))
        except Broken as broken:
            found.append(shown(str(broken)))
    return found


def _looked_at(
    told: Report, parts: list[Source], workers: int | None, progress: bool, stopped: Callable[[], bool] | None
) -> Report:
    facts: dict[str, images.Facts] = {}
    splits: dict[str, str | None] = {}
    labels: dict[str, int] = {}
    broken: dict[str, str] = {}
    bar = tqdm(total=told.count, desc=f"checking {told.name}", unit=" images", disable=None if progress else True, leave=False)
    with bar:
        for part in parts:
            step = step_of(part)
            jobs: list[Job] = [
                {"start": start, "paths": [entry.path for entry in part.entries[start : start + step]]}
                for start in range(0, len(part), step)
            ]
            with contextlib.closing(work(look, part, jobs, workers, stopped)) as done:
                for job, answer in done:
                    for entry, found in zip(part.entries[job["start"] :], answer, strict=False):
                        name = f"{part.split}/{entry.name}" if part.split else entry.name
                        splits[name] = part.split
                        if part.classes:
                            labels[name] = entry.label
                        if isinstance(found, str):
                            broken[name] = found
                        else:
                            facts[name] = images.Facts(*found)
                    bar.update(len(answer))
    sizes = np.array([(fact.width, fact.height) for fact in facts.values()]).reshape(-1, 2)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(facts):
        groups[facts[name].digest].append(name)
    duplicates = sorted(tuple(names) for names in groups.values() if len(names) > 1)
    return Report(
        **{name: getattr(told, name) for name in ("name", "where", "kind", "count", "splits", "classes", "others")},
        widths=_spread(sizes[:, 0]),
        heights=_spread(sizes[:, 1]),
        short_sides=_spread(sizes.min(1)) if len(sizes) else None,
        not_square=float((sizes[:, 0] != sizes[:, 1]).mean()) if len(sizes) else 0.0,
        formats=dict(Counter(fact.format for fact in facts.values()).most_common()),
        modes=dict(Counter(fact.mode for fact in facts.values()).most_common()),
        broken=dict(sorted(broken.items())),
        duplicates=tuple(duplicates),
        leaks=tuple(names for names in duplicates if len({splits[name] for name in names}) > 1),
        conflicts=tuple(names for names in duplicates if len({labels[name] for name in names if name in labels}) > 1),
        resolution=suggest(sizes.min(1)) if len(sizes) else None,
    )


def suggest(short_sides: np.ndarray) -> int:
    """The largest power of two, from 16 to 256, to which 95 % of the images need be enlarged by a quarter at most."""
    reach = 1.25 * float(np.quantile(short_sides, 0.05))
    return int(np.clip(2 ** np.floor(np.log2(reach)), 16, 256))


def _count_classes(part: Source) -> dict[str, int]:
    counts = Counter(entry.label for entry in part.entries)
    return {name: counts[label] for label, name in enumerate(part.classes)}


def _spread(values: np.ndarray) -> tuple[int, int, int] | None:
    return (int(values.min()), int(np.median(values)), int(values.max())) if len(values) else None


def _lines(report: Report) -> list[str]:
    lines = [f"{report.where}: {report.count:,} images ({_KINDS[report.kind]})"]
    width = max([11, *(len(f"{split} classes") for split in report.classes)]) + 2

    def tell(word: str, text: str) -> None:
        lines.append(f"  {word:<{width}}{text}")

    if report.splits:
        tell("splits", ", ".join(f"{name} {count:,}" for name, count in report.splits.items()))
    for split, classes in report.classes.items():
        tell(f"{split} classes".strip(), _classes(classes))
    if not report.classes and report.kind != "probe":
        tell("classes", "none: the images have no labels")
    if report.short_sides and report.widths and report.heights:
        low, middle, high = zip(report.widths, report.heights, strict=True)
        tell("size", f"{_by(low)} px" if low == high else f"{_by(low)} to {_by(high)} px, median {_by(middle)}")
        tell("square", "all" if not report.not_square else f"{1 - report.not_square:.0%}; the others are cut at their long side")
        tell("formats", ", ".join(f"{name} {count:,}" for name, count in report.formats.items()))
        tell("modes", ", ".join(f"{name} {count:,}" for name, count in report.modes.items()))
    if report.others:
        tell("passed over", ", ".join(f"{count:,} {suffix}" for suffix, count in list(report.others.items())[:8]))
    if report.kind in ("folder", "zip"):
        tell("broken", f"{len(report.broken):,}" if report.broken else "none")
        few = list(report.broken.items())[:_SHOWN]
        lines += [f"    {shown(name)} {reason}" for name, reason in few] + _more(len(report.broken))
        again = sum(len(names) - 1 for names in report.duplicates)
        tell("duplicates", f"{_many(again, 'file')} with the pixels of another" if again else "none")
        lines += _groups(report.duplicates)
        if len(report.splits) > 1:
            tell("leaks", f"{_many(len(report.leaks), 'picture')} in several splits" if report.leaks else "none")
            lines += _groups(report.leaks)
        if report.conflicts:
            tell("conflicts", f"{_many(len(report.conflicts), 'picture')} with several labels")
            lines += _groups(report.conflicts)
    if report.resolution:
        tell("suggestion", f"--resolution {report.resolution}")
    return lines


_KINDS = {"folder": "a folder", "zip": "a zip", "rows": "a table; not looked into", "probe": "a probe: drawn, not stored"}


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count > 1 else "")


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(f"{side:,}" for side in size)


def _classes(classes: dict[str, int]) -> str:
    if len(set(classes.values())) == 1:
        names = ", ".join(shown(name) for name in classes) if len(classes) <= 12 else f"{shown(next(iter(classes)))}, ..."
        return f"{len(classes)}, {next(iter(classes.values())):,} images each: {names}"
    order = sorted(classes.items(), key=lambda item: -item[1])
    few = ", ".join(f"{shown(name)} {count:,}" for name, count in (order if len(order) <= 12 else order[:3]))
    return f"{len(order)}: {few}" + ("" if len(order) <= 12 else f", ... {shown(order[-1][0])} {order[-1][1]:,}")


def _groups(groups: tuple[tuple[str, ...], ...]) -> list[str]:
    return [f"    {' = '.join(shown(name) for name in names[:3])}" for names in groups[:_SHOWN]] + _more(len(groups))


def _more(count: int) -> list[str]:
    return [f"    ... and {count - _SHOWN:,} more"] if count > _SHOWN else []
