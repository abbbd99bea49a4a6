"""How high a learning rate a learner bears: Smith's range test, its picture and a suggestion.

found = range_test(learner, batches, seed=0)      # of any learner with one `optimizer`; it is spoilt by it
found.suggestion                                  # 0.0017, or None where the loss falls at no rate
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Literal, NamedTuple

from gander.errors import UserError
from gander.run import Outcome
from gander.training import decoded, planned

say = print

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100  # rates, a step each: twelve to a power of ten
STILL = 15  # steps, up to a rate of 1.3e-6, in which next to nothing is learned: the loss before
BETA = 0.9  # of the loss's average, which lags by ten steps
DIVERGED = 4  # times the lowest


def lr(
    recipe: str,
    *,
    data: str,
    out: str = "lr.svg",
    split: str | None = None,
    channels: Literal[1, 3] = 3,
    device: str | None = None,
    precision: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    allow_broken: bool = False,
    **knobs: Any,
) -> "Found | Outcome":
    """How high a learning rate a classifier or auto-encoder bears: a picture and a suggestion. Nothing is trained for good.

    The rate rises from 1e-7 to 10 in 100 steps, or until the loss is four times its lowest (Smith 2015). The suggestion is where
    half of the fall is done: the middle of the slope. The knob lr itself is not looked at.

    Args:
        data: as for train.
        out: the picture, a .svg file.
        split: as for train.
        channels: as for train.
        device: as for train.
        precision: as for train.
        seed: of the network and the order of the images: one seed, one suggestion.
        workers: as for train.
        allow_broken: as for train.
    """
    import torch
    from tqdm import tqdm

    from gander import distributed, files, recipes
    from gander.data.batches import Batches
    from gander.recipes.experiment import Facts
    from gander.train.precision import resolve

    if not out.endswith(".svg") or Path(out).is_dir():
        raise UserError(f"--out {out} is no SVG file; name it like lr.svg")
    plan = planned(recipe, knobs, data, split, channels, device, scored=False)
    if not hasattr(plan.trial.learner, "optimizer"):
        raise UserError(f"{recipe} trains networks against each other, and lr is for learners of one, as imagewoof and autoencoder")
    distributed.check_batch(plan.trial.batch, plan.trial.learner.accumulate)
    runs_in = resolve(precision, plan.device)
    prepared = decoded(plan, {"channels": channels, "workers": workers, "allow_broken": allow_broken})
    if isinstance(prepared, Outcome):
        return prepared
    dataset = prepared.dataset
    torch.manual_seed(seed)
    experiment = plan.function(Facts(len(dataset), dataset.num_classes, channels), **plan.knobs)
    learner = experiment.learner.to(plan.device, runs_in)
    options: dict[str, Any] = {"batch": experiment.batch, "seed": seed, "accumulate": learner.accumulate, "device": plan.device}
    with tqdm(total=STEPS, desc="rates", unit=" steps", disable=None, leave=False) as bar:
        found = range_test(learner, Batches(dataset.images, dataset.labels, **options), seed=seed, after_step=bar.update)
    files.write_atomic(Path(out), picture(found, f"{Path(recipe).stem} on {dataset.name}, seed {seed}"))
    say(f"the loss at rates from {worded(LOWEST)} to {worded(found.rates[-1])}: {out}")
    if found.suggestion is None:
        say("no suggestion: the loss falls at none of these rates by more than it differs from batch to batch")
    else:
        flag = "--lr " if "lr" in recipes.knobs(plan.function) else "a rate of "
        say(f"suggestion: {flag}{worded(found.suggestion)}")
    return found


class Found(NamedTuple):
    """The loss before the step at each rate, and its average; `suggestion` is None where it fell at no rate."""

    rates: list[float]
    losses: list[float]
    averages: list[float]
    suggestion: float | None


def range_test(learner: Any, batches: Callable[[int], list], *, seed: int, after_step: Callable[[], Any] = lambda: None) -> Found:
    """100 steps of the learner at rates that rise geometrically from 1e-7 to 10: Smith 2015, arXiv:1506.01186.

    Of groups of parameters the one with the highest rate gets it, and the others their share. All else is as in the learner's first
    step: it is told each time that this is step 0. It ends where the average is four times its lowest, or no number.
    """
    import torch

    from gander import draws

    groups = learner.optimizer.param_groups
    highest = max(group["lr"] for group in groups)
    shares = [group["lr"] / highest if highest else 1.0 for group in groups]
    rates: list[float] = []
    losses: list[float] = []

    def set_rate(*_: Any) -> None:  # after the learner's own schedule, before the step
        for group, share in zip(groups, shares, strict=True):
            group["lr"] = rates[-1] * share

    hook = learner.optimizer.register_step_pre_hook(set_rate)
    try:
        for i in range(STEPS):
            rates.append(LOWEST * (HIGHEST / LOWEST) ** (i / (STEPS - 1)))
            torch.manual_seed(draws.key_seed("layers", seed, i))
            losses.append(float(learner.step(0, batches(i), draws.at_step(seed, i))["loss"]))
            averages = averaged(losses)
            after_step()
            if not math.isfinite(averages[-1]) or averages[-1] > DIVERGED * min(averages):
                break
    finally:
        hook.remove()
    return Found(rates, losses, averages, suggested(rates, losses, averages))


def averaged(losses: Sequence[float]) -> list[float]:
    """aᵢ = (1 - β) Σⱼ βʲ lossᵢ₋ⱼ / (1 - βⁱ⁺¹), β = 0.9: the exponential average, without the bias of its beginning."""
    sums = accumulate(losses, lambda total, loss: BETA * total + (1 - BETA) * loss, initial=0.0)
    return [total / (1 - BETA**i) for i, total in enumerate(sums) if i]


def suggested(rates: Sequence[float], losses: Sequence[float], averages: Sequence[float]) -> float | None:
    """The first rate at which the average has done half of its fall, from the loss before to its lowest.

    None where that is no more than 1.5 standard deviations of the first losses: chance alone does as much once in 200 times. Half
    of the fall is the middle of the slope, where a smooth curve is steepest. The steepest point itself is noise in a hundred small
    batches, and a tenth of the lowest's rate moves with where on its flat bottom the curve happens to be lowest.
    """
    first, later = losses[:STILL], averages[STILL:]
    before = fmean(first)
    if not later or not before - min(later) > 1.5 * pstdev(first, before) + 1e-9 * abs(before):
        return None
    half = (before + min(later)) / 2
    return next(rate for rate, average in zip(rates[STILL:], later, strict=True) if average <= half)


def picture(found: Found, what: str) -> str:
    """The loss over the power of ten of the rate, as SVG: each step, their average, and the suggestion as a dot."""
    from gander.charts import lines

    tens = [math.log10(rate) for rate in found.rates]
    before = max(found.losses[:STILL])
    most = 2 * before - min(found.averages)  # as far above as the fall is deep: a last step may be a thousand times as high
    series = {
        "each step": [(x, min(loss, most)) for x, loss in zip(tens, found.losses, strict=True)],
        "average": [(x, min(average, most)) for x, average in zip(tens, found.averages, strict=True)],
    }
    if found.suggestion is not None:
        at = found.rates.index(found.suggestion)
        series[f"suggestion: {worded(found.suggestion)}"] = [(tens[at], found.averages[at])]
    return lines(series, title=f"How high a learning rate? {what}", x="learning rate, as a power of ten", y="loss")


def worded(rate: float) -> str:
    """With two figures: 3e-3, 1.7e-2."""
    number, power = f"{rate:.1e}".split("e")
    return f"{number.removesuffix('.0')}e{int(power)}"
