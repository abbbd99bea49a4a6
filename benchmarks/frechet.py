"""Fréchet distance against pytorch-fid and torch-fidelity, from features to the number and from statistics; memory of the scores.

    OMP_NUM_THREADS=1 GANDER_PEERS=FOLDER python benchmarks/frechet.py [--only F1 F2 F3 manifold memory]

FOLDER holds `git clone https://github.com/mseitzer/pytorch-fid` and `git clone https://github.com/toshas/torch-fidelity`. Only
their files with the formula are loaded, as the rest wants torchvision. Without FOLDER their formulas stand in: scipy's sqrtm
and numpy's eigvals of the product of the covariances.

Features are 2048 relus of a random mixture, as in a network's last layer. The truth is the nuclear norm of R₁R₂ᵀ, with R of a QR
of the centred features: float64, nothing squared. Figures are CPU seconds of one thread (others may be at work), in turns
within a round; ratios are of medians over the rounds.

- F1: 10,000 and 10,000 images, from statistics: at least 2 and 6 times as fast, error below 1e-9.
- F2: 1,000 and 1,000, from features, against the peers from their statistics: at least 9 and 40 times, a set against itself
  within 1e-9 of zero.
- F3: 1,000 and 1,000, from statistics alone: error at most 5e-6, at least 1.1 times as fast as torch-fidelity.
- manifold: precision, recall, density and coverage on 10,000 × 10,000 × 2048, beside the plain way with whole matrices.
- memory: the peak of a process that scores 50,000 × 2048 float32 features, which it holds.
"""

import argparse
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from machine import RESULTS, keep

from gander.metrics import Moments, frechet_distance, precision_recall

D = 2048
ROUNDS = {"F1": 3, "F2": 3, "F3": 3}
TARGETS = {
    "F1": {"pytorch-fid": 6, "torch-fidelity": 2},
    "F2": {"pytorch-fid": 40, "torch-fidelity": 9},
    "F3": {"torch-fidelity": 1.1},
}
ERRORS = {"F1": 1e-9, "F2": 1e-9, "F3": 5e-6}
Statistics = tuple[np.ndarray, np.ndarray]
Peer = Callable[[Statistics, Statistics], float]


def features(n: int, seed: int) -> np.ndarray:
    """(n, 2048) float64: relus of a mixture of 512 Gaussians and a little noise of their own."""
    mix = torch.randn(512, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 512**0.5
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 512, generator=draw, dtype=torch.float64) @ mix
    return (z + 0.3 * torch.randn(n, D, generator=draw, dtype=torch.float64)).relu_().mul_(0.5).numpy()


def truth(x: np.ndarray, y: np.ndarray) -> float:
    roots = [np.linalg.qr((z - z.mean(0)) / np.sqrt(len(z) - 1), mode="r") for z in (x, y)]
    traces = sum(np.square(root).sum() for root in roots)
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + traces - 2 * overlap)


# The peers ---------------------------------------------------------------------------------------------------------------


