"""A classifier of attention alone: trained, examined and looked at; what it learns, and the line of each mistake."""

import json
import re

import numpy as np
import pytest
import torch
from operators import Operators
from PIL import Image

from gander import draws, recipes
from gander.recipes.experiment import Facts

SMALL = {"resolution": 16, "width": 16, "depth": 2, "heads": 2, "batch": 16}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two classes of twelve images."""
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(generator.integers(0, 256, (24, 20, 3), np.uint8)).save(tmp_path / "photos" / kind / f"{i}.png")
    return tmp_path


TINY = "--resolution 16 --width 8 --depth 2 --heads 2 --batch 8 --epochs 2 --log-every 1 --device cpu"


def test_train_look_and_predict(say, photos):
    code, out, err = say(f"train attention_classifier --data photos {TINY}")
    assert code == 0, err
    assert "examined every 2 steps on 2 held-out images" in out
    run = photos / "runs" / "attention_classifier-photos"
    (first, *_), exam = (
        map(json.loads, (run / "log.jsonl").read_text().splitlines()[:1]),
        json.loads((run / "exam.json").read_text()),
    )
    for layer in ("blocks.0.attention.inner", "blocks.1.attention.inner"):
        assert {f"{kind}/{layer}.{head}" for kind in ("entropy", "distance") for head in (0, 1)} <= first.keys()
    assert (exam["classes"], exam["step"]) == (["cats", "dogs"], 4)
    log = (run / "log.jsonl").read_bytes()
    assert "is finished" in say(f"train attention_classifier --data photos {TINY}")[1]
    assert (run / "log.jsonl").read_bytes() == log
    code, out, err = say("look runs/attention_classifier-photos --device cpu")
    assert code == 0, err
    assert "blocks.1.attention.inner Attention  8×8" in out
    code, out, err = say("predict runs/attention_classifier-photos photos --device cpu --out guesses.csv")
    assert code == 0, err
    assert len((photos / "guesses.csv").read_text().splitlines()) == 25


def stripes(n, side=48, seed=0):
    """Squares of noisy stripes, across (0) or up and down (1), of any colour and phase."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    wave = torch.sin(torch.arange(side) * 0.9 + 6.3 * torch.rand(n, 1, generator=draw))[:, None, :, None].expand(-1, 3, -1, side)
    waves = torch.where(labels.view(-1, 1, 1, 1) == 0, wave, wave.mT) * torch.randn(n, 3, 1, 1, generator=draw)
    return (waves + torch.randn(n, 3, side, side, generator=draw) / 2).clamp(-1, 1), labels


@pytest.mark.parametrize("attention", ["product", "l2", "lsh"])
def test_it_learns_without_any_convolution(attention):
    torch.manual_seed(0)
    learner = recipes.load("attention_classifier")(
        Facts(64, 2, 3), **SMALL, attention=attention, steps=150, lr=5e-3, mixup=0.0
    ).learner
    images, labels = stripes(256)
    with Operators() as operators:
        learner.step(0, [[(images[:16], labels[:16])]], draws.at_step(0, 0))
    assert any("mm" in name for name in operators.seen)
    assert not operators.convolutions
    for step in range(1, 150):
        part = slice(step % 16 * 16, step % 16 * 16 + 16)
        learner.step(step, [[(images[part], labels[part])]], draws.at_step(0, step))
    assert learner.examine([stripes(128, seed=1)])["exam/top-1 accuracy"] > 0.85


@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_sides_may_grow_and_batches_be_cut(mixup):
    knobs = {**SMALL, "progressive": (8, 12), "patch": 4, "accumulate": 2, "mixup": mixup, "steps": 3}
    learner = recipes.load("attention_classifier")(Facts(64, 2, 1), **knobs).learner
    sides = []
    learner.classifier.register_forward_pre_hook(lambda module, given: sides.append(given[0].shape[-1]))
    images, labels = stripes(16)
    batch = list(zip(images[:, :1].split(8), labels.split(8), strict=True))
    for step in range(3):
        assert all(value.isfinite() for value in learner.step(step, [batch], draws.at_step(0, step)).values())
    assert sides == [8, 8, 12, 12, 16, 16]


def test_it_has_the_parameters_of_the_source():
    with torch.device("meta"):
        found = recipes.load("attention_classifier")(Facts(100, 1000, 3), resolution=224, overlap=0).networks["classifier"]
    attention, mlp, norms = 4 * 384**2 + 2 * 64, 2 * 4 * 384**2 + 5 * 384, 4 * 384
    blocks = 12 * (attention + mlp + norms + 2 * 384)
    assert sum(p.numel() for p in found.parameters()) == blocks + (3 * 16**2 + 1) * 384 + 2 * 384 + 385 * 1000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--patch 5", "patches of 5 px do not tile images of 16 px"),
        ("--progressive 9", "patches of 2 px do not tile images of 9 px"),
        ("--progressive 16", "progressive 16 is no side below the resolution 16"),
        ("--width 30", "width 30 is no multiple of 4"),
        ("--heads 9", "got heads=9 for 8 channels; take 1 to 8"),
        ("--overlap -1", "overlap by -1"),
        ("--steps 0", "steps 0 is not a whole number from 1 on"),
        ("--attention window", "window"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(line, message, say, photos, monkeypatch):
    monkeypatch.setattr("gander.data.prepare", None)
    code, _, err = say(f"train attention_classifier --data photos {TINY}", *line.split())
    assert code == 2
    assert err.startswith("gander: ")
    assert err.count("\n") == 1, err
    assert re.search(message, err), err
    assert not (photos / "runs").exists()
