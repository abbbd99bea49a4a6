"""A run that goes wrong says so in its log before it shows in its samples.

The sentinel reads each line of the log as it is written and knows nothing else, so that a run that goes on sees what it would
have seen. Each sign has a limit, stated here. What a line shows is told once it has shown for `LINES` lines in a row, a trend
over twice as many at once; neither again for a while.
The limits were set between what ten healthy runs and eight broken ones showed: `benchmarks/sentinel.py`.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Any

from gander.errors import UserError

LINES, AGAIN = 10, 100  # lines of the log
VARIETY = 0.05  # of the variety of real images; below it those of a batch are one image
GROWTH, SPAN = 3.0, 1000  # of the largest singular value of a weight, within so many steps
WINNING = 0.01  # of the generator's gradient; where the discriminator's mostly is smaller it has nothing left to learn
GRADIENT = 100.0  # times, or times less than, the median of the run so far
MARGIN = 100.0  # between the mean logits of real and fake images; losses speak of about 1
NEEDED = (
    "discriminator_loss", "real_logit", "fake_logit", "generator_gradient", "discriminator_gradient",
)  # fmt: skip


class Collapse(UserError):
    """The run has gone wrong."""

    advice = "; --on-collapse rollback goes back to before that, at lower rates; or take others and --run NEW"


class NotFinite(Collapse):
    advice = (
        ", and nothing of this reached a checkpoint; the same again would end there too: take --on-collapse rollback, or lower "
        "rates or --precision fp32 and --run NEW (--init RUN keeps its weights)"
    )


class Sentinel:
    """Reads a run's log. `healthy` is a step at which all was well, also in the light of what came after it."""

    def __init__(self, lines: Iterable[Mapping[str, Any]] = (), *, again: bool = False):
        """`again`: what the lines had to tell is told again, should it still hold."""
        self.healthy = 0
        self._forget()
        for line in lines:
            self.look(line)
        if again:
            self._told.clear()

    def _forget(self) -> None:
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=2 * LINES)  # a trend is taken over these
        self._gradients: dict[str, list[float]] = {"generator": [], "discriminator": []}  # of all lines, in order of size
        self._number = 0
        self._held: dict[str, int] = {}  # for how many lines in a row each sign has shown
        self._told: dict[str, int] = {}  # at which line it was told

    def look(self, line: Mapping[str, Any]) -> list[str]:
        """What is to be told after this line of the log, in words; mostly nothing."""
        if "went_back" in line:
            self._forget()  # what came before was at other rates
            self.healthy = line["step"]
        if any(type(line.get(key)) not in (int, float) for key in NEEDED):  # a score, or another kind of learner
            self.healthy = self.healthy if self._recent else line["step"]
            return []
        self._number += 1
        self._recent.append(line)
        signs, trends = dict(self._signs(line)), dict(self._trends(line))
        self._held = {sign: self._held.get(sign, 0) + 1 for sign in signs}
        if not signs and not trends:
            self.healthy = self._recent[0]["step"]  # a trend that shows later may have begun with any line since
        due = {sign: words for sign, words in signs.items() if self._held[sign] >= LINES} | trends
        new = {sign: words for sign, words in due.items() if self._number - self._told.get(sign, -AGAIN) >= AGAIN}
        self._told |= dict.fromkeys(new, self._number)
        return list(new.values())

    def _signs(self, line: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(name, words) of each sign that this line shows."""
        kinds = (("", "the images of a batch are alike"), ("_colour", "the images of a batch have one colour"))
        for kind, what in kinds if len(self._recent) == 2 * LINES else ():  # at first they are: grey
            real, fake = line.get(f"variety/real{kind}", 0.0), line.get(f"variety/fake{kind}", 0.0)
            if fake < VARIETY * real:
                yield f"variety{kind}", f"{what}: they vary {fake / real:.2g} times as much as real ones (limit {VARIETY})"
        margin = line["real_logit"] - line["fake_logit"]
        if abs(margin) > MARGIN:
            apart = f"the mean logits of real and fake are {margin:.3g} apart (limit {MARGIN:g})"
            yield "margin", f"{apart}: the discriminator explodes"
        for network, before in self._gradients.items():
            norm = line[f"{network}_gradient"]
            usual = before[len(before) // 2] if len(before) >= LINES else 0.0
            insort(before, norm)
            fades = norm * GRADIENT < usual and network == "generator"  # the discriminator's may be 0: hinge
            if norm > GRADIENT * usual > 0 or fades:
                usually = f"its median so far was {usual:.2g} (limit ×{GRADIENT:g})"
                yield f"{network} gradient", f"the {network}'s gradient is {norm:.2g}, {usually}"

    def _trends(self, line: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if len(self._recent) < 2 * LINES:
            return
        first = self._recent[0]
        steps = line["step"] - first["step"]
        for name, sigma in line.items():
            if name.startswith("sigma/") and sigma > GROWTH * first.get(name, sigma) > 0 and steps <= SPAN:
                grew = f"grew from {first[name]:.2g} to {sigma:.2g} in {steps} steps (limit ×{GROWTH:g})"
                yield "sigma", f"σ of {name.removeprefix('sigma/')} {grew}: the rates are too high"
                break
        usual = median(line["generator_gradient"] for line in self._recent)
        idle = sum(line["discriminator_gradient"] < WINNING * usual for line in self._recent)
        if idle > 0.6 * len(self._recent):
            words = f"in {idle} of the last {len(self._recent)} lines its gradient was under {WINNING} of the generator's"
            yield "winning", f"the discriminator tells all images apart and learns no more: {words}"