def package(name: str, folder: Path, *empty: str) -> None:
    """A package whose files can be imported one by one, and modules of nothing in place of what they do not need here."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
    for other in empty:
        nothing = types.ModuleType(other)
        nothing.__getattr__ = lambda name: None  # type: ignore[method-assign]
        sys.modules[other] = nothing


def by_sqrtm(x: Statistics, y: Statistics) -> float:
    root = scipy.linalg.sqrtm(x[1] @ y[1])
    return float(np.square(x[0] - y[0]).sum() + np.trace(x[1]) + np.trace(y[1]) - 2 * np.trace(root).real)


def by_eigvals(x: Statistics, y: Statistics) -> float:
    root = np.sqrt(np.linalg.eigvals(x[1] @ y[1]).astype("complex128")).real.sum()
    return float(np.square(x[0] - y[0]).sum() + np.trace(x[1]) + np.trace(y[1]) - 2 * root)


def peers() -> tuple[dict[str, Peer], str]:
    folder = Path(os.environ.get("GANDER_PEERS", ""))
    if not os.environ.get("GANDER_PEERS"):
        return {"pytorch-fid": by_sqrtm, "torch-fidelity": by_eigvals}, "their published formulas"
    package("pytorch_fid", folder / "pytorch-fid" / "src" / "pytorch_fid", "pytorch_fid.inception", "torchvision.transforms")
    package("torchvision", folder, "torchvision.transforms")
    package("torch_fidelity", folder / "torch-fidelity" / "torch_fidelity", "torch_fidelity.utils")
    sys.modules["pytorch_fid.inception"].InceptionV3 = types.SimpleNamespace(BLOCK_INDEX_BY_DIM={D: 3})  # it is asked for
    first = importlib.import_module("pytorch_fid.fid_score").calculate_frechet_distance
    second = importlib.import_module("torch_fidelity.metric_fid").fid_statistics_to_metric

    def fidelity(x: Statistics, y: Statistics) -> float:
        named = [{"mu": mu, "sigma": sigma} for mu, sigma in (x, y)]
        return second(*named, verbose=False)["frechet_inception_distance"]

    return {"pytorch-fid": lambda x, y: float(first(*x, *y)), "torch-fidelity": fidelity}, "their own code"


# The races ---------------------------------------------------------------------------------------------------------------


def forgetful(x: np.ndarray) -> Callable[[], Moments]:
    """Makes moments that hold statistics alone, and no factor yet."""
    mean = x.mean(0)
    scatter = (x - mean).T @ (x - mean)
    tensors = {"count": torch.tensor(len(x)), "mean": torch.from_numpy(mean), "scatter": torch.from_numpy(scatter)}
    return lambda: Moments.from_tensors(tensors)


def seconds(function: Callable[[], float]) -> tuple[float, float]:
    started = time.process_time()
    value = function()
    return time.process_time() - started, value


def race(name: str) -> dict[str, Any]:
    """Each way's times, error and distance of a set to itself; peers and truth get the same numbers."""
    n = 10_000 if name == "F1" else 1_000
    x, y = features(n, 1), features(n, 2)
    true = truth(x, y)
    of = [(z.mean(0), np.cov(z, rowvar=False)) for z in (x, y)]
    first, second = forgetful(x), forgetful(y)
    known = second()
    known.root()
    ways: dict[str, tuple[Callable, Callable]] = {
        peer: (lambda way=way: way(*of), lambda way=way: way(of[0], of[0])) for peer, way in peers()[0].items()
    }
    if name == "F2":  # with the means and all: as one would call it
        ways["gander"] = (lambda: frechet_distance(x, y), lambda: frechet_distance(x, x))
    else:
        made: list[Moments] = []
        ways["gander"] = (lambda: frechet_distance(*made), lambda: frechet_distance(first(), first()))
        ways["gander, reference factored before"] = (lambda: frechet_distance(made[0], known), lambda: 0.0)
    found: dict[str, dict[str, Any]] = {way: {"seconds": []} for way in ways}
    for turn in range(ROUNDS[name]):
        for way, (score, itself) in ways.items():
            if name != "F2":
                made[:] = [first(), second()]  # to read statistics is no part of it, for peers neither
            time_taken, value = seconds(score)
            found[way]["seconds"].append(time_taken)
            found[way]["error"] = value - true
            if turn == 0 and (name == "F2" or way == "gander"):  # it takes long, and tells of peers where there are few
                found[way]["itself"] = itself()
        print(name, turn, {way: round(one["seconds"][-1], 2) for way, one in found.items()}, flush=True)
    return {"n": n, "truth": true, "rounds": ROUNDS[name], "ways": found}


# Memory ------------------------------------------------------------------------------------------------------------------


def plainly(x: np.ndarray, y: np.ndarray) -> tuple[float, ...]:
    """Precision, recall, density and coverage with whole matrices, as packages do; float64."""

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return torch.cdist(torch.from_numpy(a), torch.from_numpy(b)).numpy()

    near = [np.partition(apart(z, z), (3, 5), 1)[:, [3, 5]] for z in (x, y)]
    between = apart(x, y)
    balls = between <= near[1][:, 1]
    recall = (between <= near[0][:, :1]).any(0).mean()
    return (between <= near[1][:, 0]).any(1).mean(), recall, balls.sum() / 5 / len(x), balls.any(0).mean()


