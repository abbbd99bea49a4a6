"""From a zip to batches: how long the first preparation takes, how long the second, and what share of a step data is.

    python benchmarks/data.py DATA [--resolution 32]

Targets, for 50,000 JPEGs of 32 px in a zip: ready within a minute on two cores the first time, at once the second; then
data is under 3 % of a training step (recipe sagan_official at width 16, batch 64; CPU seconds of this process, since others
may be running). Each preparation starts from an empty cache.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from machine import keep

N = 3
PREPARE = """
import sys, time
started = time.perf_counter()
from gander.data import open_source, prepare
dataset = prepare(open_source(sys.argv[1]), int(sys.argv[2]), progress=False)
print(len(dataset), time.perf_counter() - started)
"""


def prepared(data: str, resolution: int, cache: str) -> tuple[int, float]:
    command = [sys.executable, "-c", PREPARE, data, str(resolution)]
    out = subprocess.run(command, env={**os.environ, "GANDER_CACHE": cache}, check=True, capture_output=True, text=True).stdout
    count, seconds = out.split()
    return int(count), float(seconds)


def share_of_a_step(data: str, resolution: int) -> tuple[list[float], list[float]]:
    import torch

    from gander import draws, recipes
    from gander.data import open_source, prepare
    from gander.data.batches import Batches
    from gander.recipes.experiment import Facts

    torch.set_num_threads(1)
    dataset = prepare(open_source(data), resolution, progress=False)
    facts = Facts(len(dataset), dataset.num_classes, 3)
    experiment = recipes.load("sagan_official")(facts, resolution=resolution, width=16, batch=64)
    learner = experiment.learner.to(torch.device("cpu"))
    batches = Batches(dataset.images, dataset.labels, batch=64, seed=0)
    fetching, stepping = [], []
    for step in range(25):
        a = time.process_time()
        batch = batches(step)
        b = time.process_time()
        learner.step(step, batch, draws.at_step(0, step))
        c = time.process_time()
        if step >= 5:
            fetching.append(b - a)
            stepping.append(c - b)
    return fetching, stepping


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--resolution", type=int, default=32)
    wanted = parser.parse_args()
    first, second, count = [], [], 0
    for _ in range(N):
        with tempfile.TemporaryDirectory() as cache:
            count, seconds = prepared(wanted.data, wanted.resolution, cache)
            first.append(seconds)
            second.append(prepared(wanted.data, wanted.resolution, cache)[1])
    fetching, stepping = share_of_a_step(wanted.data, wanted.resolution)
    shares = [f / (f + s) for f, s in zip(fetching, stepping, strict=True)]

    def row(name: str, values: list[float], unit: str) -> str:
        return f"| {name} | {statistics.median(values):.4g} {unit} | {min(values):.4g} | {max(values):.4g} | {len(values)} |"

    rows = [
        f"{count:,} images at {wanted.resolution} px.",
        "",
        "| what | median | least | most | n |",
        "|---|---|---|---|---|",
        row("first preparation, wall", first, "s"),
        row("second, wall", second, "s"),
        row("a batch of 64, CPU", [1000 * f for f in fetching], "ms"),
        row("a step without it, CPU", [1000 * s for s in stepping], "ms"),
        row("share of data in a step", [100 * share for share in shares], "%"),
    ]
    result = {
        "images": count,
        "resolution": wanted.resolution,
        "first": first,
        "second": second,
        "fetch": fetching,
        "step": stepping,
    }
    keep("data", result, "\n".join(rows))


if __name__ == "__main__":
    main()
