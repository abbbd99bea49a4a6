"""What a report costs: a run of 100 grids of samples and four attention layers, and a move of the pointer in its explorer.

    python benchmarks/report.py

Claims: `gander report RUN` takes under 30 s on two cores, and the page answers a move of the pointer within a frame (16 ms). The
run is made up: the recipe `sagan` at 64 px, width 32, with unpooled attention at 16 × 16 and 32 × 32 in both networks, 100 grids of
8 × 8 noisy images, 2,000 lines of log, 64 images to look at. Seconds of whole processes, first from a run that was never looked at
(maps, pictures, page), then with what that left (the page alone): of the CPU, which others on the machine do not lengthen, and by
the wall. Pointer: performance.now() around a pointermove event in a headless Chromium, in which all panels are drawn and laid out,
at 400 random places; to this the browser adds what it takes to put them on the screen.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import keep
from PIL import Image

from gander import recipes
from gander.data import open_source, prepare
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.train import checkpoint

SIDE, GRIDS, LINES, ROUNDS, MOVES = 64, 100, 2_000, 3, 400
POINTING = """(moves) => {
    const target = document.getElementById("target"), box = target.getBoundingClientRect(), times = [];
    for (let i = 0; i < moves; i++) {
        const clientX = box.left + Math.random() * box.width, clientY = box.top + Math.random() * box.height;
        const event = new PointerEvent("pointermove", { clientX, clientY }), began = performance.now();
        target.dispatchEvent(event);
        target.nextElementSibling.getBoundingClientRect(); // with its layout
        times.push(performance.now() - began);
    }
    return times;
}"""


def make_run(folder: Path, images: Path) -> Run:
    generator = np.random.default_rng(0)
    images.mkdir()
    for i in range(64):
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(images / f"{i}.png")
    facts, given = Facts(64, 0, 3), {"resolution": SIDE, "width": 32, "attention": "full", "attention_at": (16, 32)}
    knobs = recipes.resolve(recipes.load("sagan"), given)
    described: dict[str, Any] = {"recipe": "sagan", "knobs": knobs, "facts": vars(facts), "classes": [], "seed": 0}
    data = {
        "name": "noise",
        "split": None,
        "where": str(images),
        "fingerprint": prepare(open_source(str(images)), SIDE).fingerprint,
    }
    run = Run.start(folder, described | {"data": data})[0]
    torch.manual_seed(0)
    networks = recipes.load("sagan")(facts, **knobs).networks
    checkpoint.save(run.checkpoints, LINES * 50, networks, {})
    names = [f"sigma/{name}.layers.{i}" for name in ("generator", "discriminator") for i in range(12)]
    names += ["generator_loss", "discriminator_loss", "gamma/generator.layers.6", "images_per_second"]
    for step, values in enumerate(generator.normal(size=(LINES, len(names))), 1):
        run.log({"step": 50 * step, "time": 1e9 + step, **dict(zip(names, values.tolist(), strict=True))})
    run.samples.mkdir()
    side = 8 * (SIDE + 2) - 2
    smooth = Image.fromarray(generator.integers(0, 256, (side // 4, side // 4, 3), np.uint8)).resize((side, side))
    for i in range(GRIDS):
        noisy = np.roll(np.asarray(smooth), 5 * i, 0) // 2 + generator.integers(0, 128, (side, side, 3), np.uint8)
        Image.fromarray(noisy).save(run.samples / f"{1000 * i:08d}.png")
    return run


def pointing(page: Path) -> tuple[list[float], int]:
    """Milliseconds of each move, and the panels that each draws."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.as_uri())
        tab.wait_for_selector("#panels canvas")
        tab.evaluate(POINTING, 50)
        return tab.evaluate(POINTING, MOVES), tab.locator("#panels figure").count()


def cpu() -> float:
    """Seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    seconds: dict[str, list[tuple[float, float]]] = {"maps, pictures and page": [], "the page alone": []}
    with tempfile.TemporaryDirectory() as made:
        os.environ["GANDER_CACHE"] = f"{made}/cache"
        run = make_run(Path(made) / "run", Path(made) / "noise")
        for _ in range(ROUNDS):
            shutil.rmtree(run.folder / "look", ignore_errors=True)
            for what in seconds:
                began, used = time.perf_counter(), cpu()
                words = [sys.executable, "-m", "gander", "report", str(run.folder), "--device", "cpu"]
                subprocess.run(words, check=True, capture_output=True)
                seconds[what].append((cpu() - used, time.perf_counter() - began))
        page = run.folder / "report.html"
        size, (moves, panels) = page.stat().st_size, pointing(page)
    rows = [
        f"| a run of {GRIDS} grids, 4 layers (n = {ROUNDS}) | CPU s, median | least | most | wall s, median |",
        "|---|---|---|---|---|",
    ]
    for name, found in seconds.items():
        used, wall = zip(*found, strict=True)
        rows.append(
            f"| {name} | {statistics.median(used):.1f} | {min(used):.1f} | {max(used):.1f} | {statistics.median(wall):.1f} |"
        )
    middle, most = statistics.median(moves), statistics.quantiles(moves, n=100)[98]
    said = f"The page has {size / 1e6:.1f} MB. A move of the pointer draws {panels} panels in {middle:.2f} ms"
    said += f" (median of {MOVES}; 99 of 100 under {most:.2f} ms, the longest {max(moves):.2f} ms)."
    keep(
        "report",
        {"seconds_cpu_and_wall": seconds, "bytes": size, "moves_ms": moves, "panels": panels},
        "\n".join([*rows, "", said]),
    )
    assert statistics.median(used for used, _ in seconds["maps, pictures and page"]) < 30
    assert size < 10_000_000
    assert middle < 16


if __name__ == "__main__":
    main()
