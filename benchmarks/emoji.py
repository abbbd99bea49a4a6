"""LocAtE and attention alone beside SAGAN on emoji of 32 px at equal time: what do a dozen minutes of one core give?

    OMP_NUM_THREADS=1 python benchmarks/emoji.py            # GANDER_DATA: a folder with noto-emoji-128px-png.zip

Each run is one `gander train`, which this prints; steps are such that all but that on 200 images took 12 minutes of CPU time here.
Stop it when you like, and say the same again: runs go on. They are in studies/emoji; look at their samples. Scores are those of
`gander score`: Fréchet[random-conv] and recall of 2,560 samples against all images. Of the recipes only all_attention uses the
labels. One seed: errors are those of the scores, not of runs.
"""

import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import keep

from gander.files import read_json, write_json

FOLDER, FEATURES = Path("studies") / "emoji", "random-conv"
COMMON = "--data {data}/noto-emoji-128px-png.zip --resolution 32 --augment color,translation,cutout --precision bf16"
AVERAGED = f"{COMMON} --ema 0.995"
RUNS = {
    "locate": f"locate {AVERAGED} --width 16 --batch 32 --steps 3000",
    "sagan": f"sagan {AVERAGED} --width 24 --batch 32 --generator-lr 2e-4 --discriminator-lr 4e-4 --betas 0 0.99 --steps 3446",
    "all-attention": f"all_attention {COMMON} --ema-half-life 4.4 --width 64 --depth 3 --tokens 16 --latent 64 --mapping-depth 2 "
    "--stage-depth 1 --pixels window --upsample nearest --discriminator-width 96 --discriminator-depth 3 --batch 32 --warm-up 100 "
    "--bcr 0 --clip 0 --steps 1250",
    "locate-200": f"locate {AVERAGED} --fraction 0.0571 --width 16 --batch 16 --steps 2000",
}


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def gander(words: str) -> None:
    if code := subprocess.run([sys.executable, "-m", "gander", *shlex.split(words)]).returncode:
        raise SystemExit(code)


def made(name: str) -> dict[str, Any]:
    """Train it, where that is not done, and score it."""
    run, spent = FOLDER / name, FOLDER / f"{name}-cpu.json"
    print(f"gander train {RUNS[name]}")
    before = cpu()
    gander(f"train {RUNS[name].format(data=os.environ.get('GANDER_DATA', '.'))} --sample-every 500 --run {run}")
    if not (run / "scores.json").exists():
        seconds = (read_json(spent)["seconds"] if spent.exists() else 0.0) + cpu() - before
        write_json(spent, {"seconds": round(seconds)})
        gander(f"score {run} --features {FEATURES} --samples 2560")
    (score,) = read_json(run / "scores.json")["scores"]
    return {"seconds": read_json(spent)["seconds"], "images": read_json(run / "run.json")["facts"]["num_images"], **score}


def main() -> None:
    found = {name: made(name) for name in RUNS}
    lines = ["| run | images | steps | minutes of CPU | Fréchet | recall |", "|---|---|---|---|---|---|"]
    for name, one in found.items():
        by = {score["name"]: f"{score['value']:.3f} ± {score['error']:.3f}" for score in one["scores"]}
        numbers = [by[f"{kind}[{FEATURES}]"] for kind in ("Fréchet", "recall")]
        row = [name, f"{one['images']:,}", f"{one['subject']['step']:,}", f"{one['seconds'] / 60:.1f}", *numbers]
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", *(f"    gander train {RUNS[name].replace('{data}/', '')}" for name in RUNS)]
    keep("emoji", found, "\n".join(lines))


if __name__ == "__main__":
    main()
