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
from safetensors.torch import load_file, save_file

from gander import verbs
from gander.errors import UserError
from gander.files import sha256
from gander.metrics import inception
from gander.scoring.measured import load

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
        "samples    60: ema, seed 0, no truncation, batch statistics over 8 × 64",
        "within classes, worst first: ",
        "real images (photos, test)",
        "--weights FILE: the reference Inception weights",
    ):
        assert words in out
    assert not re.search(r"\bFID\b|\bIS\b", out)
    assert re.search(r"memorisation|near copies", out)
    (mine, floor) = json.loads((run / "scores.json").read_text())["scores"]
    assert (mine["card"]["samples"], mine["card"]["generator"], mine["subject"]["step"]) == (60, "ema", 2)  # as many
    assert (floor["card"]["samples"], floor["card"]["generator"], floor["real"]) == (60, None, True)
    assert mine["scores"][0]["value"] > floor["scores"][0]["value"]
    with Image.open(run / "samples" / "nearest-step2.png") as picture:
        assert picture.width > 500


def test_scoring_leaves_no_trace_in_the_run(say, run):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert say("score run --samples 64")[0] == 0
    after = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert {file: after[file] for file in before} == before
    assert {file.name for file in after.keys() - before.keys()} == {"scores.json", ".scores.json.lock", "nearest-step2.png"}


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
    assert (
        "memorisation not judged: the reference is a file of vectors, with no images beside it, and 120 images are too few" in out
    )
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
    monkeypatch.setattr("gander.data.held_out.PROBE_HELD_OUT", 500)
    assert say("train sagan --data probe:twins --run run", *TRAIN)[0] == 0
    code, out, _ = say("score run --samples 100 --floor")
    assert code == 0
    scores = json.loads(Path("run/scores.json").read_text())["scores"]
    mine, floor = ({score["name"]: score for score in entry["scores"]} for entry in scores)
    assert mine["twins/coherent"]["value"] < 0.2
    assert floor["twins/coherent"]["value"] == 1.0
    assert mine["Fréchet[random-conv]"]["value"] > 10 * floor["Fréchet[random-conv]"]["value"]
    assert "reference  twins: 2,000 images probe:twins:1" in out


def test_a_probe_is_known_by_its_fingerprint_whatever_a_file_calls_it(say, run, tmp_path, monkeypatch):
    monkeypatch.setattr("gander.data.sources.PROBE_IMAGES", 500)
    assert say("score photos --data probe:twins --resolution 16 --samples 60 --save-reference real.safetensors")[0] == 0
    tensors, measured = load_file("real.safetensors"), load(Path("real.safetensors"))
    save_file(tensors, "other.safetensors", {"gander": json.dumps(measured.facts | {"name": "no probe"})})
    code, out, err = say("score photos --data other.safetensors --samples 60")
    assert code == 0, err
    assert "twins/coherent" in out


def test_a_memorised_image_is_found(say, tmp_path, photos):
    copies = pictures(60, 0)[:40]  # those of the first class of the training images
    write(tmp_path / "copies", copies)
    write(tmp_path / "fresh", pictures(40, 77))
    _, out, _ = say("score copies fresh --data photos --samples 40 --out out")
    assert "memorisation: 100 % of samples are nearer to a training image than any held-out image" in out
    assert "40 are copies" in out
    assert "no memorisation seen" in out or "no near copies seen" in out
    assert len(list(Path("out").glob("nearest-copies-*.png"))) == 1
    assert "should photos be what was trained on" in out


def test_where_nothing_is_held_out_a_tenth_of_the_training_images_stands_for_it(say, tmp_path):
    images = pictures(400, 3)
    write(tmp_path / "all", images)
    write(tmp_path / "copies", images[:50])
    write(tmp_path / "fresh", pictures(50, 99))
    code, out, _ = say("score copies fresh --data all --samples 50 --out out")
    assert code == 0
    assert "memorisation: " in out
    assert " are copies" in out
    assert "40 of the training images stand for held-out ones; samples are compared with 360 of 400)" in out
    assert len(list(Path("out").glob("nearest-fresh-*.png"))) == 1
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
    monkeypatch.setattr("gander.scoring.subjects.sample", lambda *_, **__: np.nan * torch.zeros(64, 3, 16, 16))
    code, _, err = say("score run --samples 64")
    assert code == 2
    assert "run makes samples that hold NaN or infinity at step 2; take an earlier --step" in err


def test_another_size_than_that_of_the_file_is_refused(say, run, photos):
    assert say("score photos --data photos --resolution 32 --samples 30 --save-reference real.safetensors")[0] == 0
    code, _, err = say("score run --data real.safetensors --samples 30")
    assert code == 2
    assert "real.safetensors is of images of 32 px and 3 channels, run of 16 px and 3 channels; make one like that" in err


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


