"""Studies by `gander compare`: does attention help, and what keeps a GAN stable?

    OMP_NUM_THREADS=1 python benchmarks/studies.py imagewoof [--jobs 2]      # GANDER_DATA: a folder with imagewoof-128px-jpeg.zip
    OMP_NUM_THREADS=1 python benchmarks/studies.py twins stability
    OMP_NUM_THREADS=1 python benchmarks/studies.py fraction fraction_all      # with noto-emoji-128px-png.zip there

Each is one command, which this says and prints; stop it when you like, and say the same again. Folders are studies/NAME.

| study | question |
|---|---|
| imagewoof | SimpleSelfAttention's: does attention at the end of an xresnet's first stage raise accuracy? Small ones, 64 px |
| twins | does a GAN with attention draw two discs that belong together more often than one with a residual block? |
| twins_all | the same of networks of attention alone, for as long as those of `twins`, with either mapping |
| stability | spectral norm on no network, D, both; equal rates or D's four times as high: failures count |
| fraction | how much data attention needs: a SAGAN without and with it on 10, 30 and 100 % of 3,500 emoji, judged against all |
| fraction_all | the same of networks of attention alone |
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import keep

from gander.files import read_json
from gander.study.statistics import difference

SMALL = "--data probe:twins --resolution 16 --betas 0.0 0.99 --ema 0.99 --sample-every 0 --log-every 100"
EMOJI = (
    "--data {data}/noto-emoji-128px-png.zip --resolution 16 --batch 32 --augment color,translation,cutout --sample-every 0 "
    "--log-every 100 --outcome Fréchet"
)
STUDIES = {
    "imagewoof": "imagewoof --data {data}/imagewoof-128px-jpeg.zip --network xresnet18 --width 16 --resolution 64 --epochs 5 "
    "--lr 8e-3 --precision bf16 --vary attention=none,simple,full,simple_symmetric --seeds 6",
    "twins": f"sagan {SMALL} --width 16 --batch 64 --steps 1250 --generator-lr 5e-4 --discriminator-lr 5e-4 "
    "--vary attention=residual,full --seeds 5",
    "stability": f"sagan {SMALL} --width 8 --batch 32 --steps 300 --attention full --generator-lr 1e-3 --outcome Fréchet "
    "--vary spectral_norm=none,discriminator,both --vary discriminator_lr=1e-3,4e-3 --seeds 5",
    "twins_all": "all_attention --data probe:twins --resolution 16 --width 64 --depth 2 --tokens 16 --latent 64 --mapping-depth 2 "
    "--stage-depth 1 --pixels product --discriminator-width 64 --discriminator-depth 3 --generator-lr 1e-3 --discriminator-lr 1e-3 "
    "--warm-up 50 --bcr 0 --clip 0 --augment none --ema-half-life 4 --steps 800 --sample-every 0 --log-every 100 "
    "--vary mapping=attention,connected --seeds 3",
    "fraction": f"sagan {EMOJI} --width 16 --steps 1000 --ema 0.99 --generator-lr 2e-4 --discriminator-lr 4e-4 --betas 0.0 0.99 "
    "--vary fraction=0.1,0.3,1 --vary attention=none,full --seeds 3",
    "fraction_all": f"all_attention {EMOJI} --steps 500 --width 64 --depth 2 --tokens 16 --latent 64 --mapping-depth 2 "
    "--stage-depth 1 --pixels product --discriminator-width 64 --discriminator-depth 3 --generator-lr 2e-4 --discriminator-lr 8e-4 "
    "--warm-up 100 --bcr 0 --ema-half-life 2 --vary fraction=0.1,0.3,1 --seeds 3",
}


def kept(name: str, folder: Path) -> None:
    """The result of a finished study, without names of places."""
    study: dict[str, Any] = read_json(folder / "study.json")
    found = study["result"]
    unit = found["outcome"]["unit"]
    lines = [f"# {name}: {found['outcome']['name']}{f' ({unit})' if unit else ''}, {found['outcome']['better']} is better", ""]
    lines += [f"    gander compare {STUDIES[name].replace('{data}/', '')}", ""]
    lines += ["| arm | n | mean | sd | failed | parameters | steps | s/step | runs |", "|---|---|---|---|---|---|---|---|---|"]
    for arm in found["arms"]:
        mean = sum(arm["values"]) / len(arm["values"])
        runs = " ".join(f"{value:.3g}" for value in arm["values"])
        row = [arm["name"], arm["n"], f"{mean:.3g}", f"{arm['sd']:.2g}", len(arm["failed"]), f"{arm['parameters']:,}"]
        lines.append("| " + " | ".join(map(str, [*row, arm["steps"], f"{arm['seconds_a_step']:.3g}", runs])) + " |")
    says = [f"- {difference['says']} (paired p {difference['paired']:.2g}, Holm {difference['holm']:.2g})"
            for difference in found["differences"]]  # fmt: skip
    says += within(study)
    keep(f"studies-{name}", {"plan": study["plan"], "result": found}, "\n".join([*lines, "", *says]))


def within(study: dict[str, Any]) -> list[str]:
    """Of two knobs: what the second makes at each value of the first, over the same seeds."""
    vary, arms = list(study["plan"]["vary"].items()), study["result"]["arms"]
    if len(vary) < 2:
        return []
    (first, values), (_, inner) = vary[0], vary[-1]
    lines, of_each = [], len(arms) // len(values)
    for number, value in enumerate(values):
        without, *others = arms[number * of_each : (number + 1) * of_each]
        for arm, name in zip(others, inner[1:], strict=True):
            apart = difference(arm["values"], without["values"])
            what = f"{name} − {inner[0]} = {apart.mean:+.2g}, 95 % CI {apart.low:.2g} to {apart.high:.2g}"
            lines.append(f"- at {first} {value}: {what} (paired p {apart.paired:.2g}, one of {len(values)} looked at)")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=list(STUDIES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    for name in asked.studies:
        folder = Path("studies") / name
        words = STUDIES[name].format(data=os.environ.get("GANDER_DATA", "."))
        command = [
            sys.executable,
            "-m",
            "gander",
            "compare",
            *shlex.split(words),
            "--jobs",
            str(asked.jobs),
            "--study",
            str(folder),
        ]
        if code := subprocess.run(command).returncode:
            raise SystemExit(code)
        kept(name, folder)


if __name__ == "__main__":
    main()
