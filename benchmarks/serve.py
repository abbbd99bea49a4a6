"""What one waits for at `gander serve`: a first 32 px image, a sheet, the way between samples, the explorer.

    OMP_NUM_THREADS=2 python benchmarks/serve.py

Targets: a first 32 px image in under 300 ms on two cores after warm-up; the explorer answers a pointer move within a frame
(16.7 ms). The run is `sagan` with its default knobs at 32 px, untrained, served by `gander serve` in a process of its own. Times of
answers are from before the connection is made to the last byte; those of the explorer are what its painting takes of a frame in a
headless Chromium, where there is one.
"""

import http.client
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import keep

from gander import recipes
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.train import checkpoint

N = 50
ASKED = {
    "one image": "/api/sample.png?seed={}",
    "32 images": "/api/samples?count=32&seed={}",
    "between four samples": "/api/between.png?seed={}",
    "maps of all positions": "/api/look?seed={}",
    "health, while idle": "/health",
}
MOVES = """async () => {
    const target = document.querySelector("#target"), box = target.getBoundingClientRect(), took = [];
    for (let i = 0; i < 100; i++) {
        const [x, y] = [(i * 7) % 32, (i * 5) % 32].map(place => (place + 0.5) / 32);
        const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true };
        const started = performance.now();
        target.dispatchEvent(new PointerEvent("pointermove", at));
        const heard = performance.now() - started;
        took.push(await new Promise(go => requestAnimationFrame(begun => go(heard + performance.now() - begun))));
    }
    return took;
}"""


def make_run(folder: Path) -> Run:
    facts = Facts(50_000, 0, 3)
    resolved = recipes.resolve(recipes.load("sagan"), {"resolution": 32})
    run = Run.start(folder, {"recipe": "sagan", "knobs": resolved, "facts": vars(facts), "seed": 0})[0]
    checkpoint.save(run.checkpoints, 1, recipes.load("sagan")(facts, **resolved).networks, {})
    return run


def seconds(port: int, path: str) -> float:
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    connection.close()
    return time.perf_counter() - started


def painting(port: int) -> list[float]:
    """Seconds of a frame that the explorer takes for a move of the pointer; none where there is no browser."""
    found = shutil.which("chromium")
    if not found:
        return []
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#panels figure")
        took = page.evaluate(MOVES)
        browser.close()
    return [ms / 1000 for ms in took[10:]]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run")
        words = [sys.executable, "-m", "gander", "serve", str(run.folder), "--port", "0", "--device", "cpu"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            port = int(re.search(r":(\d+)/", process.stdout.readline())[1])  # type: ignore[index]
            rows = {"the very first image": [seconds(port, "/api/sample.png?seed=99")]}
            for i in range(N):  # in turn: what else the machine does meets all alike
                for name, path in ASKED.items():
                    rows.setdefault(name, []).append(seconds(port, path.format(i)))
            if moves := painting(port):
                rows["a pointer move over the explorer, of its frame"] = moves
        finally:
            process.terminate()
            process.wait(30)
    lines = ["| what | median ms | 95 % | most | n |", "|---|---|---|---|---|"]
    for name, took in rows.items():
        ms = sorted(1000 * s for s in took)
        high = ms[min(len(ms) - 1, int(0.95 * len(ms)))]
        lines.append(f"| {name} | {statistics.median(ms):.1f} | {high:.1f} | {ms[-1]:.1f} | {len(ms)} |")
    keep("serve", {"seconds": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
