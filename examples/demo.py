"""What attention is for, in about three minutes on a CPU: `make demo`.

Two small GANs learn to draw twins: two discs, left and right, that share one colour and one size. They are equal but for one
layer at 8×8, of equal size: self-attention in one, a residual block in the other. Convolutions cannot see both discs
at once there; attention can. Each arm trains on one core, by the command that you would type.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ARMS = {"full": "with self-attention", "residual": "without (a residual block)"}
STEPS = int(os.environ.get("DEMO_STEPS", "1250"))
SEED = 0
FOLDER = Path("runs/demo")


def command(attention: str) -> list[str]:
    knobs = f"--resolution 16 --width 16 --attention {attention} --attention-at 8 --steps {STEPS}"
    rates = "--generator-lr 5e-4 --discriminator-lr 5e-4 --betas 0.0 0.99 --ema 0.99"
    cadence = "--score-every 250 --sample-every 250 --log-every 250"
    where = f"--data probe:twins --seed {SEED} --run {FOLDER / attention} --device cpu"
    return ["train", "sagan", *f"{where} {knobs} {rates} {cadence}".split()]


def grades(attention: str) -> dict[int, dict[str, float]]:
    """Step -> grades, of what the run has logged so far."""
    log = FOLDER / attention / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {line["step"]: line for line in lines if "twins/coherent" in line}


def side_by_side(step: int) -> Path:
    """The last samples of both arms next to each other, the first 16 of each."""
    sheets = []
    for attention, words in ARMS.items():
        image = Image.open(FOLDER / attention / "samples" / f"{step:08d}.png").convert("RGB")
        side = image.width
        sheet = Image.new("RGB", (side, side + 24), "white")
        sheet.paste(image, (0, 24))
        ImageDraw.Draw(sheet).text((6, 6), words, "black")
        sheets.append(np.asarray(sheet))
    gap = np.full((sheets[0].shape[0], 24, 3), 255, np.uint8)
    path = FOLDER / "demo.png"
    Image.fromarray(np.hstack([sheets[0], gap, sheets[1]])).save(path)
    return path


def main() -> int:
    started = time.time()
    FOLDER.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # one core an arm
    print(f"Two GANs of {STEPS:,} steps, one on each core. An arm by itself:\n  gander {' '.join(command('full'))}\n")
    arms = {}
    for attention in ARMS:
        log = (FOLDER / f"{attention}.txt").open("w")
        words = [sys.executable, "-m", "gander", *command(attention)]
        arms[attention] = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment)
    print("share of samples that are two valid discs of one colour and one size:\n")
    print(f"{'step':>6}  {ARMS['full']:>28}  {ARMS['residual']:>28}")
    told: set[int] = set()
    try:
        while True:
            running = any(arm.poll() is None for arm in arms.values())
            curves = {attention: grades(attention) for attention in ARMS}
            for step in sorted(set.intersection(*(set(curve) for curve in curves.values())) - told):
                told.add(step)
                cells = "  ".join(f"{curves[attention][step]['twins/coherent']:>28.0%}" for attention in ARMS)
                print(f"{step:>6,}  {cells}", flush=True)
            if not running:
                break
            time.sleep(1)
    except KeyboardInterrupt:
        for arm in arms.values():
            arm.wait()  # they heard it too, and save
        print("\nstopped and saved; make demo goes on")
        return 130
    if failed := [attention for attention, arm in arms.items() if arm.returncode]:
        print((FOLDER / f"{failed[0]}.txt").read_text()[-2000:], file=sys.stderr)
        return 1
    last = {attention: grades(attention)[STEPS] for attention in ARMS}
    print()
    for name, words in {
        "twins/valid": "two valid discs",
        "twins/hue_agrees": "of those, one colour",
        "twins/radius_agrees": "of those, one size",
        "twins/hues_covered": "colours in use",
    }.items():
        print(f"{words:>22}: " + "   ".join(f"{ARMS[attention]} {last[attention][name]:.0%}" for attention in ARMS))
    print(f"\n{time.time() - started:.0f} s. Look at both: {side_by_side(STEPS)}")
    report = FOLDER / "report.html"
    words = [sys.executable, "-m", "gander", "report", *(str(FOLDER / attention) for attention in ARMS), "--out", str(report)]
    if subprocess.run([*words, "--device", "cpu"], stdout=subprocess.DEVNULL).returncode:
        return 1  # its own line says why
    print(f"Both over time, and where attention looks: {report.resolve().as_uri()}")
    print("One seed proves nothing: see benchmarks/ for five.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