def resident(kind: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most since `from_here` (Linux)."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind)) / 1024


def from_here() -> float:
    """Forget the peak of what made the features; MiB held now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def alone(task: str) -> None:
    """One task in a process of its own, since a peak is for ever."""
    warnings.simplefilter("ignore")
    if task == "memory":
        draw = np.random.default_rng(0)
        x = np.empty((50_000, D), np.float32)
        for at in range(0, len(x), 1000):
            x[at : at + 1000] = draw.standard_normal((1000, D))
        y = Moments.of(x[:10_000])
        held = from_here()
        taken, value = seconds(lambda: frechet_distance(x, y))
        print(json.dumps({"seconds": taken, "distance": value, "held": held, "peak": resident("VmHWM")}))
        return
    x, y = (features(10_000, seed).astype(np.float32).astype(np.float64) for seed in (1, 2))
    held = from_here()
    started = time.process_time()
    if task == "plainly":
        values = tuple(map(float, plainly(x, y)))
    else:
        values = tuple(share.value for share in precision_recall(x, y))
    print(json.dumps({"seconds": time.process_time() - started, "values": values, "held": held, "peak": resident("VmHWM")}))


def in_a_process(task: str) -> dict[str, Any]:
    out = subprocess.run([sys.executable, __file__, "--alone", task], check=True, capture_output=True, text=True).stdout
    print(task, out.strip(), flush=True)
    return json.loads(out.splitlines()[-1])


# The tables --------------------------------------------------------------------------------------------------------------


def rows_of_race(name: str, result: dict[str, Any]) -> list[str]:
    medians = {way: statistics.median(one["seconds"]) for way, one in result["ways"].items()}
    rows = []
    for way, one in result["ways"].items():
        spread = f"{min(one['seconds']):.3g} to {max(one['seconds']):.3g}"
        faster, verdict = "", ""
        if way in TARGETS[name]:
            ratio = medians[way] / medians["gander"]
            faster = f"{ratio:.3g}"
            verdict = f"{'kept' if ratio >= TARGETS[name][way] else 'MISSED'}: ≥ {TARGETS[name][way]}"
        elif way == "gander":
            kept = abs(one["error"]) <= ERRORS[name]
            verdict = f"{'kept' if kept else 'MISSED'}: error ≤ {ERRORS[name]:g}"
        elif not way.startswith("gander"):
            faster = f"{medians[way] / medians['gander']:.3g}"
        errors = [f"{one[kind]:.1e}" if kind in one else "" for kind in ("error", "itself")]
        row = [name, result["n"], way, f"{medians[way]:.3g}", spread, *errors, faster, verdict]
        rows.append("| " + " | ".join(map(str, row)) + " |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="*", help="measure these anew and keep the other results", default=[*ROUNDS, "manifold", "memory"]
    )
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("say OMP_NUM_THREADS=1: numpy's threads are set before it starts, and CPU seconds of several add up")
    if asked.alone:
        alone(asked.alone)
        return
    warnings.simplefilter("ignore")  # scipy on its own arguments
    before = RESULTS / "frechet.json"
    kept = json.loads(before.read_text()) if before.exists() else {}
    result: dict[str, Any] = {**{name: kept[name] for name in (*ROUNDS, "manifold", "memory") if name in kept}, "peers": peers()[1]}
    table = [f"CPU seconds of one thread, {D} dimensions, float64; the peers by {peers()[1]}; times are medians.", ""]
    table += ["| row | n of each | way | s | least to most | error | set against itself | gander is faster by | target |"]
    table += ["|---|---|---|---|---|---|---|---|---|"]
    for name in ROUNDS:
        if name in asked.only:
            result[name] = race(name)
        table += rows_of_race(name, result[name]) if name in result else []
    table += ["", f"Rounds: {', '.join(f'{name} {ROUNDS[name]}' for name in ROUNDS)}.", ""]
    if "manifold" in asked.only:
        result["manifold"] = {way: in_a_process(way) for way in ("plainly", "blocks")}
    if "manifold" in result:
        table += ["| precision, recall, density, coverage | s, n = 1 | MiB above the features | values |", "|---|---|---|---|"]
        for way, one in result["manifold"].items():
            values = ", ".join(f"{value:.4f}" for value in one["values"])
            table += [f"| {way}, 10,000 × 10,000 × {D} | {one['seconds']:.3g} | {one['peak'] - one['held']:.0f} | {values} |"]
    if "memory" in asked.only:
        result["memory"] = in_a_process("memory")
    if "memory" in result:
        one = result["memory"]
        verdict = "kept" if one["peak"] < 1536 else "MISSED"
        table += [
            "",
            f"50,000 × {D} float32 features: the process's peak is {one['peak']:.0f} MiB, the features themselves 391 MiB",
        ]
        table += [f"and imports included ({verdict}: under 1536 MiB); the distance takes {one['seconds']:.3g} s."]
    keep("frechet", result, "\n".join(table))


if __name__ == "__main__":
    main()
