"""Scores on a screen: one subject with its card, or several side by side, ranked only where their cards are equal."""

import itertools
from collections.abc import Sequence
from typing import Any

from gander.errors import shown
from gander.scoring.card import Result, Score, differences


def sheet(result: Result) -> list[str]:
    """One subject: its card, its scores with their errors, what is to be said of them."""
    lines = [shown(result.name), *(f"  {line}" for line in result.card.lines()), ""]
    width = max(len(score.name) for score in result.scores)
    values = max(len(score.worded()) for score in result.scores)
    for score in result.scores:
        lines.append(f"  {score.name:{width}}  {score.worded():>{values}}  {score.better} is better; {score.how}")
    if result.classes:
        worst = sorted(result.classes.items(), key=lambda item: -item[1])
        lines += ["", "  within classes, worst first: " + ", ".join(f"{shown(name)} {value:.4g}" for name, value in worst[:10])]
    lines += ["", f"  {shown(result.memorisation)}"]
    return lines + [f"  note: {shown(note)}" for note in result.notes]


def table(results: Sequence[Result]) -> list[str]:
    """All subjects side by side, then their order by the first score; where the cards differ, in what."""
    names = list(dict.fromkeys(score.name for result in results for score in result.scores))
    found: list[dict[str, Score]] = [{score.name: score for score in result.scores} for result in results]
    rows = [["", *(result.name for result in results)]]
    rows += [[name, *(scores[name].worded() if name in scores else "-" for scores in found)] for name in names]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines = [shown(line) for line in lines]
    rivals = [result for result in results if not result.real]
    if len(rivals) < 2:
        return lines
    if unequal := differences([result.card for result in rivals]):
        listed = "; ".join(f"{name} {' / '.join(map(_worded, values))}" for name, values in unequal.items())
        return [*lines, "", shown(f"not ranked, since these scores were not made alike: {listed}")]
    return [*lines, "", *map(shown, _order(rivals))]


def _order(results: Sequence[Result]) -> list[str]:
    """The subjects by their first score, and which neighbours in that order its errors cannot tell apart."""
    first = sorted(((result.scores[0], result.name) for result in results), key=lambda pair: pair[0].value)
    lines = [f"by {first[0][0].name}, lower is better: " + " < ".join(name for _, name in first)]
    for (a, name), (b, other) in itertools.pairwise(first):
        apart, error = b.value - a.value, (a.error**2 + b.error**2) ** 0.5
        if apart < 2 * error:
            lines.append(f"  no difference seen between {name} and {other}: {apart:.2g}, less than twice its error {error:.2g}")
    return lines


def _worded(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
