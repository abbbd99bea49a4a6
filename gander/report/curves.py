"""The numbers of a log -> charts, each with its units; those of several runs lie over each other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from gander import charts
from gander.report.gather import Gathered, Series

SIZES: dict[str, Any] = {"width": 500, "height": 260, "most": 250}  # px, and points of a line
MOVERS = 6  # spectral norms of a network that are drawn
LARGEST = 1_200_000  # letters of all charts together
PENALTIES = ("cr", "bcr", "zcr", "r1", "r2", "wgan_gp")
AXES = {  # of what a name begins with
    "gamma": "γ, weight of the attention beside its input (no unit)",
    "sigma": "σ, largest singular value (no unit)",
    "entropy": "entropy of the maps (0: one place, 1: even)",
    "distance": "mean way to where it looks (pixels)",
    "variety": "spread over a batch (1 is half of black to white)",
}


class Chart(NamedTuple):
    """An SVG, and what is to be said under it."""

    svg: str
    says: str = ""


class Group(NamedTuple):
    title: str
    charts: list[Chart]


def charted(runs: Sequence[Gathered]) -> list[Group]:
    """The charts of a page, in groups: of one run a chart for each kind of number, of several one for each number."""
    groups = _one(runs[0]) if len(runs) == 1 else _several(runs)
    left, kept = LARGEST, []
    for title, found in groups:
        shown = [chart for chart in found if (left := left - len(chart.svg)) >= 0]
        kept += [Group(title, shown)] if shown else []
    return kept


def _one(run: Gathered) -> list[Group]:
    left = {name: points for name, points in run.series.items() if not name.endswith(" error")}

    def take(*starts: str, ends: tuple[str, ...] = ()) -> Series:
        """The series whose names begin or end so; each is taken once."""
        return {name: left.pop(name) for name in list(left) if name.startswith(starts) or name.endswith(ends)}

    scores = [_judged(name, [run]) for name in take("score/", "exam/")]
    gammas = _lines("γ of the attention layers", take("gamma/"), AXES["gamma"])
    looks = [_lines(f"{title} of the attention layers", take(f"{key}/"), AXES[key]) for key, title in
             (("entropy", "Entropy"), ("distance", "Distance"))]  # fmt: skip
    sigmas = [_movers(network, take(f"sigma/{network}")) for network in ("generator.", "discriminator.", "")]
    variety = _lines("How much images of a batch differ", take("variety/"), AXES["variety"])
    probes = [
        _lines(f"Grades of the probe {probe}", take(f"{probe}/"), "share (0 to 1)")
        for probe in dict.fromkeys(name.partition("/")[0] for name in left if "/" in name)
    ]
    losses = _lines("Losses", take(*PENALTIES, ends=("loss",)), "loss (no unit)")
    logits = _lines("What the discriminator says of images", take(ends=("_logit",)), "logit (no unit)")
    gradients = _lines("Norms of the gradients", take(ends=("gradient",)), "norm (no unit, log)", log=True)
    rates = [_judged(name, [run]) for name in take("learning_rate", "beta1", "images_per_second")]
    every = {
        "Scores while it trained": [*scores, *probes],
        "Losses": [losses, logits, variety],
        "Attention and spectral norms": [gammas, *looks, *sigmas],
        "Gradients, rates, speed": [gradients, *rates],
        "Other numbers of the log": [_judged(name, [run]) for name in left],
    }
    return [Group(title, _there(found)) for title, found in every.items()]


def _several(runs: Sequence[Gathered]) -> list[Group]:
    names = dict.fromkeys(name for run in runs for name in run.series if not name.endswith(" error"))
    judged = [name for name in names if "/" in name and name.partition("/")[0] not in AXES]
    every = {
        "Scores while they trained": [_judged(name, runs) for name in judged],
        "Losses": [_judged(name, runs) for name in names if name.endswith("loss") and "/" not in name],
        "Attention": [
            _lines(f"γ of the attention layers: {run.name}", _beginning(run.series, "gamma/"), AXES["gamma"]) for run in runs
        ],
        "Variety and speed": [_judged(name, runs) for name in names if name in ("variety/fake", "images_per_second")],
    }
    return [Group(title, _there(found)) for title, found in every.items()]


def _judged(name: str, runs: Sequence[Gathered]) -> Chart | None:
    """One number of the log, a line for each run, with a band of its standard error where the log has one."""
    there = [run for run in runs if len(run.series.get(name, ())) > 1]
    if not there:
        return None
    epochs = {run.epoch for run in there}
    epoch = epochs.pop() if name.startswith("exam/") and len(epochs) == 1 else 0.0
    lines, bands = {}, {}
    for run in there:
        errors = dict(run.series.get(f"{name} error", ()))
        lines[run.name] = [(x / (epoch or 1), y) for x, y in run.series[name]]
        if band := [(x / (epoch or 1), y - errors[x], y + errors[x]) for x, y in run.series[name] if x in errors]:
            bands[run.name] = band
    title = f"{_plain(name)}, held-out images" if name.startswith("exam/") else _plain(name)
    svg = charts.lines(lines, title=title, x="epoch" if epoch else "step", y=_axis(name), bands=bands, **SIZES)
    return Chart(svg, "The band is one standard error to each side." if bands else "")


def _axis(name: str) -> str:
    """What is measured, with its unit."""
    start, _, rest = name.partition("/")
    if start in AXES:
        return AXES[start]
    if start == "score":
        higher = rest.startswith(("precision", "recall", "density", "coverage", "IS"))
        return f"{rest} ({'higher' if higher else 'lower'} is better)"
    if start == "exam":
        return {"PSNR": "dB (higher is better)"}.get(rest, "share (0 to 1)" if "accuracy" in rest else "loss (no unit)")
    if rest:
        return "share (0 to 1)"
    known = {"images_per_second": "images a second", "learning_rate": "rate a step", "beta1": "β₁ (no unit)"}
    return known.get(name, "loss (no unit)" if name.endswith("loss") else "value (no unit)")


def _movers(network: str, found: Series) -> Chart | None:
    """The spectral norms of a network that changed most, and what is to be said of the others."""
    short = {name.removeprefix(f"sigma/{network}"): points for name, points in found.items()}
    change = {name: abs(points[-1][1] - points[0][1]) for name, points in short.items()}
    most = sorted(change, key=lambda name: -change[name])[:MOVERS]
    others = [points[-1][1] for name, points in short.items() if name not in most]
    title = "Spectral norms" + (f": {network[:-1]}" if network else "")
    chart = _lines(title, {name: points for name, points in short.items() if name in most}, AXES["sigma"])
    if not chart or not others:
        return chart
    between = f"between {min(others):.2f} and {max(others):.2f}" if len(others) > 1 else f"at {others[0]:.2f}"
    return chart._replace(says=f"The {MOVERS} of {len(short)} that changed most; the others ended {between}.")


def _lines(title: str, series: Series, y: str, *, log: bool = False) -> Chart | None:
    found = {_plain(name): points for name, points in series.items() if len(points) > 1}
    if len(found) == 1 and y in AXES.values():
        title += f": {next(iter(found))}"  # one line has no legend
    return Chart(charts.lines(found, title=title, y=y, log=log, **SIZES)) if found else None


def _beginning(series: Series, start: str) -> Series:
    return {name: points for name, points in series.items() if name.startswith(start)}


def _there(found: Sequence[Chart | None]) -> list[Chart]:
    return [chart for chart in found if chart]


def _plain(name: str) -> str:
    """A name of the log in words."""
    return (name.partition("/")[2] or name).replace("_", " ")
