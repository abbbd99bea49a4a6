"""Trained on a fraction of the images: which run that is, what it is scored against, what it is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gander import looking, verbs
from gander.data import open_source, prepare
from gander.data.sources import share
from gander.errors import UserError
from gander.metrics.features import features
from gander.run import Run
from gander.scoring import watch
from gander.scoring.reference import of_data

TINY = {
    "resolution": 16,
    "width": 4,
    "batch": 8,
    "steps": 2,
    "attention": "simple",
    "sample_every": 0,
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A very small network on 200 images of two classes."""
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for i in range(200):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png")
    return lambda run="a", recipe="sagan", **more: verbs.train(recipe, run=run, **{"data": "photos", **TINY, **more})


def test_seeds_see_the_same_images_and_another_fraction_is_another_run(train, capsys):
    train("a", fraction=0.1)
    assert "20 images (--fraction 0.1) at 16 px" in capsys.readouterr().out
    train("b", fraction=0.1, seed=1)
    train("c", fraction=0.3)
    ten, same, thirty = (Run.open(run).described for run in "abc")
    assert ten["data"]["fingerprint"] == same["data"]["fingerprint"] != thirty["data"]["fingerprint"]
    assert [each["facts"]["num_images"] for each in (ten, same, thirty)] == [20, 20, 60]
    before = Run.open("a").log_file.read_bytes()
    for other in (0.3, 1.0):
        with pytest.raises(UserError, match=rf"^a is another run \(fraction was 0.1, now {other}\); take --run a-2$"):
            train("a", fraction=other)
    assert Run.open("a").log_file.read_bytes() == before
    train("a", fraction=0.1, steps=3)
    assert [line["step"] for line in Run.open("a").logged()][-1] == 3


def test_a_run_of_before_there_were_fractions_goes_on_with_all_images(train):
    train("a")
    file = Run.open("a").folder / "run.json"
    described = json.loads(file.read_text())
    assert described.pop("fraction") == 1
    file.write_text(json.dumps(described))
    assert train("a", steps=3).step == 3
    with pytest.raises(UserError, match=r"fraction was 1.0, now 0.5"):
        train("a", fraction=0.5)


def test_what_cannot_be_is_said_before_anything_is_decoded(train, monkeypatch):
    monkeypatch.setattr("gander.training.decoded", None)
    with pytest.raises(
        UserError, match=r"^4 images \(--fraction 0.02\) are fewer than a batch of 8; take --batch 4 or less, or a la"
    ):
        train(fraction=0.02)
    for fraction in (0.0, 1.5):
        with pytest.raises(UserError, match=f"^--fraction {fraction} is no part of the images"):
            train(fraction=fraction)


def test_scores_of_training_are_against_all_images(train, monkeypatch, capsys):
    """The same real images, and the same card, as of a run on all of them."""
    monkeypatch.setattr(watch, "SAMPLES", 128)
    cards = []
    for run, fraction in (("a", 0.1), ("b", 1.0)):
        train(run, fraction=fraction, score_every=2, score_features="random-conv")
        cards.append(json.loads((Run.open(run).folder / "scores.json").read_text())["training"]["card"])
    assert cards[0] == cards[1]
    assert cards[0]["reference_of"] == 200
    said = capsys.readouterr().out
    assert "against 200 of all images" in said
    assert "against 200 training images" in said


def test_a_score_is_against_all_images_and_memorisation_against_those_trained_on(train, say):
    train("a", fraction=0.25)
    train("b")
    code, out, err = say("score a --samples 50 --features random-conv")
    assert code == 0, err
    assert "reference  photos: 200 images" in out
    assert "trained on 50 of these 200 images, scored against all of them" in out
    assert "held out are 150 of those that the run was not trained on" in out
    assert say("score b --samples 50 --features random-conv")[0] == 0
    mine, other = (json.loads((Run.open(run).folder / "scores.json").read_text())["scores"][0] for run in "ab")
    assert mine["card"] == other["card"]


def test_images_that_were_trained_on_and_changed_must_be_named(train, say):
    train("a", fraction=0.25)
    part = share(open_source("photos"), 0.25)
    Path("photos", part.entries[0].path).unlink()
    code, _, err = say("score a --samples 50 --features random-conv")
    assert code == 2
    assert "photos holds other images than those that were trained on; --data photos says that these are meant" in err
    code, out, _ = say("score a --samples 50 --features random-conv --data photos")
    assert code == 0
    assert "memorisation not judged: the reference is not what was trained on" in out


def test_copies_of_what_was_trained_on_are_found_and_of_other_images_are_not(train, say, monkeypatch):
    """Samples that are images of the set: a run on a fourth of it has memorised only those of its fourth."""
    train("a", fraction=0.25)
    whole, part = prepare(open_source("photos"), 16), prepare(share(open_source("photos"), 0.25), 16)
    left = np.array([image for name, image in zip(whole.names, whole.images, strict=True) if name not in part.names])
    for images, found in ((part.images, True), (left, False)):
        tensors = torch.from_numpy(np.array(images[:50])).permute(0, 3, 1, 2).float() / 127.5 - 1
        monkeypatch.setattr(
            "gander.scoring.subjects.sample", lambda generator, seed, rows, t=tensors, **more: t[rows.start : rows.stop]
        )
        code, out, err = say("score a --samples 50 --features random-conv")
        assert code == 0, err
        assert (" are copies" in out) == found


@pytest.mark.parametrize("recipe", ["sagan", "imagewoof"])
def test_look_shows_the_images_that_were_trained_on(train, recipe):
    """Of a set of which a tenth was held out, a fraction of the rest."""
    more = {"network": "xresnet18", "resolution": 32} if recipe == "imagewoof" else {}
    train("a", recipe, fraction=0.5, **more)
    sights, left_out = looking.look_at(Run.open("a"), images=999)
    assert not left_out
    (real, *_) = (sight for sight in sights if sight.shown == "real images")
    assert len(real.seen.images) == (100 if recipe == "sagan" else 90)


@pytest.mark.parametrize("said", ["half", None, [0.1], True, 7])
def test_a_fraction_in_run_json_that_is_none_is_said_in_one_line(train, said):
    train("a", fraction=0.5)
    run = Run.open("a")
    run.described["fraction"] = said
    assert "fraction" in looking.look_at(run, images=1)[1]
    with pytest.raises(UserError, match="fraction") as error:
        of_data(run, None, None, 16, 3, features("random-conv"))
    assert "\n" not in str(error.value)
