"""Do the scores move the right way on real images? Held-out real images as the floor; noise, blur and fewer classes on top.

    OMP_NUM_THREADS=1 GANDER_DATA=FOLDER python benchmarks/scores.py [--features NAME] [--sets cifar10 ...] [--plot FILE.png]

FOLDER holds zips of images with splits. For each set: 700 held-out images, untouched (the floor) and spoiled with growing
strength, against the whole training split. The images of a set of fewer classes are others of that split, as many. A score
"moves right" where the strongest is worse than the floor by more than two standard errors.

Then what scoring costs: the peak of a process that makes every score of 50,000 × 2048 vectors against 50,000, and how many images
a second the networks take, Inception with random weights (those of the reference take as long). --plot wants matplotlib.
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import keep
from scipy import ndimage

from gander import scoring
from gander.data import Dataset, open_source, prepare
from gander.metrics.features import Features
from gander.metrics.inception import Inception
from gander.scoring import compute
from gander.scoring.measured import cached, order

SETS = {
    "cifar10": ("cifar10-32px-jpeg.zip", "test", 32),
    "imagewoof": ("imagewoof-128px-jpeg.zip", "val", 64),
}
COUNT = 700  # of which a held-out set of 10 classes has half in any class
NOISE, BLUR, CLASSES = (8, 16, 32, 64), (0.5, 1.0, 2.0, 4.0), (7, 4, 2)
# what is expected to get worse; fewer classes leave single images as good as they were
WORSE = {
    "noise": ("Fréchet", "KID", "precision", "coverage"),
    "blur": ("Fréchet", "KID", "precision", "coverage"),
    "fewer classes": ("Fréchet", "KID", "recall", "coverage"),
}


def spoiled(held_out: Dataset) -> dict[str, list[tuple[str, np.ndarray]]]:
    """kind -> (strength, images): the first is untouched."""
    rows, rng = order(held_out), np.random.default_rng(0)
    floor = held_out.images[rows[:COUNT]]
    noisy = [floor + rng.normal(0, sigma, floor.shape) for sigma in NOISE]
    blurred = [ndimage.gaussian_filter(floor.astype(np.float32), (0, sigma, sigma, 0)) for sigma in BLUR]
    first = ("real", floor)
    return {
        "noise": [first, *((f"σ {s}", images) for s, images in zip(NOISE, map(as_bytes, noisy), strict=True))],
        "blur": [first, *((f"σ {s} px", images) for s, images in zip(BLUR, map(as_bytes, blurred), strict=True))],
        "fewer classes": [first, *((f"{k} of {held_out.num_classes}", of_classes(held_out, rows, k)) for k in CLASSES)],
    }


def as_bytes(images: np.ndarray) -> np.ndarray:
    return images.round().clip(0, 255).astype(np.uint8)


def of_classes(held_out: Dataset, rows: np.ndarray, classes: int) -> np.ndarray:
    """COUNT images of the first classes, in equal shares."""
    parts = []
    for label in range(classes):
        share = COUNT // classes + (label < COUNT % classes)
        mine = rows[held_out.labels[rows] == label]
        if len(mine) < share:
            raise SystemExit(f"a class of {held_out.name} has {len(mine)} held-out images, too few for {share}")
        parts.append(held_out.images[mine[:share]])
    return np.concatenate(parts)


def vectors(images: np.ndarray, network: Features) -> np.ndarray:
    parts = torch.from_numpy(images).permute(0, 3, 1, 2).split(64)
    return torch.cat([network(part)[0].cpu() for part in parts]).numpy()


def scores(images: np.ndarray, real: np.ndarray, network: Features) -> dict[str, list[float]]:
    found = compute.all_scores(vectors(images, network), None, None, real, None, network).scores
    return {score.name.partition("[")[0]: [score.value, score.error] for score in found}


def judge(kind: str, rows: list[dict[str, list[float]]]) -> dict[str, str]:
    """Of each score that should: whether the strongest is worse than the floor, and how many steps go which way."""
    verdicts = {}
    for name in WORSE[kind]:
        sign = 1 if name in ("Fréchet", "KID") else -1

        def worse(a: dict[str, list[float]], b: dict[str, list[float]], name: str = name, sign: int = sign) -> int:
            apart, error = sign * (b[name][0] - a[name][0]), (a[name][1] ** 2 + b[name][1] ** 2) ** 0.5
            return 0 if abs(apart) < 2 * error else 1 if apart > 0 else -1

        steps, whole = [worse(a, b) for a, b in itertools.pairwise(rows)], worse(rows[0], rows[-1])
        said = {1: "right", 0: "not told apart", -1: "wrong way"}[whole]
        verdicts[name] = f"{said}; steps: {steps.count(1)} right, {steps.count(0)} not told apart, {steps.count(-1)} wrong"
    return verdicts


def of_set(name: str, network: Features) -> dict:
    file, split, side = SETS[name]
    where = Path(os.environ["GANDER_DATA"]) / file
    real = cached(prepare(open_source(where), side), network).vectors
    held_out = prepare(open_source(where, split=split), side)
    found = {}
    for kind, levels in spoiled(held_out).items():
        rows = [(level, scores(images, real, network)) for level, images in levels]
        found[kind] = {"rows": rows, "verdicts": judge(kind, [row for _, row in rows])}
        print(name, kind, *rows, found[kind]["verdicts"], sep="\n", flush=True)
    return {"side": side, "reference": len(real), "kinds": found}


def tables(found: dict, features: str) -> list[str]:
    lines = []
    for name, of in found.items():
        lines += [f"## {name}, {of['side']} px, {features}: {COUNT:,} held-out images against {of['reference']:,} to train on", ""]
        for kind, told in of["kinds"].items():
            columns = list(told["rows"][0][1])
            lines += [f"| {kind} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
            for level, row in told["rows"]:
                cells = [compute.Score("", *row[c], "", "").worded() for c in columns]
                lines.append(f"| {level} | " + " | ".join(cells) + " |")
            said = [told["verdicts"].get(c, "") for c in columns]
            lines += ["| **moves** | " + " | ".join(said) + " |", ""]
    return lines


def plot(found: dict, file: str) -> None:
    from matplotlib import pyplot

    kinds, names = list(WORSE), ("Fréchet", "KID", "precision", "recall", "coverage")
    figure, axes = pyplot.subplots(len(names), len(kinds), figsize=(11, 12), sharey="row", constrained_layout=True)
    for column, kind in enumerate(kinds):
        for row, name in enumerate(names):
            axis = axes[row][column]
            for of_set, of in found.items():
                rows = of["kinds"][kind]["rows"]
                values, errors = zip(*(scores[name] for _, scores in rows), strict=True)
                axis.errorbar(range(len(rows)), values, [2 * error for error in errors], marker="o", capsize=3, label=of_set)
                axis.set_xticks(range(len(rows)), [level for level, _ in rows])
            if name == "Fréchet":
                axis.set_yscale("log")
            if name == "KID":
                axis.set_yscale("symlog", linthresh=1e-4)
            axis.grid(alpha=0.3)
            axis.set_title(kind if row == 0 else "")
            axis.set_ylabel(name if column == 0 else "")
    axes[0][0].legend()
    figure.suptitle("Scores of spoiled real images (bars: two standard errors)")
    figure.savefig(file, dpi=80)


def peak() -> float:
    """MiB of this process; what getrusage says would be the largest of its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def memory() -> None:
    """In a process of its own: the peak in MiB, after imports and after every score, and the seconds it took."""
    draw = np.random.default_rng(0)
    mix = (draw.standard_normal((256, 2048)) / 16).astype(np.float32)
    before, sets = peak(), [np.empty((50_000, 2048), np.float32) for _ in range(2)]
    for features in sets:
        for start in range(0, len(features), 1000):
            block = draw.standard_normal((1000, 256), np.float32) @ mix
            features[start : start + 1000] = np.maximum(block, 0) + 0.01 * draw.random((1000, 2048), np.float32)
    held, began = peak(), time.perf_counter()
    network = Features("inception", "none", 2048, "tf1", lambda images: (images, None))
    found = compute.all_scores(sets[0], None, None, sets[1], None, network).scores
    print(before, held, peak(), time.perf_counter() - began, *(f"{score.name}={score.value:.6g}" for score in found), sep="\n")


