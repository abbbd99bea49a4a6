"""What `gander show` says that a step needs in memory, beside what it needs.

    python benchmarks/memory.py [WORDS]        only the cases whose line holds the words, e.g. "locate 1024"; others stay as kept,
                                                which may be of other versions

Said: the whole of show's line `memory`. Seen: by how much the resident memory of a fresh process grows, from after its imports
(torch, gander, the recipe) to its peak (VmHWM), while it makes the experiment on the CPU and takes two steps of random images;
two, since the first finds neither gradients nor the optimisers' state. So it holds weights, average, gradients, optimisers,
activations, copies inside convolutions, holes in the heap, and what torch loads when it first trains; not the interpreter and
torch's libraries as imported (`imports`), no decoded data set, no workers. Three channels, fp32, one thread. Linux only (/proc).
"""

import json
import multiprocessing
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, keep

from gander import draws, recipes
from gander.estimate import estimate
from gander.recipes.experiment import Facts

CASES: list[tuple[str, dict[str, Any]]] = [
    ("dcgan", {"batch": 16}),
    ("dcgan", {"batch": 64}),
    ("dcgan", {"batch": 128}),
    ("sagan", {"resolution": 64, "batch": 16}),
    ("sagan", {"resolution": 64, "batch": 64}),
    ("sagan", {"resolution": 128, "batch": 32}),
    ("sagan", {"resolution": 64, "batch": 16, "r1": 10.0}),
    ("sagan", {"resolution": 64, "batch": 64, "accumulate": 4}),
    ("sagan_official", {"resolution": 64, "batch": 16}),
    ("sagan_official", {"resolution": 128, "batch": 16}),
    ("locate", {"resolution": 32, "batch": 16}),
    ("locate", {"resolution": 64, "batch": 16}),
    ("locate", {"resolution": 64, "batch": 16, "depth": 4}),
    ("locate", {"resolution": 64, "batch": 16, "depth": 4, "reversible": True}),
    ("locate", {"resolution": 128, "batch": 4}),
    ("locate", {"resolution": 128, "batch": 16}),
    ("locate", {"resolution": 256, "batch": 4}),
    ("locate", {"resolution": 512, "batch": 1}),
    ("locate", {"resolution": 1024, "batch": 1}),
    ("attention_classifier", {"resolution": 64, "batch": 16, "depth": 6}),
    ("all_attention", {"resolution": 32, "batch": 8}),
    ("all_attention", {"resolution": 64, "batch": 4}),
    ("all_attention", {"resolution": 128, "batch": 2, "single_pass": True, "reversible": True}),
    ("all_attention", {"resolution": 256, "batch": 1, "reversible": True}),
    ("all_attention", {"resolution": 256, "batch": 1, "reversible": True, "width": 384, "depth": 12, "tokens": 256}),
    ("all_attention_pyramid", {"resolution": 32, "batch": 8}),
    ("all_attention_pyramid", {"resolution": 64, "batch": 4}),
    ("pixel_discriminator", {"resolution": 32, "batch": 8}),
]
SPARE = 2**30  # bytes that are left to the rest of the machine
STEPS = 2


def made(recipe: str, knobs: dict[str, Any]) -> Any:
    return recipes.load(recipe)(Facts(50_000, 0, 3), **knobs)


def said(recipe: str, knobs: dict[str, Any]) -> float:
    """GB."""
    with torch.device("meta"):
        experiment = made(recipe, knobs)
    found = re.search(r"^memory +about ([\d.,]+) GB", "\n".join(estimate(experiment, 3)), re.MULTILINE)
    assert found
    return float(found.group(1).replace(",", ""))


def of_process(field: str, path: str = "/proc/self/status") -> int:
    """Bytes."""
    return next(1024 * int(line.split()[1]) for line in Path(path).read_text().splitlines() if line.startswith(field))


def seen(recipe: str, knobs: dict[str, Any]) -> dict[str, float]:
    """GB and seconds. MemoryError or RuntimeError sooner than that the machine swaps."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipes.load(recipe)
    before = of_process("VmRSS")
    room = of_process("MemAvailable", "/proc/meminfo") - SPARE
    resource.setrlimit(resource.RLIMIT_DATA, (of_process("VmData") + room,) * 2)
    Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is counted anew
    experiment = made(recipe, knobs)
    learner, side, seconds = experiment.learner.to(torch.device("cpu")), experiment.resolution, 0.0
    share = experiment.batch // learner.accumulate
    for step in range(STEPS):
        batches = [
            [(torch.rand(share, 3, side, side) * 2 - 1, torch.zeros(share, dtype=torch.int64)) for _ in range(learner.accumulate)]
            for _ in range(learner.draws_per_step)
        ]
        started = time.perf_counter()
        learner.step(step, batches, draws.at_step(0, step))
        seconds = time.perf_counter() - started
    return {"seen": (of_process("VmHWM") - before) / 1e9, "imports": before / 1e9, "seconds": seconds}


def told(row: dict[str, Any]) -> str:
    knobs = ", ".join(f"{name} {value}" for name, value in row["knobs"].items() if name not in ("resolution", "batch"))
    size = row["resolution"], row["batch"], knobs or "–"
    if "seen" not in row:
        return "| " + " | ".join(map(str, (row["recipe"], *size, f"{row['said']:.2f}", row["failure"], "–", "–"))) + " |"
    numbers = [f"{number:.2f}" for number in (row["said"], row["seen"], row["said"] / row["seen"])]
    return "| " + " | ".join(map(str, (row["recipe"], *size, *numbers, f"{row['seconds']:.1f}"))) + " |"


def main(words: str) -> None:
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("resident memory is read from /proc, which is Linux's")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    kept = json.loads((RESULTS / "memory.json").read_text())["rows"] if words else []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for recipe, knobs in CASES:
            resolved = recipes.resolve(recipes.load(recipe), knobs)
            row = {"recipe": recipe, "knobs": knobs, "resolution": resolved["resolution"], "batch": resolved["batch"]}
            if not all(word in f"{recipe} {row['resolution']} {knobs}" for word in words.split()):
                rows += [old for old in kept if row.items() <= old.items()]
                continue
            row["said"] = pool.apply(said, (recipe, knobs))
            try:
                row |= pool.apply(seen, (recipe, knobs))
            except (MemoryError, RuntimeError) as failure:
                row["failure"] = str(failure).splitlines()[0][:60]
            rows.append(row)
            print(told(row), file=sys.stderr, flush=True)
    if not any(row not in kept for row in rows):
        sys.exit(f"no case holds {words!r}")
    ratios = [row["said"] / row["seen"] for row in rows if "seen" in row]
    imports = max(row["imports"] for row in rows if "seen" in row)
    table = [
        f"Memory of {STEPS} training steps on a CPU: as `gander show` says it, and by how much the resident memory of a fresh",
        f"process grew to its peak over that after its imports ({imports:.2f} GB, not counted). fp32, one thread; GB of 10⁹ bytes;",
        "s: the last of the steps, on a machine that others used too.",
        "",
        "| recipe | resolution | batch | other knobs | said | seen | said / seen | s |",
        "|" + "---|" * 8,
        *map(told, rows),
        "",
        f"said / seen over {len(ratios)} cases: from {min(ratios):.2f} to {max(ratios):.2f}.",
    ]
    keep("memory", {"rows": rows}, "\n".join(table))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
