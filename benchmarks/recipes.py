"""Images a second and peak memory of a training step of every recipe, at 32, 64 and 128 px.

    python benchmarks/recipes.py [--batch 8] [--device cuda] [--only NAME ...]

Every recipe of `gander.recipes.RECIPES` with its default knobs; on a CPU with a small batch, on CUDA with its own unless
--batch says another. Each row is a process of its own: a warm-up step, then two to ten more, as they fit into 6 seconds.
Time on a CPU is CPU seconds of one thread, and memory the peak of the resident set above what it was with all imported and
nothing made; on CUDA the GPU's own clock, and torch's peak of allocated memory. Images are the real ones of a step.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import keep

from gander import draws, recipes
from gander.errors import UserError
from gander.recipes.experiment import Facts

SIDES, PRECISIONS = (32, 64, 128), ("fp32", "bf16")
FACTS = Facts(50_000, 10, 3)
CPU_BATCH, BUDGET, LEAST, MOST = 8, 6.0, 2, 10


def resident(peak: bool) -> int:
    """Bytes of this process in memory: now, or the most there were."""
    status = Path("/proc/self/status")
    if not status.exists():
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * int(lines["VmHWM" if peak else "VmRSS"].split()[0])


def step_seconds(learner: Any, batches: list[Any], step: int, device: torch.device) -> float:
    if device.type != "cuda":
        started = time.process_time()
        learner.step(step, batches, draws.at_step(0, step))
        return time.process_time() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    learner.step(step, batches, draws.at_step(0, step))
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def measured(name: str, side: int, precision: str, batch: int, device: torch.device) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.zeros(1, device=device)
    rest = resident(peak=False)
    recipe = recipes.load(name)
    knobs = {"resolution": side, **({"batch": batch} if batch else {})}
    experiment = recipe(FACTS, **recipes.resolve(recipe, knobs))
    learner = experiment.learner.to(device, precision)
    share = experiment.batch // learner.accumulate
    images = (torch.rand(share, FACTS.channels, side, side, device=device) * 2 - 1).to(memory_format=torch.channels_last)
    labels = torch.arange(share, device=device) % FACTS.num_classes
    batches = [[(images, labels)] * learner.accumulate] * learner.draws_per_step
    first = step_seconds(learner, batches, 0, device)
    count = min(MOST, max(LEAST, int(BUDGET / first)))
    seconds = [step_seconds(learner, batches, i, device) for i in range(1, count + 1)]
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident(peak=True) - rest
    return {"batch": experiment.batch, "images": experiment.batch * learner.draws_per_step, "seconds": seconds, "peak": peak}


def in_a_child(*words: Any) -> dict[str, Any]:
    """`measured` in a fresh process; {"refused": why} where the recipe cannot be had so."""
    command = [sys.executable, __file__, "--child", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        return {"refused": (done.stderr.strip().splitlines() or ["no word"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def row(found: dict[str, Any]) -> str:
    start = f"| {found['recipe']} | {found['side']} | {found['precision']} |"
    if "refused" in found:
        return f"{start} {found['refused']} | | | | | |"
    s = found["seconds"]
    median = statistics.median(s)
    speed, spread = found["images"] / median, f"{min(s):.3g} to {max(s):.3g} | {len(s)}"
    return f"{start} {found['batch']} | {speed:.3g} | {median:.3g} | {spread} | {found['peak'] / 2**20:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, help=f"by default {CPU_BATCH} on a CPU, the recipe's own on CUDA")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", default=list(recipes.RECIPES), help="recipes; the table is then not kept")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.child:
        name, side, precision, batch, device = wanted.child
        try:
            print(json.dumps(measured(name, int(side), precision, int(batch), torch.device(device))))
        except UserError as error:
            sys.exit(str(error))
        return
    torch.set_num_threads(1)
    cuda = torch.device(wanted.device).type == "cuda"
    batch = wanted.batch or (0 if cuda else CPU_BATCH)  # 0 is the recipe's own
    results = []
    for name in wanted.only:
        for side in SIDES:
            for precision in PRECISIONS:
                found = in_a_child(name, side, precision, batch, wanted.device)
                results.append({"recipe": name, "side": side, "precision": precision, **found})
                print(row(results[-1]), file=sys.stderr)
    how = "seconds and memory of the GPU" if cuda else "CPU seconds of one thread, peak of resident memory above rest"
    head = [
        f"A training step of every recipe with its default knobs{f' but batch {batch}' if batch else ''}; {how}.",
        "",
        "| recipe | px | precision | batch | images/s | s a step, median | least to most | n | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    table = "\n".join([*head, *map(row, results)])
    if wanted.only == list(recipes.RECIPES):
        keep("recipes-cuda" if cuda else "recipes", {"results": results}, table)
    else:
        print(table)


if __name__ == "__main__":
    main()
