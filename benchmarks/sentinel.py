"""Does the sentinel warn of runs that are broken on purpose, and keep silent on healthy ones?

    python benchmarks/sentinel.py [--steps 2000] [--folder KEPT]

Small GANs on probes (16 px, width 8, batch 16, a line of the log every 10 steps). Broken: the discriminator's rate times 100,
a batch of 2, no spectral norm (with the hinge loss, and with Wasserstein's, which nothing else bounds), the generator's rate
times 100. Healthy: ten of other recipes, losses, penalties, data and seeds. For each run the table says when the sentinel
spoke first and of what, and which share of 1,000 samples at the end obeys the probe's rule. The last two have
`--on-collapse rollback`: how it goes on from there.
"""

import argparse
import tempfile
from pathlib import Path

SMALL = {"resolution": 16, "width": 8, "batch": 16, "log_every": 10, "save_every": 100, "sample_every": 0, "device": "cpu"}
FAULTS = {
    "D rate ×100": {"discriminator_lr": 0.04},
    "G rate ×100": {"generator_lr": 0.01},
    "batch of 2": {"batch": 2},
    "no spectral norm, hinge": {"spectral_norm": "none"},
    "no spectral norm, Wasserstein": {"spectral_norm": "none", "loss": "wasserstein"},
}
DATA = {"sagan": "twins", "sagan_official": "count"}
BROKEN = {f"{recipe}, {fault}": (recipe, data, knobs) for recipe, data in DATA.items() for fault, knobs in FAULTS.items()}
PENALISED = {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "spectral_norm": "none"}
CRITIC = {"loss": "wasserstein", "wgan_gp": 10.0, "n_dis": 2, "spectral_norm": "none"}
HEALTHY = {
    "sagan": ("sagan", "twins", {}),
    "sagan, seed 1": ("sagan", "twins", {"seed": 1}),
    "sagan, residual": ("sagan", "twins", {"attention": "residual"}),
    "sagan, batch 64": ("sagan", "twins", {"batch": 64}),
    "sagan, half the rates": ("sagan", "count", {"generator_lr": 5e-5, "discriminator_lr": 2e-4}),
    "sagan, WGAN-GP": ("sagan", "twins", CRITIC),
    "sagan_official": ("sagan_official", "count", {}),
    "sagan_official, seed 2": ("sagan_official", "twins", {"seed": 2}),
    "sagan_official, relativistic, R1, R2": ("sagan_official", "count", PENALISED),
    "dcgan": ("dcgan", "twins", {}),
}
ROLLBACK = {"on_collapse": "rollback"}
MENDED = {
    "sagan, both rates ×40, rollback": ("sagan", "twins", {"generator_lr": 0.004, "discriminator_lr": 0.016, **ROLLBACK}),
    "sagan, D rate ×100, rollback": ("sagan", "twins", {"discriminator_lr": 0.04, **ROLLBACK}),
}


def trained(recipe: str, data: str, knobs: dict, steps: int, folder: Path) -> dict:
    """What the sentinel said, by its first time, and the end."""
    from gander import verbs
    from gander.errors import UserError
    from gander.run import Run
    from gander.train.sentinel import Sentinel

    ended = ""
    try:
        verbs.train(recipe, data=f"probe:{data}", run=str(folder), steps=steps, score_every=steps, **{**SMALL, **knobs})
    except UserError as error:
        ended = str(error)
    sentinel, said, grades, back = Sentinel(), [], {}, 0
    for line in Run.open(folder).logged():
        said += [(line["step"], words) for words in sentinel.look(line)]
        grades |= {name: value for name, value in line.items() if name.startswith(data)}
        back = line.get("went_back", back)
    rule = {"twins": "twins/coherent", "count": "count/right_count"}[data]
    return {"said": said, "went_back": back, "ended": ended, "obeys": grades.get(rule), "grades": grades}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    wanted = parser.parse_args()
    import torch
    from machine import keep

    torch.set_num_threads(1)
    found: dict[str, dict] = {}
    rows = ["| run | | first warning | warnings | obeys the rule |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as temporary:
        for kind, runs in (("broken", BROKEN), ("healthy", HEALTHY), ("goes back", MENDED)):
            for i, (name, (recipe, data, knobs)) in enumerate(runs.items()):
                result = trained(recipe, data, knobs, wanted.steps, (wanted.folder or Path(temporary)) / f"{kind}-{i}")
                found[name] = {"kind": kind, **result}
                first = "step {:,}: {}".format(*result["said"][0]) if result["said"] else "none"
                if kind == "goes back":
                    first = result["ended"] or f"went back {result['went_back']} times; at its end: {first}"
                share = "" if result["obeys"] is None else f"{result['obeys']:.2f}"
                rows.append(f"| {name} | {kind} | {first} | {len(result['said'])} | {share} |")
    keep("sentinel", {"steps": wanted.steps, "runs": found}, "\n".join([f"{wanted.steps:,} steps, one seed each.", "", *rows]))


if __name__ == "__main__":
    main()
