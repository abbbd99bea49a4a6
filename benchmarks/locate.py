"""The studies that LocAtE's author could not run: are its claims true in small networks, over fresh seeds, rates tuned alike?

    OMP_NUM_THREADS=1 python benchmarks/locate.py [--jobs 2] [--only activations ...] [--report]

About 300 runs of 20 to 60 s of one core each. A run that is in `results/locate-runs.jsonl` is not made again: stop it when you
like and say the same again. --report makes the tables of what is there.

Every arm of a study has the same networks but for what it is named after, the same steps, batch and data. Its rate is chosen
among three (×1, ×2, ×4 of the recipe's; ×½, ×1, ×2 for the classifier) by the mean of two tuning seeds; what counts are five other
seeds at that rate. A run that is not finite, or whose images vary less than a tenth as much as real ones (black, or all alike), has
failed: it is counted, and has the outcome of the worst run of the study.

| study | claim of the source | networks, data, outcome |
|---|---|---|
| activations | RootTanh "significantly outperforms its competitors" | locate without attention, probe:twins, Fréchet |
| activations-classifier | the same | four convolutions on CIFAR-10 (10,000 images), test accuracy |
| counting | with both attentions "counting becomes trivial" | sagan_official, probe:count, share of right counts |
| regularisers | consistency is better than a gradient penalty, "both significantly improve" | locate, probe:twins, Fréchet |
| failures | AdaBound, factorised Inception-3C, batch norm before the addition fail | locate, probe:twins, Fréchet |

Images are of 16 px, those of CIFAR-10 of 32; it wants GANDER_DATA, a folder with its zip. Fréchet is Fréchet[random-conv] of 1,024
samples to 5,000 images. Where `gander compare` exists, it does this for any recipe and knob.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import RESULTS, keep
from scipy import stats
from torch import nn
from torch.nn import functional as F

from gander import draws, grids, recipes
from gander.consistency import Consistency
from gander.data import open_source, prepare
from gander.data.batches import Batches
from gander.layers.activations import RootTanh
from gander.metrics import frechet_distance
from gander.metrics.features import features
from gander.probes import PROBES
from gander.recipes.experiment import Facts
from gander.scoring.measured import cached
from gander.train.samples import images_of, latents_of

RUNS = RESULTS / "locate-runs.jsonl"
TUNING, FRESH = (100, 101), (0, 1, 2, 3, 4)
SAMPLES, REAL = 1_024, 5_000
LOCATE = {"width": 8, "batch": 32, "ema": 0.99}  # rates are the recipe's: 2e-4 and 8e-4
STEPS = 400
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "RootTanh": RootTanh,
    "tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "LeakyReLU": lambda: nn.LeakyReLU(0.2),
    "GELU": nn.GELU,
    "Swish": nn.SiLU,
    "SELU": nn.SELU,
}


class Study(NamedTuple):
    """`arms` are knobs, or the name of an activation; the first arm is what the claim is about. `lower`: less is better.

    A claim holds where the first arm is clearly better than every other, or than the second of each of the `pairs`.
    """

    claim: str
    arms: dict[str, Any]
    run: Callable[[Any, float, int], dict[str, float]]
    outcome: str
    lower: bool
    rates: tuple[float, ...] = (1.0, 2.0, 4.0)
    pairs: tuple[tuple[str, str], ...] = ()


# One run --------------------------------------------------------------------------------------------------------------


def game(recipe: str, data: str, steps: int, knobs: dict[str, Any], rate: float, seed: int, change: Callable[[Any], None]) -> dict:
    """Train a GAN at `rate` times its rates; how its samples score. `change` may alter the learner before the first step."""
    dataset = prepare(open_source(data), 16, progress=False)
    torch.manual_seed(seed)
    make = recipes.load(recipe)
    known = {name: knob.default for name, knob in recipes.knobs(make).items()} | knobs
    rates = {name: known[name] * rate for name in ("generator_lr", "discriminator_lr")}
    experiment = make(Facts(len(dataset), dataset.num_classes, 3), **{"resolution": 16, "steps": steps, **knobs, **rates})
    change(experiment.learner)
    learner: Any = experiment.learner.to(torch.device("cpu"), "fp32")
    cut: dict[str, Any] = {"per_step": learner.draws_per_step, "accumulate": 1, "device": torch.device("cpu")}
    batches = Batches(dataset.images, dataset.labels, batch=experiment.batch, seed=seed, **cut)
    for step in range(steps):
        values = learner.step(step, batches(step), draws.at_step(seed, step))
        if step % 50 == 49 and not all(value.isfinite() for value in values.values()):
            return {"failed": 1.0}
    generator = learner.sampler()
    latents, labels = latents_of(generator, 0, range(SAMPLES))
    samples = images_of(generator, latents, labels)
    network = features("random-conv")
    real = cached(dataset, network, REAL, progress=False)
    varied = dataset.images[real.rows[:SAMPLES]].std(0).mean() / 127.5
    if not samples.isfinite().all() or samples.std(0).mean() < 0.1 * varied:
        return {"failed": 1.0}
    pixels = torch.from_numpy(grids.to_bytes(samples)).permute(0, 3, 1, 2)
    vectors = torch.cat([network(part)[0] for part in pixels.split(64)]).numpy()
    grades = PROBES[dataset.name].grade(samples.numpy(), labels.numpy() if dataset.num_classes else None)
    return {"frechet": frechet_distance(vectors, real.vectors), **grades}


def swap(network: nn.Module, activation: str) -> None:
    """Put this activation in the place of every other of a network."""
    for name, child in network.named_children():
        if isinstance(child, nn.ReLU | nn.LeakyReLU | nn.SiLU | RootTanh):
            setattr(network, name, ACTIVATIONS[activation]())
        else:
            swap(child, activation)


def activated(activation: str, rate: float, seed: int) -> dict:
    def change(learner: Any) -> None:
        for network in learner.networks.values():
            swap(network, activation)

    return game("locate", "probe:twins", STEPS, {**LOCATE, "attention": "none"}, rate, seed, change)


def counting(attention: str, rate: float, seed: int) -> dict:
    knobs = {"width": 8, "batch": 32, "attention": attention, "ema": 0.99, "betas": (0.0, 0.99)}
    knobs |= {"attention_at": (8,)} if attention != "none" else {}
    knobs |= {"generator_lr": 5e-4, "discriminator_lr": 2e-3}
    return game("sagan_official", "probe:count", 800, knobs, rate, seed, lambda learner: None)


def located(knobs: dict[str, Any], rate: float, seed: int) -> dict:
    knobs = {**LOCATE, **knobs}
    faithful = Consistency(batch_cr=knobs.pop("batch_cr", 0.0))

    def change(learner: Any) -> None:
        if faithful.batch_cr:
            learner.consistency = faithful

    return game("locate", "probe:twins", STEPS, knobs, rate, seed, change)


def classified(activation: str, rate: float, seed: int) -> dict:
    """Four convolutions with batch norm, three passes over 10,000 images, AdamW and one cycle."""
    where = Path(os.environ["GANDER_DATA"]) / "cifar10-32px-jpeg.zip"
    train, test = (prepare(open_source(where, split=split), 32, progress=False) for split in ("train", "test"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(7))[:10_000].numpy()  # the same for all

    def tensor(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    images, labels = tensor(train.images[np.sort(order)]), torch.from_numpy(train.labels[np.sort(order)])
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [
            nn.Conv2d(before, after, 3, 2 if before < 64 else 1, 1, bias=False),
            nn.BatchNorm2d(after),
            ACTIVATIONS[activation](),
        ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    passes, batch = 3, 64
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3 * rate, total_steps=passes * (len(images) // batch))
    for _ in range(passes):
        for rows in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            loss = F.cross_entropy(network(images[rows]), labels[rows])
            if not loss.isfinite():
                return {"failed": 1.0}
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        answers = torch.cat([network(tensor(test.images[i : i + 500])).argmax(1) for i in range(0, len(test), 500)])
    return {"accuracy": float((answers == torch.from_numpy(test.labels)).double().mean())}


OUTPERFORMS = "RootTanh significantly outperforms its competitors"
STUDIES = {
    "activations": Study(OUTPERFORMS, {name: name for name in ACTIVATIONS}, activated, "frechet", True),
    "activations-classifier": Study(
        OUTPERFORMS, {name: name for name in ACTIVATIONS}, classified, "accuracy", False, (0.5, 1.0, 2.0)
    ),
    "counting": Study(
        "with self and feature attention counting becomes trivial",
        {a: a for a in ("self+feature", "none", "residual", "self", "feature")},
        counting,
        "right_count",
        False,
    ),
    "regularisers": Study(
        "consistency works better than a gradient penalty, and both significantly improve",
        {
            "consistency": {"cr": 10.0},
            "consistency of weight 1": {"cr": 1.0},
            "none": {"cr": 0.0},
            "gradient penalty": {"cr": 0.0, "wgan_gp": 10.0},
            "consistency of both": {"cr": 0.0, "bcr": 10.0},
            "of batch means": {"cr": 0.0, "batch_cr": 100.0},
        },
        located,
        "frechet",
        True,
        pairs=(("consistency", "gradient penalty"), ("consistency", "none"), ("gradient penalty", "none")),
    ),
    "failures": Study(
        "AdaBound, factorised Inception-3C and batch norm right before the addition fail",
        {
            "as shipped": {},
            "AdaBound": {"optimizer": "adabound"},
            "factorised Inception-3C": {"conv": "factorized_inception3c"},
            "batch norm before the addition": {"norm": "batch_last"},
        },
        located,
        "frechet",
        True,
    ),
}


# Many runs ------------------------------------------------------------------------------------------------------------

Key = tuple[str, str, float, int]  # study, arm, rate, seed


def made() -> dict[Key, dict[str, float]]:
    lines = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    return {(line["study"], line["arm"], line["rate"], line["seed"]): line["found"] for line in lines}


def one(key: Key) -> tuple[Key, dict[str, float], float]:
    torch.set_num_threads(1)
    study, arm, rate, seed = key
    began = time.perf_counter()
    found = STUDIES[study].run(STUDIES[study].arms[arm], rate, seed)
    return key, found, time.perf_counter() - began


def value(study: str, found: dict[str, float]) -> float | None:
    return None if "failed" in found else found[STUDIES[study].outcome]


def best_rate(study: str, arm: str, runs: dict[Key, dict[str, float]]) -> float | None:
    """The rate with the best mean of the tuning seeds, the failed ones as bad as can be; None while one is to be made."""
    means = {}
    for rate in STUDIES[study].rates:
        found = [runs.get((study, arm, rate, seed)) for seed in TUNING]
        if any(each is None for each in found):
            return None
        worst = math.inf if STUDIES[study].lower else -math.inf
        values = [value(study, each) for each in found if each is not None]
        means[rate] = statistics.fmean(worst if each is None else each for each in values)
    return (min if STUDIES[study].lower else max)(means, key=means.__getitem__)


def wanted(studies: list[str], runs: dict[Key, dict[str, float]]) -> list[Key]:
    """What is to be made next: seed by seed through all arms, so that a cut leaves a balanced study."""
    tuning = [(s, a, r, seed) for s in studies for seed in TUNING for r in STUDIES[s].rates for a in STUDIES[s].arms]
    left = [key for key in tuning if key not in runs]
    fresh = [(s, a, best_rate(s, a, runs), seed) for s in studies for seed in FRESH for a in STUDIES[s].arms]
    return left + [(s, a, r, seed) for s, a, r, seed in fresh if r is not None and (s, a, r, seed) not in runs]


def make(studies: list[str], jobs: int) -> None:
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=os.nice, initargs=(19,)) as pool:
        while keys := wanted(studies, made()):
            for number, (key, found, seconds) in enumerate(pool.imap_unordered(one, keys), start=1):
                study, arm, rate, seed = key
                line = {"study": study, "arm": arm, "rate": rate, "seed": seed, "seconds": round(seconds, 1), "found": found}
                with RUNS.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{number}/{len(keys)} {study} {arm} ×{rate} seed {seed}: {found} in {seconds:.0f} s", flush=True)


# What they say --------------------------------------------------------------------------------------------------------


def told(study: str, runs: dict[Key, dict[str, float]]) -> tuple[dict[str, Any], list[str]]:
    """The table of a study, the sentence on each pair of arms and on the claim."""
    claim, arms, _, outcome, lower, _, pairs = STUDIES[study]
    first, *others = arms
    rates = {arm: best_rate(study, arm, runs) for arm in arms}
    found = {arm: [runs.get((study, arm, rate, seed)) if rate else None for seed in FRESH] for arm, rate in rates.items()}
    whole = [i for i in range(len(FRESH)) if all(each[i] is not None for each in found.values())]
    values = {arm: [value(study, each[i] or {}) for i in whole] for arm, each in found.items()}
    sound = [v for each in values.values() for v in each if v is not None]
    if len(whole) < 2 or not sound:
        return {}, [f"## {study}", "", f"not made yet: {len(whole)} of {len(FRESH)} seeds"]
    worst = max(sound) if lower else min(sound)
    counted = {arm: [worst if v is None else v for v in each] for arm, each in values.items()}
    lines = [f"## {study}: {outcome}, {'lower' if lower else 'higher'} is better, n = {len(whole)}", ""]
    lines += ["| arm | rate | mean | sd | failed | less the first, 95 % interval |", "|---|---|---|---|---|---|"]
    for arm, each in counted.items():
        apart = [a - b for a, b in zip(each, counted[first], strict=True)]
        half = float(stats.t.ppf(0.975, len(apart) - 1)) * statistics.stdev(apart) / len(apart) ** 0.5
        mean = statistics.fmean(apart)
        interval = "" if arm == first else f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"
        spread = f"{statistics.fmean(each):.3f} | {statistics.stdev(each):.3f}"
        failed = f"{sum(v is None for v in values[arm])} of {len(each)}"
        lines.append(f"| {arm} | ×{rates[arm]:g} | {spread} | {failed} | {interval} |")
    pairs = pairs or tuple((first, arm) for arm in others)
    tested = compared(pairs, counted, lower)
    lines += ["", "Paired t tests, by Holm for their number, at 5 %: " + "; ".join(tested.values()) + "."]
    held = sum(said.startswith(f"{better} is better than {other} ") for (better, other), said in tested.items())
    verdict = "holds here" if held == len(pairs) else f"does not hold here: seen in {held} of {len(pairs)} comparisons"
    lines += ["", f'**"{claim}" {verdict}.**']
    if edge := [arm for arm in arms if rates[arm] == STUDIES[study].rates[-1]]:
        lines += ["", f"The largest rate that was tried was the best for {', '.join(edge)}: larger ones might be better yet."]
    return {arm: {"rate": rates[arm], "values": each} for arm, each in values.items()}, lines


def compared(pairs: tuple[tuple[str, str], ...], values: dict[str, list[float]], lower: bool) -> dict[tuple[str, str], str]:
    """A sentence on each pair of arms."""
    tests = {(a, b): stats.ttest_rel(values[a], values[b]) for a, b in pairs}
    said, most = {}, 0.0
    for i, (a, b) in enumerate(sorted(pairs, key=lambda pair: tests[pair].pvalue)):
        most = max(most, min(1.0, float(tests[a, b].pvalue) * (len(pairs) - i)))
        better, other = (a, b) if (tests[a, b].statistic < 0) == lower else (b, a)
        said[a, b] = (f"{better} is better than {other}" if most < 0.05 else f"{a} and {b} are not told apart") + f" (p {most:.2g})"
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--report", action="store_true")
    asked = parser.parse_args()
    if not asked.report:
        make(asked.only, asked.jobs)
    runs = made()
    tables = {study: told(study, runs) for study in asked.only}
    keep(
        "locate", {name: kept for name, (kept, _) in tables.items()}, "\n\n".join("\n".join(lines) for _, lines in tables.values())
    )


if __name__ == "__main__":
    main()
