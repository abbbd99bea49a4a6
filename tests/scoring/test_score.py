"""`gander score` from end to end: runs, folders, probes, files of vectors."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pictures, write
from PIL import Image
from safetensors.torch import load_file

from gander import verbs
from gander.errors import UserError
from gander.files import sha256
from gander.metrics import inception

TRAIN = ["--resolution", "16", "--width", "4", "--batch", "8", "--steps", "2", "--sample-every", "0", "--device", "cpu"]


@pytest.fixture
def run(say, photos):
    assert say("train sagan_official --data photos --run run", *TRAIN)[0] == 0
    return Path("run")


def values(file):
    return {score["name"]: score["value"] for score in json.loads(Path(file).read_text())["scores"][0]["scores"]}


def test_a_run_is_scored_against_its_own_training_images(say, run):
    code, out, err = say("score run --samples 100 --floor")
    assert code == 0, err
    for words in (
        "run, step 2\n",
        "features   random-conv 174fea90010eac99, resize none",
        "reference  photos, train: 120 images",
        "samples    100: ema, seed 0, no truncation, batch statistics over 8 × 64",
        "within classes, worst first: ",
        "real images (photos, test)",
        "--weights FILE: the reference Inception weights",
    ):
        assert words in out
    assert not re.search(r"\bFID\b|\bIS\b", out)
    assert re.search(r"memorisation|near copies", out)
    (mine, floor) = json.loads((run / "scores.json").read_text())["scores"]
    assert (mine["card"]["samples"], mine["card"]["generator"], mine["subject"]["step"]) == (100, "ema", 2)
    assert (floor["card"]["samples"], floor["card"]["generator"]) == (60, None)
    assert mine["scores"][0]["value"] > floor["scores"][0]["value"]
    with Image.open(run / "samples" / "nearest-step2.png") as picture:
        assert picture.width > 500


def test_scoring_leaves_no_trace_in_the_run(say, run):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert say("score run --samples 64")[0] == 0
    after = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert {file: after[file] for file in before} == before
    assert {file.name for file in after.keys() - before.keys()} == {"scores.json", "nearest-step2.png"}


def test_the_same_words_give_the_same_numbers(say, run):
    for out in "ab":
        assert say(f"score run --samples 70 --out {out}")[0] == 0
    assert values("a/scores.json") == values("b/scores.json")


def test_the_reference_may_be_a_file(say, run, tmp_path):
    assert say("score run --samples 64 --out a --save-reference real.safetensors")[0] == 0
    assert load_file("real.safetensors")["vectors"].shape == (120, 512)
    os.rename("photos", "gone")
    code, _, err = say("score run --samples 64 --out b")
    assert code == 2
    assert "the images that run was trained on are not to be had" in err
    code, out, _ = say("score run --samples 64 --out b --data real.safetensors")
    assert code == 0
    assert "memorisation not judged: the reference is a file of vectors" in out
    assert values("a/scores.json") == values("b/scores.json")


def test_other_images_than_those_of_the_training_must_be_named(say, run):
    write(Path("photos/train/cats"), pictures(1, 9), first=900)
    code, _, err = say("score run --samples 64")
    assert code == 2
    assert "photos holds other images than those that were trained on; --data photos says that these are meant" in err
    assert say("score run --samples 64 --data photos")[0] == 0


def test_folders_and_their_table(say, tmp_path, photos):
    rng = np.random.default_rng(0)
    good = pictures(80, 7)
    write(tmp_path / "good", good)
    write(tmp_path / "noisy", (good + rng.normal(0, 60, good.shape)).clip(0, 255).astype(np.uint8))
    code, out, err = say("score noisy good --data photos --samples 80")
    assert code == 0, err
    assert "by Fréchet[random-conv], lower is better: good < noisy" in out
    write(tmp_path / "more", pictures(90, 8))
    code, out, _ = say("score more good --data photos --samples 80")
    assert "not ranked" not in out
    code, out, _ = say("score more good --data photos", "--samples", 80, "--resolution", 16)
    assert "by Fréchet" in out
    results = [verbs.score("more", data="photos", samples=n)[0] for n in (80, 90)]
    assert [result.card.samples for result in results] == [80, 90]


def test_names_and_order_of_a_folder_change_nothing(say, tmp_path, photos):
    images = pictures(50, 7)
    write(tmp_path / "a", images)
    write(tmp_path / "b", images[::-1], first=300)
    for name in "ab":
        assert say(f"score {name} --data photos --samples 40 --out out{name}")[0] == 0
    assert values("outa/scores.json") == values("outb/scores.json")


def test_mixed_sizes_are_handled_and_said(say, tmp_path, photos):
    write(tmp_path / "mixed", pictures(30, 7))
    write(tmp_path / "mixed", pictures(10, 8, side=40), first=100)
    code, out, _ = say("score mixed --data photos --samples 40")
    assert code == 0
    assert "10 of 40 images had another short side (16 to 40 px): brought to 16" in out
    assert "images     16 px" in out


def test_a_probe_is_graded_and_has_held_out_images(say, tmp_path, monkeypatch):
    monkeypatch.setattr("gander.data.sources.PROBE_IMAGES", 2000)
    monkeypatch.setattr("gander.scoring.reference.HELD_OUT_OF_PROBES", 500)
    assert say("train sagan --data probe:twins --run run", *TRAIN)[0] == 0
    code, out, _ = say("score run --samples 100 --floor")
    assert code == 0
    scores = json.loads(Path("run/scores.json").read_text())["scores"]
    mine, floor = ({score["name"]: score for score in entry["scores"]} for entry in scores)
    assert mine["twins/coherent"]["value"] < 0.2
    assert floor["twins/coherent"]["value"] == 1.0
    assert mine["Fréchet[random-conv]"]["value"] > 10 * floor["Fréchet[random-conv]"]["value"]
    assert "reference  twins: 2,000 images probe:twins:1" in out


def test_a_memorised_image_is_found(say, tmp_path, photos):
    copies = pictures(60, 0)[:40]  # those of the first class of the training images
    write(tmp_path / "copies", copies)
    write(tmp_path / "fresh", pictures(40, 77))
    _, out, _ = say("score copies fresh --data photos --samples 40 --out out")
    assert "memorisation: 100 % of samples are nearer to a training image than any held-out image" in out
    assert "40 are copies" in out
    assert "no memorisation seen" in out or "no near copies seen" in out
    assert Path("out/nearest-copies.png").exists()


def test_where_nothing_is_held_out_a_tenth_of_the_training_images_stands_for_it(say, tmp_path):
    images = pictures(400, 3)
    write(tmp_path / "all", images)
    write(tmp_path / "copies", images[:50])
    write(tmp_path / "fresh", pictures(50, 99))
    code, out, _ = say("score copies fresh --data all --samples 50 --out out")
    assert code == 0
    assert "memorisation: " in out
    assert " are copies" in out
    assert "(40 of the training images stand for held-out ones; samples are compared with 360 of 400)" in out
    assert Path("out/nearest-fresh.png").exists()
    assert say("score fresh --data all --samples 50 --out a --save-reference real.safetensors")[0] == 0
    code, out, _ = say("score copies --data real.safetensors --samples 50")
    assert code == 0
    assert " are copies" in out


def test_the_words_FID_and_IS_take_the_reference_weights(say, tmp_path, monkeypatch):
    """Inception with weights of chance: named as what it is, until their hash is taken for that of the reference."""
    torch.manual_seed(0)
    torch.save(inception.Inception("tf1").state_dict(), "weights.pth")
    write(tmp_path / "real", pictures(20, 1))
    write(tmp_path / "fakes", pictures(20, 2))
    code, out, err = say("score fakes --data real --samples 20 --weights weights.pth")
    assert code == 0, err
    assert "Fréchet[inception]" in out
    assert "KID[inception]" in out
    assert not re.search(r"\bFID\b|\bIS\b", out)
    assert "not the weights and the resize of published figures; --weights FILE: the reference Inception weights" in out
    monkeypatch.setattr(inception, "REFERENCE", sha256(tmp_path / "weights.pth"))
    code, out, err = say("score fakes --data real --samples 20 --weights weights.pth")
    assert code == 0, err
    assert re.search(r"^  FID +\d", out, re.MULTILINE)
    assert re.search(r"^  IS +\d", out, re.MULTILINE)
    assert "--weights FILE" not in out
    assert "20 samples and 20 reference images in 2048 dimensions: far above the distance of many" in out


def test_samples_of_nan_are_refused_in_one_line(say, run, monkeypatch):
    monkeypatch.setattr("gander.scoring.subjects.images_of", lambda *_: np.nan * torch.zeros(64, 3, 16, 16))
    code, _, err = say("score run --samples 64")
    assert code == 2
    assert "run makes samples that hold NaN or infinity at step 2; take an earlier --step" in err


def test_another_size_than_that_of_the_file_is_refused(say, run, photos):
    assert say("score photos --data photos --resolution 32 --samples 30 --save-reference real.safetensors")[0] == 0
    code, _, err = say("score run --data real.safetensors --samples 30")
    assert code == 2
    assert "real.safetensors is of 32 px images, run of 16 px; make one of that size" in err


def test_a_file_of_another_network_is_refused(run, say):
    assert say("score run --samples 30 --save-reference real.safetensors")[0] == 0
    from gander.metrics.features import features
    from gander.scoring.reference import of_file

    other = features("random-conv")
    object.__setattr__(other, "hash", "f" * 64)
    with pytest.raises(
        UserError, match=r"real.safetensors was made with random-conv 174fea90010eac99 none, here are random-conv ffff"
    ):
        of_file(Path("real.safetensors"), other)


def test_an_empty_folder_is_named(say, tmp_path, photos):
    (tmp_path / "empty").mkdir()
    code, _, err = say("score empty --data photos --samples 30")
    assert code == 2
    assert "empty" in err
    assert "no images" in err