def rates() -> list[tuple[str, int, float]]:
    """(network, side, images/s), the best of 3."""
    torch.manual_seed(0)
    untrained = Inception("tf1").eval().to(memory_format=torch.channels_last)
    nets = [scoring.features_for(torch.device("cpu"), "random-conv"), Features("inception", "none", 2048, "tf1", untrained)]
    found = []
    for network in nets:
        for side in (32, 128):
            images, best = torch.randint(0, 256, (64, 3, side, side), dtype=torch.uint8), 0.0
            for _ in range(3):
                began = time.perf_counter()
                network(images)
                best = max(best, 64 / (time.perf_counter() - began))
            found.append((network.name, side, best))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", default="random-conv")
    parser.add_argument("--weights")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--plot")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory:
        return memory()
    network = scoring.features_for(torch.device("cpu"), asked.features, asked.weights)
    began = time.perf_counter()
    found = {name: of_set(name, network) for name in asked.sets}
    took = time.perf_counter() - began
    if asked.plot:
        plot(found, asked.plot)
    words = subprocess.run([sys.executable, __file__, "--memory"], capture_output=True, text=True, check=True).stdout.split()
    imported, held, most, seconds = map(float, words[:4])
    speeds = rates()
    lines = [
        *tables(found, network.title),
        f"All of these in {took:.0f} s (vectors of the training images included, where the cache had none).",
        "",
        f"Every score of 50,000 × 2048 vectors against 50,000: {seconds:.0f} s; the process's peak is {most:.0f} MiB (kept: under",
        f"1536 MiB), of which {held - imported:.0f} MiB are the two sets and {imported:.0f} MiB the imports.",
        "",
        "| network | px | images/s |",
        "|---|---|---|",
        *(f"| {name} | {side} | {rate:.0f} |" for name, side, rate in speeds),
    ]
    costs = {"memory MiB": {"imports": imported, "sets held": held, "peak": most}, "seconds": seconds, "images/s": speeds}
    keep("scores", {"count": COUNT, "sets": found, "costs": costs}, "\n".join(lines))
    return None


if __name__ == "__main__":
    main()
