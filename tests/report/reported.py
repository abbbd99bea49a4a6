"""Small runs that nobody trained, with all that a run folder can hold."""

import json
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from gander import recipes
from gander.data import open_source, prepare
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.train import checkpoint

CLASSES = ["cats", "dogs", "fish"]
CARD = {"features": "random-conv", "weights": "174f", "reference": "photos", "samples": 64, "seed": 0, "truncation": None}


class Made(NamedTuple):
    run: Run
    networks: dict


def make_run(folder, *, recipe="sagan_official", steps=200, came_to=200, data=None, classes=CLASSES, **knobs):
    facts = Facts(12, len(classes), 3)
    knobs = {"resolution": 16, "width": 2, "steps": steps, "batch": 4, **knobs}
    resolved = recipes.resolve(recipes.load(recipe), knobs)
    described = {"recipe": recipe, "knobs": resolved, "facts": vars(facts), "classes": classes, "seed": 0, "device": "cpu"}
    described |= {"data": {"name": "photos", "split": None, "where": str(data or "")}, "versions": {"torch": "2.13"}}
    if data:
        described["data"]["fingerprint"] = prepare(open_source(str(data)), resolved["resolution"]).fingerprint
    described |= {"machine": "a machine", "created": "2026-01-01", "command": f"gander train {recipe} --data photos"}
    run = Run.start(folder, described)[0]
    torch.manual_seed(1)
    networks = recipes.load(recipe)(facts, **resolved).networks
    with torch.no_grad():
        for network in networks.values():
            for name, parameter in network.named_parameters():
                if name.endswith("gamma"):
                    parameter.fill_(0.5)
                elif parameter.dim() > 1:
                    parameter.mul_(3)  # or all images are grey and all maps even
    checkpoint.save(run.checkpoints, came_to, networks, {})
    write_log(run, came_to)
    write_grids(run, range(0, came_to + 1, 50))
    return Made(run, networks)


def write_log(run, came_to):
    for step in range(10, came_to + 1, 10):
        line = {"step": step, "discriminator_loss": 1 + step / 1000, "generator_loss": 2 - step / 500, "time": 1e9 + step}
        line |= {"gamma/generator.blocks.1": step / 400, "images_per_second": 50.0}
        line |= {f"sigma/generator.layers.{i}": 1 + i * step / 1000 for i in range(9)}
        run.log(line)
        if step % 50 == 0:
            run.log({"step": step, "score/Fréchet[random-conv]": 1 / step, "score/Fréchet[random-conv] error": 0.1 / step})


def write_grids(run, steps, side=32):
    run.samples.mkdir(exist_ok=True)
    for step in steps:
        pixels = np.full((side, side, 3), (step % 256, 90, 160), np.uint8)
        Image.fromarray(pixels).save(run.samples / f"{step:08d}.png")


def write_scores(run):
    scores = [{"name": "Fréchet[random-conv]", "value": 0.1313, "error": 0.0173, "how": "jackknife", "better": "lower"}]
    entry = {"name": "a run, step 200", "subject": {"step": 200}, "card": CARD, "scores": scores, "notes": ["a note of the score"]}
    entry |= {"classes": {"cats": 0.2, "dogs": 0.4}, "memorisation": "no near copies seen", "real": False}
    (run.folder / "scores.json").write_text(json.dumps({"scores": [entry], "training": {"card": CARD}}))


def write_exam(run):
    counts = [[5, 1, 0], [0, 6, 0], [2, 0, 4]]
    told = {"step": 200, "images": 18, "split": "split val", "classes": CLASSES, "counts": counts}
    (run.folder / "exam.json").write_text(json.dumps(told))
