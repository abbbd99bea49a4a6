"""A run that goes wrong says so in its log before it shows in its samples.

The sentinel reads each line of the log as it is written and knows nothing else, so that a run that goes on sees what it would
have seen. Each sign has a limit, stated here; it is told once it has held for `LINES` lines in a row.
The limits were set between what ten healthy runs and eight broken ones showed: `benchmarks/sentinel.py`.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Any

from gander.errors import UserError

LINES = 10  # of the log for which a sign must hold; trends are taken over twice as many
VARIETY = 0.05  # of the variety of real images; below it those of a batch are one image
GROWTH = 2.0  # of the largest singular value of a weight
WINNING = 0.01  # of the generator's gradient; where the discriminator's is smaller it has nothing left to learn
GRADIENT = 100.0  # times, or times less than, the median of the run so far
MARGIN = 100.0  # between the mean logits of real and fake images; losses speak of about 1


class Collapse(UserError):
    """The run has gone wrong."""


class Sentinel:
    """Reads a run's log. `healthy` is the last step whose line showed no sign."""

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()):
        self.healthy = 0
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=2 * LINES)  # a trend is taken over these
        self._gradients: dict[str, list[float]] = {"generator": [], "discriminator": []}
        self._held: dict[str, int] = {}  # for how many lines each sign has held
        for line in lines:
            self.look(line)

    def look(self, line: Mapping[str, Any]) -> list[str]:
        """What is to be told after this line of the log, in words; mostly nothing."""
        if "discriminator_loss" not in line:  # a score, or another kind of learner
            return []
        self._recent.append(line)
        signs = dict(self._signs(line))
        self._held = {sign: self._held.get(sign, 0) + 1 for sign in signs}
        if not signs:
            self.healthy = line["step"]
        return [words for sign, words in signs.items() if self._held[sign] == LINES]

    def _signs(self, line: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(name, words) of each sign that this line shows."""
        for kind, what in (("", "the images of a batch are alike"), ("_colour", "the images of a batch have one colour")):
            real, fake = line.get(f"variety/real{kind}", 0.0), line.get(f"variety/fake{kind}", 0.0)
            if fake < VARIETY * real:
                yield f"variety{kind}", f"{what}: they vary {fake / real:.2g} times as much as real ones (limit {VARIETY})"
        margin = line["real_logit"] - line["fake_logit"]
        if abs(margin) > MARGIN:
            yield (
                "margin",
                f"the mean logits of real and fake are {margin:.3g} apart (limit {MARGIN:g}): the discriminator explodes",
            )
        for network, before in self._gradients.items():
            norm = line[f"{network}_gradient"]
            usual = median(before) if len(before) >= LINES else 0.0
            before.append(norm)
            fades = norm * GRADIENT < usual and network == "generator"  # the discriminator's may be 0: hinge
            if norm > GRADIENT * usual > 0 or fades:
                usually = f"its median so far was {usual:.2g} (limit ×{GRADIENT:g})"
                yield f"{network} gradient", f"the {network}'s gradient is {norm:.2g}, {usually}"
        if len(self._recent) == 2 * LINES:
            yield from self._trends(line)

    def _trends(self, line: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        first = self._recent[0]
        steps = line["step"] - first["step"]
        for name, sigma in line.items():
            if name.startswith("sigma/") and sigma > GROWTH * first.get(name, sigma):
                grew = f"grew from {first[name]:.2g} to {sigma:.2g} in {steps} steps (limit ×{GROWTH:g})"
                yield "sigma", f"σ of {name.removeprefix('sigma/')} {grew}: the rates are too high"
                break
        own, others = (median(line[f"{name}_gradient"] for line in self._recent) for name in ("discriminator", "generator"))
        if own < WINNING * others:
            words = f"its gradient is {own:.2g}, the generator's {others:.2g} (limit {WINNING} of it)"
            yield "winning", f"the discriminator tells all images apart and learns no more: {words}"
