"""Features of a classifier that was trained here: its own vectors, with a name, a hash and a card that say so."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pictures
from torch.nn import functional as F

from gander import files, recipes, scoring
from gander.data import open_source, prepare
from gander.errors import UserError
from gander.predicting import load_classifier
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.scoring import compute, learned
from gander.scoring.measured import cached
from gander.train import checkpoint

KNOBS = {"network": "xresnet18", "width": 4, "resolution": 20, "steps": 3}


def made(folder, recipe="imagewoof", knobs=KNOBS, channels=3, seed=0, data="woofs"):
    """A run with one checkpoint, of weights as they are born."""
    function, facts = recipes.load(recipe), Facts(24, 2, channels)
    resolved = recipes.resolve(function, knobs)
    described = {
        "recipe": recipe,
        "knobs": resolved,
        "facts": vars(facts),
        "seed": 0,
        "classes": ["a", "b"],
        "data": {"name": data},
    }
    Run.start(folder, described)
    torch.manual_seed(seed)
    experiment = function(facts, **resolved)
    checkpoint.save(folder / "checkpoints", 3, experiment.networks, {"step": 3, "learner": experiment.learner.state_dict()})
    return Run.open(folder)


@pytest.mark.parametrize("side", [20, 16, 33])
def test_vectors_are_those_of_the_classifier(side, tmp_path):
    run = made(tmp_path / "run")
    network = learned.features_of(tmp_path / "run")
    images = torch.from_numpy(pictures(5, 0, side=side)).permute(0, 3, 1, 2)
    vectors, logits = network(images)
    classifier = load_classifier(run).network
    with torch.no_grad():
        x = images.float() / 127.5 - 1
        x = x if side == 20 else F.interpolate(x, (20, 20), mode="bilinear", antialias=True)
        torch.testing.assert_close(vectors, classifier.features(x), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(logits, classifier(x), atol=1e-6, rtol=1e-5)
    assert vectors.shape == (5, network.dimensions) == (5, 32)
    assert vectors.std(0).mean() > 1e-3


def test_name_and_hash_tell_what_it_is(tmp_path):
    run = made(tmp_path / "run", data="my photos")
    network = learned.features_of(tmp_path / "run")
    assert (network.name, network.resize) == ("classifier:imagewoof-my-photos", "bilinear-antialiased-20")
    assert network.hash == files.sha256(run.checkpoints / "00000003" / "classifier.safetensors")
    assert network.title == "Fréchet[classifier:imagewoof-my-photos]"
    assert not network.reference
    made(tmp_path / "other", seed=1, data="my photos")
    assert learned.features_of(tmp_path / "other").hash != network.hash
    vectors = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    found = compute.all_scores(vectors, None, vectors[:, :2], vectors + 1, None, network)
    assert all("[classifier:imagewoof-my-photos]" in score.name for score in found.scores)
    assert not any(re.match(r"(FID|KID|IS)\b(?!\[)", score.name) for score in found.scores)


def test_a_grey_classifier_sees_the_luma(tmp_path):
    run = made(tmp_path / "run", channels=1)
    network, classifier = learned.features_of(tmp_path / "run"), load_classifier(run).network
    images = torch.from_numpy(pictures(4, 0, side=20)).permute(0, 3, 1, 2)
    x = images.float() / 127.5 - 1
    with torch.no_grad():
        luma = (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])[:, None]
        torch.testing.assert_close(network(images)[0], classifier.features(luma), atol=1e-5, rtol=1e-4)
        grey = images[:, :1]
        torch.testing.assert_close(network(grey)[0], classifier.features(grey.float() / 127.5 - 1), atol=1e-5, rtol=1e-4)


def test_the_cache_knows_one_classifier_from_another(tmp_path, photos):
    made(tmp_path / "run")
    made(tmp_path / "other", seed=1)
    dataset = prepare(open_source(photos), 16)
    one, other = (learned.features_of(tmp_path / name) for name in ("run", "other"))
    first = cached(dataset, one)
    assert (first.vectors != cached(dataset, other).vectors).any()
    assert (first.vectors == cached(dataset, one).vectors).all()
    assert len(list((tmp_path / "cache" / "features").glob("*.safetensors"))) == 2


def test_the_card_says_which(say, tmp_path, photos):
    run = made(tmp_path / "woofs")
    code, out, err = say(f"score {photos}/test --data photos --features woofs --samples 60 --out kept --device cpu")
    assert code == 0, err
    digest = files.sha256(run.checkpoints / "00000003" / "classifier.safetensors")[:16]
    assert f"features   classifier:imagewoof-woofs {digest}, resize bilinear-antialiased-20" in out
    assert "Fréchet[classifier:imagewoof-woofs]" in out
    assert "classifier:imagewoof-woofs: a classifier that was trained here; compare its figures with its own alone" in out
    assert "--features inception --weights FILE" in out
    card = json.loads(Path("kept/scores.json").read_text())["scores"][0]["card"]
    assert (card["features"], card["weights"]) == ("classifier:imagewoof-woofs", digest)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--features gan", "gan has no classifier to ask; it has generator, discriminator, generator_ema"),
        ("--features photos", "photos is no run: it has no run.json"),
        ("--features dino", r"no features called 'dino'; did you mean 'dinov2'\? \(or the folder of a classifier's run\)"),
        ("--features zzzzzz", r"there are: dinov2, inception, random-conv \(or the folder of a classifier's run\)"),
        ("--features woofs --weights a.pth", "--weights a.pth is of no use to the run woofs, which has its own; leave it out"),
        ("--features woofs --resize clean", "--resize clean is of no use to the run woofs"),
        ("--features mine", "mine is of a recipe of your own, whose code is not run for features"),
    ],
)
def test_a_mistake_is_one_line(flags, message, say, tmp_path, photos):
    made(tmp_path / "woofs")
    made(tmp_path / "gan", "dcgan", {"resolution": 16, "width": 2, "latent": 4, "batch": 4, "steps": 2})
    made(tmp_path / "mine")
    described = json.loads((tmp_path / "mine" / "run.json").read_text())
    (tmp_path / "mine" / "run.json").write_text(json.dumps(described | {"recipe": "mine.py"}))
    code, _, err = say(f"score {photos}/test --data photos --samples 60 {flags}")
    assert code == 2
    assert err.count("\n") == 1, err
    assert re.search(message, err), err


def test_a_word_wins_over_a_folder_of_that_name(tmp_path):
    made(tmp_path / "random-conv")
    assert scoring.features_for(torch.device("cpu"), "random-conv").name == "random-conv"
    assert scoring.features_for(torch.device("cpu"), "./random-conv").name == "classifier:imagewoof-woofs"
    with pytest.raises(UserError, match="no features called"):
        scoring.features_for(torch.device("cpu"), "random-con")