def test_what_is_asked_is_what_is_done(say, run):
    """Seed, truncation, live weights, running statistics: each gives other numbers and another card."""
    found = {}
    for words in ("", "--seed 1", "--truncation 0.5", "--network live", "--standing 0"):
        code, _, err = say(f"score run --samples 64 --out out{len(found)} {words}")
        assert code == 0, err
        entry = json.loads(Path(f"out{len(found)}/scores.json").read_text())["scores"][0]
        found[words] = (entry["scores"][0]["value"], json.dumps(entry["card"]))
    assert len({value for value, _ in found.values()}) == 5
    assert len({card for _, card in found.values()}) == 5


class Labelled(torch.nn.Module):
    """Paints the label: even ones dark, odd ones bright."""

    latent_dim, num_classes, resolution = 4, 2, 16

    def forward(self, latents, labels=None):
        return (labels * 1.8 - 0.9).view(-1, 1, 1, 1) + 0.05 * latents.mean(1).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)


def test_labels_of_samples_are_those_of_their_classes(say, run, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for label, level in enumerate((13, 242)):
        write(tmp_path / "levels" / ["cats", "dogs"][label], rng.normal(level, 3, (60, 16, 16, 3)).clip(0, 255).astype(np.uint8))
    monkeypatch.setattr("gander.scoring.load_generator", lambda *_, **__: (Labelled(), 2))
    assert say("score run --data levels --samples 60 --out right")[0] == 0
    right_way = Labelled.forward
    monkeypatch.setattr(Labelled, "forward", lambda self, latents, labels: right_way(self, latents, 1 - labels))
    assert say("score run --data levels --samples 60 --out wrong")[0] == 0
    right, wrong = (values(f"{out}/scores.json") for out in ("right", "wrong"))
    assert wrong["intra-Fréchet[random-conv]"] > 20 * right["intra-Fréchet[random-conv]"]
    assert wrong["Fréchet[random-conv]"] == pytest.approx(right["Fréchet[random-conv]"], rel=0.5)


def test_classes_in_turn_against_an_uneven_reference_are_on_the_card(say, run, photos):
    write(photos / "train" / "cats", pictures(40, 11), first=800)
    code, out, _ = say("score run --data photos --samples 64")
    assert code == 0
    assert "classes in turn, which the reference's are not" in out


def test_grey_and_colour_are_not_ranked(say, run, photos):
    assert say("train sagan --data photos --channels 1 --run grey", *TRAIN)[0] == 0
    assert say("train sagan --data photos --run colour", *TRAIN)[0] == 0
    code, out, _ = say("score grey colour --samples 60")
    assert code == 0
    assert "not ranked, since these scores were not made alike: channels 1 / 3" in out
    assert say("score grey --samples 60 --save-reference grey.safetensors")[0] == 0
    code, _, err = say("score colour --samples 60 --data grey.safetensors")
    assert code == 2
    assert "grey.safetensors is of images of 16 px and 1 channels" in err


def test_another_split_of_the_runs_own_images(say, run):
    code, out, err = say("score run --split test --samples 60")
    assert code == 0, err
    assert "reference  photos, test: 60 images" in out
    assert "memorisation not judged: the reference is not what was trained on" in out


def test_a_broken_or_small_test_split_blocks_nothing(say, run, photos):
    for file in sorted((photos / "test").rglob("*.png"))[5:]:
        file.unlink()
    code, out, err = say("score run --samples 60")
    assert code == 0, err
    assert "its split test has 5 images, too few" in out
    for file in (photos / "test").rglob("*.png"):
        file.write_bytes(b"broken")
    assert say("score run --samples 60")[0] == 0


def test_oblong_and_broken_images_are_said(say, tmp_path, photos):
    wide = np.concatenate([pictures(40, 1), pictures(40, 2)], 2)
    write(tmp_path / "wide", wide)
    (tmp_path / "wide" / "broken.png").write_bytes(b"nothing")
    code, out, err = say("score wide --data photos --samples 40")
    assert code == 0, err
    assert "40 of 40 images are not square: their centre is taken, where other tools squeeze the whole" in out
    assert "1 images are broken and left out" in out
    write(tmp_path / "large", pictures(40, 1, side=32))
    _, out, _ = say("score large --data photos --samples 40")
    assert "120 of 120 real images were enlarged to 32 px" in out


def test_nothing_is_begun_before_all_is_checked(say, run, monkeypatch):
    monkeypatch.setattr("gander.scoring.score", lambda *_: pytest.fail("begun"))
    Path("file").write_text("")
    for words in ("run nosuch --data photos", "run --out file", "run --save-reference no/such.safetensors", "run --step 7"):
        code, _, err = say(f"score {words} --samples 60")
        assert (code, err.count("\n")) == (2, 1), err


def test_folders_of_one_name_stay_apart(say, tmp_path, photos):
    for number, folder in enumerate(("a", "b")):
        write(tmp_path / folder / "x", pictures(40, number + 1))
    code, out, _ = say("score a/x b/x --data photos --samples 40 --out out")
    assert code == 0
    assert re.search(r"lower is better: [ab]/x < [ab]/x", out)
    assert len(list(Path("out").glob("nearest-x-*.png"))) == 2
