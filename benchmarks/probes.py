"""Does attention help to draw what belongs together? Both arms of equal size, several seeds, on the generated probes.

    python benchmarks/probes.py twins --side 16            # about two minutes a run on one core, one run a core
    python benchmarks/probes.py count --side 16

Arms: self-attention (unpooled) and the residual control with as many parameters (1.25·C² + 1), at the same feature map of both
networks; the same seeds, data, steps and rates. The grade is that of 1,000 samples of the averaged generator. A
failed run (NaN) counts as 0.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import keep
from scipy import stats

ARMS = ("full", "residual")
RECIPES = {"twins": "sagan", "count": "sagan_official"}  # count needs labels
RATES = "--batch 64 --generator-lr 5e-4 --discriminator-lr 5e-4 --betas 0.0 0.99 --ema 0.99"


def train(probe: str, side: int, width: int, steps: int, attention_at: int, knobs: str, arm: str, seed: int, folder: Path) -> dict:
    recipe = RECIPES[probe]
    run = folder / f"{probe}{side}-{arm}-{seed}"
    words = (
        f"train {recipe} --data probe:{probe} --resolution {side} --attention {arm} --attention-at {attention_at} --steps {steps}"
    )
    cadence = f"--log-every {steps} --save-every {steps} --sample-every {steps} --score-every {steps // 4} --device cpu"
    command = [sys.executable, "-m", "gander", *f"{words} --width {width} {knobs} {cadence} --seed {seed} --run {run}".split()]
    started = time.time()
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] if (run / "log.jsonl").exists() else []
    curve = {line["step"]: {k: v for k, v in line.items() if k.startswith(probe)} for line in log if f"{probe}/valid" in line}
    failed = None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    print(f"{arm:8} seed {seed}  {curve.get(steps)}  {time.time() - started:.0f} s  {failed or ''}", flush=True)
    return {"arm": arm, "seed": seed, "curve": curve, "failed": failed, "seconds": round(time.time() - started)}


def headline(probe: str) -> str:
    return {"twins": "twins/coherent", "count": "count/right_count"}[probe]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probe", choices=RECIPES)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--knobs", default=RATES, help="further knobs of both arms, in one word")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--attention-at", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=Path("runs/probes"))
    wanted = parser.parse_args()
    recipe = RECIPES[wanted.probe]
    jobs = [(arm, seed) for seed in range(wanted.seeds) for arm in ARMS]
    with ThreadPoolExecutor(wanted.jobs) as pool:
        common = (wanted.probe, wanted.side, wanted.width, wanted.steps, wanted.attention_at, wanted.knobs)
        runs = list(pool.map(lambda job: train(*common, *job, wanted.folder), jobs))

    def final(arm: str, name: str) -> list[float]:
        return [run["curve"].get(wanted.steps, {}).get(name, 0.0) for run in runs if run["arm"] == arm]

    rows = [f"| grade | {' | '.join(ARMS)} | difference, 95 % interval (paired t, n = {wanted.seeds}) |", "|---|---|---|---|"]
    for name in sorted({name for run in runs for grades in run["curve"].values() for name in grades}):
        values = [final(arm, name) for arm in ARMS]
        cells = [f"{statistics.mean(v):.2f} ± {statistics.stdev(v):.2f} ({', '.join(f'{x:.2f}' for x in v)})" for v in values]
        apart = [a - b for a, b in zip(*values, strict=True)]
        half, middle = stats.t.ppf(0.975, len(apart) - 1) * statistics.stdev(apart) / len(apart) ** 0.5, statistics.mean(apart)
        rows.append(f"| {name} | {' | '.join(cells)} | {middle:+.2f} [{middle - half:+.2f}, {middle + half:+.2f}] |")
    marks = sorted({step for run in runs for step in run["curve"]})
    rows += ["", f"| {headline(wanted.probe)} after steps | " + " | ".join(map(str, marks)) + " |", "|---" * (len(marks) + 1) + "|"]
    for arm in ARMS:
        curves = [run["curve"] for run in runs if run["arm"] == arm]
        cells = [[curve.get(step, {}).get(headline(wanted.probe), 0.0) for curve in curves] for step in marks]
        rows.append(f"| {arm} | " + " | ".join(f"{statistics.mean(c):.2f} ± {statistics.stdev(c):.2f}" for c in cells) + " |")
    failed = ", ".join(f"{arm} {sum(bool(run['failed']) for run in runs if run['arm'] == arm)}" for arm in ARMS)
    command = f"gander train {recipe} --width {wanted.width} {wanted.knobs} --steps {wanted.steps}"
    place = f"{wanted.side}×{wanted.side}, attention at {wanted.attention_at}×{wanted.attention_at}"
    title = (
        f"`probe:{wanted.probe}` at {place}: `{command}`. "
        f"Mean ± sd (seeds 0 to {wanted.seeds - 1}) of the grade of 1,000 samples. Failed runs: {failed}."
    )
    settings = {
        "probe": wanted.probe,
        "side": wanted.side,
        "width": wanted.width,
        "steps": wanted.steps,
        "recipe": recipe,
        "knobs": wanted.knobs,
    }
    keep(f"probes-{wanted.probe}-{wanted.side}", {**settings, "runs": runs}, "\n".join([title, "", *rows]))


if __name__ == "__main__":
    main()
