"""A classifier as a person meets it: trained on folders of classes, examined on what was held out, and the line of each mistake."""

import json
import re

import numpy as np
import pytest
from PIL import Image

SMALL = ["--network", "xresnet18", "--width", "4"]
TINY = [*SMALL, "--resolution", "20", "--batch", "8", "--log-every", "1", "--save-every", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def draw(folder, n, seed=0):
    """`n` noisy images, 20×24 pixels, that differ by their seed."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(generator.integers(0, 256, (24, 20, 3), np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def photos(tmp_path):
    """Two classes of twelve images and no split; the same with a split val of which one image is also in train; and flat ones."""
    for k, kind in enumerate(("cats", "dogs")):
        draw(tmp_path / "photos" / kind, 12, seed=k)
        draw(tmp_path / "split" / "train" / kind, 12, seed=k)
        draw(tmp_path / "split" / "val" / kind, 3, seed=2 + k)
    (tmp_path / "split" / "val" / "dogs" / "0.png").write_bytes((tmp_path / "split" / "train" / "cats" / "0.png").read_bytes())
    draw(tmp_path / "flat", 24)
    return tmp_path


def test_train_stop_and_go_on(say, photos):
    code, out, err = say("train imagewoof --data photos --epochs 2", *TINY)
    assert code == 0, err
    assert "note: 22 of the 22 images are smaller than 52 px and were enlarged" in out
    assert "training runs/imagewoof-photos: imagewoof, 22 images at 20 px, cpu, fp32" in out
    assert "examined every 2 steps on 2 held-out images (a tenth of each class, by name)" in out
    assert "runs/imagewoof-photos is finished: 4 steps" in out
    assert re.search(r"step 4  exam top-1 accuracy [01]\S*  exam loss", err)
    run = photos / "runs" / "imagewoof-photos"
    assert sorted(f.name for f in run.iterdir()) == ["checkpoints", "exam.json", "lock", "log.jsonl", "run.json"]
    described, exam = (json.loads((run / name).read_text()) for name in ("run.json", "exam.json"))
    assert described["facts"] == {"num_images": 22, "num_classes": 2, "channels": 3}
    assert described["knobs"]["steps"] is None
    assert described["held_out"]["count"] == exam["images"] == 2
    assert (exam["split"], exam["classes"], exam["step"]) == ("a tenth of each class, by name", ["cats", "dogs"], 4)
    assert [sum(row) for row in exam["counts"]] == [1, 1]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "exam/top-1 accuracy" in line] == [2, 4]

    log = (run / "log.jsonl").read_bytes()
    code, out, err = say("train imagewoof --data photos --epochs 2", *TINY)
    assert code == 0, err
    assert "is finished" in out
    assert (run / "log.jsonl").read_bytes() == log
    code, _, err = say("train imagewoof --data photos --epochs 3", *TINY)
    assert code == 2
    assert "epochs was 2, now 3" in err
    code, _, err = say("train imagewoof --data photos --steps 9 --epochs 2", *TINY)
    assert code == 2
    assert "steps was None, now 9" in err
    assert say("train imagewoof --data photos --epochs 1 --init runs/imagewoof-photos --run more", *TINY)[0] == 0

    draw(photos / "photos" / "emus", 12, seed=9)
    code, _, err = say("train imagewoof --data photos --epochs 2", *TINY)
    assert code == 2
    assert "is another run" in err
    code, _, err = say("sample runs/imagewoof-photos")
    assert code == 2
    assert "has no generator_ema to sample from; it has classifier" in err


def test_a_split_judges_and_what_it_shares_with_the_training_images_is_said(say, photos):
    code, out, err = say(
        "train imagenette --data split --steps 3 --mixup 0.2 --attention none --resolution 24", *SMALL, "--batch", "8"
    )
    assert code == 0, err
    assert "examined every 3 steps on 6 held-out images (split val)" in out
    assert "note: 1 of the 6 held-out images are also trained on" in out
    assert "runs/imagenette-split is finished: 3 steps" in out


def test_a_grey_classifier(say, photos):
    assert say("train imagewoof --data split --steps 1 --channels 1", *TINY)[0] == 0


def test_show_counts_the_parameters_of_the_source(say):
    code, out, _ = say("show imagewoof")
    assert code == 0
    assert "23,641,003 parameters" in out  # xresnet50 of 10 classes, and simple attention
    assert "3,905 steps" in out
    _, out, _ = say(
        "show imagenette --attention none --network xresnet18 --epochs 20 --mixup 0.2 --progressive 64 --num-classes 10"
    )
    assert "11,228,586 parameters" in out
    assert "15,620 steps" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--data flat", "flat has no labels, which a classifier learns from"),
        ("--data flat --network xresnet5", "xresnet5"),
        ("--data photos --attention simpel", "no attention called 'simpel'; did you mean 'simple'"),
        ("--data photos --stages 4", "attention at stage 4, but the stages are 0 to 3"),
        ("--data photos --where befor", "befor"),
        (
            "--data photos --attention feature --progressive 18",
            "attention 'feature' is made for one side, and --progressive changes",
        ),
        ("--data photos --progressive 20", "progressive 20 is no side below the resolution 20"),
        ("--data photos --steps 0", "steps 0 is not a whole number from 1 on"),
        ("--data photos --epochs 0", "epochs 0 is not a whole number from 1 on"),
        ("--data photos --smoothing 1", "smoothing 1.0 is not from 0 up to"),
        ("--data photos --mixup -1", "mixup -1.0 is not a number from 0 on"),
        ("--data photos --batch 23", "22 images are fewer than a batch of 23; take --batch 22 or less"),
        ("--data photos --score-every 5", "too few to score|makes no samples that could be scored"),
        ("--data probe:count --score-every 5", "imagewoof makes no samples that could be scored; leave --score-every out"),
        ("--data probe:twins", "probe:twins has no labels"),
        ("--data differ", "the classes of differ differ between its splits: emus only in train"),
        ("--data empty", "empty has no image of fish"),
        ("--data single", "class 'emus' of single is one image, and none is left to be held out"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(line, message, say, photos, monkeypatch):
    draw(photos / "differ" / "train" / "cats", 12)
    draw(photos / "differ" / "train" / "emus", 12)
    draw(photos / "differ" / "val" / "cats", 12)
    for name in ("empty", "single"):
        draw(photos / name / "cats", 12)
        draw(photos / name / "emus", 12 if name == "empty" else 1)
    (photos / "empty" / "fish").mkdir()
    monkeypatch.setattr("gander.data.prepare", None)
    code, _, err = say("train imagewoof", *TINY, *line.split())
    assert code == 2
    assert err.startswith("gander: ")
    assert err.count("\n") == 1, err
    assert re.search(message, err), err
    assert not (photos / "runs").exists()
