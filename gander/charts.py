"""Numbers -> inline SVG: `lines` over steps, `dots` of many runs. No script, no network; light, dark and print by CSS.

An SVG is a string that can stand in a page or in a file of its own. Colours are those of Okabe and Ito, which colour-blind eyes
tell apart, and never the only sign: lines also differ in their dashes, rows of dots in their place. What is no finite number is
not drawn.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

Number = int | float

MOST = 1_000  # points of a line
LETTER = 6.6  # px, of the labels
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#aa3f8a", "#8a6d00", "#56a0c9", "#444444")
DARK = ("#56b4e9", "#ff9248", "#2fc79a", "#e29ac4", "#e6c229", "#9ad0f0", "#bbbbbb")
DASHES = ("", "7 3", "2 3", "9 3 2 3")


def _colours(values: Sequence[str], ink: str, faint: str) -> str:
    return f"--ink:{ink};--faint:{faint};" + "".join(f"--c{i}:{value};" for i, value in enumerate(values))


STYLE = (
    f".chart{{{_colours(LIGHT, '#222', '#ddd')}max-width:100%;height:auto;font:12px system-ui,sans-serif}}"
    f"@media(prefers-color-scheme:dark){{.chart{{{_colours(DARK, '#ddd', '#444')}}}}}"
    f"@media print{{.chart{{{_colours(LIGHT, '#000', '#ccc')}break-inside:avoid}}}}"
    ".chart text{fill:var(--ink)}.chart .name{font-weight:600}.chart .grid{stroke:var(--faint)}"
    ".chart .mean,.chart .zero{stroke:var(--ink);stroke-width:1.5;fill:none}.chart .zero{stroke-dasharray:4 3}"
    ".chart .line{fill:none;stroke-width:1.8;stroke-linejoin:round}.chart .dot{fill-opacity:.55}.chart .band{fill-opacity:.18}"
    ".chart .failed{fill:none;stroke-width:1.5}"
    + "".join(f".chart .c{i}{{stroke:var(--c{i})}}.chart .f{i}{{fill:var(--c{i})}}" for i in range(len(LIGHT)))
)


class Axis(NamedTuple):
    """Values from `low` to `high` on the pixels from `start` to `end`; `log` is to base 10."""

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[Number], start: Number, end: Number, *, log: bool = False, room: float = 0.04) -> "Axis":
        """An axis that holds all the values, and a little `room` on both sides."""
        found = [math.log10(v) if log else v for v in values]
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        apart = high - low
        if not apart:
            apart, room = abs(high) * 0.1 or 1.0, 0.5
        low, high = low - room * apart, high + room * apart
        return cls(10**low if log else low, 10**high if log else high, start, end, log)

    def at(self, value: Number) -> float:
        """The pixel of a value."""
        low, high, value = map(math.log10, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values, some five of them: 1, 2 or 5 times a power of ten apart; powers of ten on a long log axis."""
        if self.log and self.high / self.low >= 100:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            every = math.ceil(len(powers) / (about + 2))
            return [10.0**power for power in powers if power % every == 0]
        rough = (self.high - self.low) / about
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough * 0.75)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def worded(values: Sequence[Number]) -> list[str]:
    """Ticks as words, with as many decimals as tell them apart: 0.5, 1.0; 100,000; 1e-05."""
    if not values:
        return []
    if any(0 < abs(value) < 1e-4 or abs(value) >= 1e7 for value in values):
        return [f"{value:g}" for value in values]
    step = min((abs(b - a) for a, b in pairwise(values)), default=1.0)
    for decimals in range(7):
        if all(abs(round(value, decimals) - value) <= 1e-3 * step for value in values):
            return [f"{value:,.{decimals}f}" for value in values]
    return [f"{value:g}" for value in values]


def lines(
    series: Mapping[str, Sequence[tuple[Number, Number]]],
    *,
    title: str,
    x: str = "step",
    y: str = "",
    log: bool = False,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    width: int = 680,
    height: int = 300,
    most: int = MOST,
) -> str:
    """A line for each series of (x, y), with a legend; `x` and `y` are the axes' names with their units, `log` is of y.

    `bands` gives a series an area of (x, low, high) behind its line, for its error. `most` are the points of a line: beyond it
    each stretch keeps its lowest and its highest.
    """
    shown = {name: _finite(points, log) for name, points in series.items()}
    areas = {
        name: (_finite([(x, low) for x, low, _ in band], log), _finite([(x, high) for x, _, high in band], log))
        for name, band in (bands or {}).items()
    }
    every = [point for points in [*shown.values(), *(edge for area in areas.values() for edge in area)] for point in points]
    legend, rows = _legend(list(shown), width)
    top = 44 + 18 * rows
    vertical = Axis.over([value for _, value in every], height - 46, top, log=log)
    labels = worded(vertical.ticks())
    left = 26 + LETTER * max(map(len, labels), default=1)
    horizontal = Axis.over([place for place, _ in every], left, width - 16, room=0.0)
    parts = [legend, _grid_y(vertical, left, width - 16), _grid_x(horizontal, top, height - 46)]
    parts += [_text(left, 36 + 18 * rows, y), _text((left + width) / 2, height - 8, x, "middle")]
    for number, name in enumerate(shown):
        if name in areas:
            low, high = (_thinned(edge, most) for edge in areas[name])
            edge = " ".join(f"{horizontal.at(a):.2f},{vertical.at(b):.2f}" for a, b in [*low, *reversed(high)])
            parts.append(f'<polygon class="band f{number % len(LIGHT)}" points="{edge}"/>')
    for number, points in enumerate(shown.values()):
        places = " ".join(f"{horizontal.at(a):.2f},{vertical.at(b):.2f}" for a, b in _thinned(points, most))
        dashes = f' stroke-dasharray="{DASHES[number % len(DASHES)]}"' if number % len(DASHES) else ""
        parts.append(f'<polyline class="line c{number % len(LIGHT)}"{dashes} points="{places}"/>')
        if len(points) == 1:
            parts.append(_dot(horizontal.at(points[0][0]), vertical.at(points[0][1]), number, ""))
    return _svg(title, parts, width, height)


def dots(
    groups: Mapping[str, Sequence[Number]],
    *,
    title: str,
    x: str = "",
    intervals: Mapping[str, tuple[Number, Number, Number]] | None = None,
    failed: Mapping[str, Collection[int]] | None = None,
    names: Sequence[str] = (),
    zero: bool = False,
    first: int = 0,
    width: int = 680,
) -> str:
    """A row for each group: every value a dot, and a mean with its interval (low, mean, high) where one is given.

    Dot i of a group stands at the same height in each row, so that pairs can be followed; `names[i]` is what it is called.
    `failed` are the numbers of those that are drawn as crosses. `zero` draws a line at 0, for differences. `first` is the number
    of the first group's colour.
    """
    intervals, failed = intervals or {}, failed or {}
    every = [v for values in groups.values() for v in values if math.isfinite(v)] + [0.0] * zero
    every += [v for interval in intervals.values() for v in interval if math.isfinite(v)]
    row, top = 46, 32
    bottom = top + row * len(groups)
    left = 20 + LETTER * min(40, max((len(name) for name in groups), default=0))
    axis = Axis.over(every, left, width - 16)
    parts = [_grid_x(axis, top, bottom), _text((left + width) / 2, bottom + 38, x, "middle")]
    if zero:
        parts.append(f'<line class="zero" x1="{axis.at(0):.2f}" x2="{axis.at(0):.2f}" y1="{top}" y2="{bottom}"/>')
    for place, (name, values) in enumerate(groups.items()):
        middle, number = top + row * (place + 0.5), first + place
        parts.append(_text(left - 10, middle + 4, name if len(name) <= 40 else name[:39] + "…", "end"))
        for i, value in enumerate(values):
            if math.isfinite(value):
                height = middle + (i / max(1, len(values) - 1) - 0.5) * (row - 20) if len(values) > 1 else middle
                called = f"{names[i] if i < len(names) else i + 1}: {value:.4g}"
                draw = _cross if i in failed.get(name, ()) else _dot
                parts.append(draw(axis.at(value), height, number, called))
        if name in intervals and all(map(math.isfinite, intervals[name])):
            low, mean, high = map(axis.at, intervals[name])
            parts.append(f'<path class="mean" d="M{low:.2f} {middle}H{high:.2f}M{mean:.2f} {middle - 9}V{middle + 9}"/>')
    return _svg(title, parts, width, bottom + 46)


def _finite(points: Sequence[tuple[Number, Number]], log: bool) -> list[tuple[Number, Number]]:
    return [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b) and (b > 0 or not log)]


def _thinned(points: list[tuple[Number, Number]], most: int) -> list[tuple[Number, Number]]:
    """At most so many points: of each stretch its lowest and highest, in their order, so that no spike is lost."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2))
    kept = []
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        kept += sorted({min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])})
    return [points[i] for i in sorted({0, *kept, len(points) - 1})][: most + 2]


def _legend(names: list[str], width: int) -> tuple[str, int]:
    """The names with a piece of their lines, in rows below the title; nothing for one line, which the title names."""
    if len(names) < 2:
        return "", 0
    parts, place, row = [], 12.0, 0
    for number, name in enumerate(names):
        wide = 40 + LETTER * len(name)
        if place + wide > width and place > 12:
            place, row = 12.0, row + 1
        y, dashes = 36 + 18 * row, DASHES[number % len(DASHES)]
        style = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<path class="line c{number % len(LIGHT)}"{style} d="M{place:.0f} {y - 4}h22"/>' + _text(place + 27, y, name))
        place += wide
    return "".join(parts), row + 1


def _grid_x(axis: Axis, top: Number, bottom: Number) -> str:
    parts = []
    for value, word in zip(axis.ticks(), worded(axis.ticks()), strict=True):
        place = axis.at(value)
        parts.append(f'<line class="grid" x1="{place:.2f}" x2="{place:.2f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(place, bottom + 17, word, "middle"))
    return "".join(parts)


def _grid_y(axis: Axis, left: Number, right: Number) -> str:
    parts = []
    for value, word in zip(axis.ticks(), worded(axis.ticks()), strict=True):
        place = axis.at(value)
        parts.append(f'<line class="grid" x1="{left:.2f}" x2="{right}" y1="{place:.2f}" y2="{place:.2f}"/>')
        parts.append(_text(left - 6, place + 4, word, "end"))
    return "".join(parts)


def _dot(x: Number, y: Number, number: int, called: str) -> str:
    return f'<circle class="dot f{number % len(LIGHT)}" cx="{x:.2f}" cy="{y:.2f}" r="4"><title>{escape(called)}</title></circle>'


def _cross(x: Number, y: Number, number: int, called: str) -> str:
    path = f"M{x - 4:.2f} {y - 4:.2f}l8 8m0 -8l-8 8"
    return f'<path class="failed c{number % len(LIGHT)}" d="{path}"><title>{escape(called)}, failed</title></path>'


def _text(x: Number, y: Number, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{escape(words)}</text>' if words else ""


def _svg(title: str, parts: Sequence[str], width: int, height: Number) -> str:
    head = f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height:g}"'
    name = f'<text class="name" x="12" y="18">{escape(title)}</text>'
    style = f"<title>{escape(title)}</title><style>{STYLE}</style>"
    return f'{head} viewBox="0 0 {width} {height:g}">{style}{name}{"".join(parts)}</svg>'
