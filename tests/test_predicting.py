"""From a classifier's run to a table: the exam's accuracy, probabilities by hand, and the line of each mistake."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from gander import files, predicting, recipes
from gander.data import images as decoding
from gander.predicting import Classifier, load_classifier, table
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.train import checkpoint

KNOBS = {"network": "xresnet18", "width": 4, "resolution": 20, "batch": 8, "steps": 3}
CLASSES = ["cats", "dogs", "emus"]


def draw(folder, n, seed=0):
    """`n` noisy images, 20×24 pixels, that differ by their seed."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(generator.integers(0, 256, (24, 20, 3), np.uint8)).save(folder / f"{i}.png")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def made(folder, recipe="imagewoof", knobs=KNOBS, classes=CLASSES, channels=3):
    """A run with one checkpoint whose weights say something: those of birth, and every gain of a block's end at 1."""
    function, facts = recipes.load(recipe), Facts(24, len(classes), channels)
    resolved = recipes.resolve(function, knobs)
    described = {"recipe": recipe, "knobs": resolved, "facts": vars(facts), "seed": 0, "classes": classes, "precision": "fp32"}
    Run.start(folder, described)
    torch.manual_seed(0)
    experiment = function(facts, **resolved)
    for network in experiment.networks.values():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight"):
                torch.nn.init.ones_(parameter)
    state = {"step": 3, "learner": experiment.learner.state_dict()}
    checkpoint.save(folder / "checkpoints", 3, experiment.networks, state)
    return Run.open(folder)


def rows_of(file):
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_accuracy_is_that_of_the_exam(precision, say, tmp_path):
    for k, kind in enumerate(CLASSES[:2]):
        draw(tmp_path / "split" / "train" / kind, 12, seed=k)
        draw(tmp_path / "split" / "val" / kind, 35, seed=5 + k)
    flags = " ".join(f"--{name} {value}" for name, value in KNOBS.items())
    assert say(f"train imagewoof --data split --run run --device cpu --precision {precision} {flags}")[0] == 0
    exam = json.loads((tmp_path / "run" / "exam.json").read_text())
    code, out, err = say("predict run split --split val --device cpu")
    assert code == 0, err
    assert f"top-1 accuracy {exam['exam/top-1 accuracy']:.4f}: " in out
    assert "of 70 labelled images" in out
    assert "note" not in out
    rows = rows_of(tmp_path / "run" / "predictions.csv")
    counts = [[sum(r["label"] == a and r["predicted"] == b for r in rows) for b in CLASSES[:2]] for a in CLASSES[:2]]
    assert counts == exam["counts"]
    code, out, _ = say("predict run split --out other.csv --device cpu")
    assert code == 0
    assert "note: the run was trained on these images" in out
    assert len(rows_of(tmp_path / "other.csv")) == 24


def test_a_table_of_a_flat_folder_is_what_the_network_says(say, tmp_path):
    """Decoded, cropped and asked one by one here; and no label, as nobody knows them."""
    run = made(tmp_path / "run")
    draw(tmp_path / "flat", 11)
    code, out, err = say("predict run flat --out t.csv --device cpu")
    assert code == 0, err
    assert "11 images as the classifier of step 3 calls them: t.csv" in out
    assert "accuracy" not in out
    assert not (run.folder / "predictions.csv").exists()
    rows = rows_of(tmp_path / "t.csv")
    assert list(rows[0]) == ["file", "predicted", "probability", "p:cats", "p:dogs", "p:emus"]
    assert [row["file"] for row in rows] == sorted(f.name for f in (tmp_path / "flat").iterdir())
    network = load_classifier(run).network
    assert not network.training
    for row in rows:
        square = decoding.decode((tmp_path / "flat" / row["file"]).read_bytes(), 52)[16:36, 16:36]
        image = torch.from_numpy(square.transpose(2, 0, 1)[None].copy()).float() / 127.5 - 1
        with torch.no_grad():
            expected = network(image).double().softmax(1)[0]
        found = np.array([float(row[f"p:{name}"]) for name in CLASSES])
        np.testing.assert_allclose(found, expected, rtol=2e-5)
        assert row["predicted"] == CLASSES[int(expected.argmax())]
        assert float(row["probability"]) == found.max()
    assert len({row["probability"] for row in rows}) == 11


def test_classes_that_the_run_does_not_know_count_as_unlabelled(say, tmp_path):
    made(tmp_path / "run")
    for k, kind in enumerate(("cats", "yaks", "=gnus")):
        draw(tmp_path / "mixed" / kind, 4, seed=k)
    code, out, err = say("predict run mixed --device cpu")
    assert code == 0, err
    assert "note: the run does not know the classes =gnus, yaks; the 8 images there count as unlabelled" in out
    rows = rows_of(tmp_path / "run" / "predictions.csv")
    assert {row["file"].partition("/")[0]: row["label"] for row in rows} == {".": "", "cats": "cats", "yaks": ""}
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert f"top-1 accuracy {right / 4:.4f}: {right} of 4 labelled images" in out
    (tmp_path / "mixed" / "cats").rename(tmp_path / "mixed" / "cat")
    code, out, _ = say("predict run mixed --device cpu")
    assert "accuracy" not in out
    assert "label" not in rows_of(tmp_path / "run" / "predictions.csv")[0]


def test_broken_images_are_left_out_and_said(say, tmp_path):
    made(tmp_path / "run")
    draw(tmp_path / "flat", 5)
    (tmp_path / "flat" / "3.png").write_bytes(b"no image")
    code, _, err = say("predict run flat --device cpu")
    assert code == 2
    assert "1 of the 5 images of flat are broken (3.png" in err
    assert not (tmp_path / "run" / "predictions.csv").exists()
    code, _, err = say("predict run flat --device cpu --allow-broken")
    assert code == 0
    assert "going on without them" in err
    assert [row["file"] for row in rows_of(tmp_path / "run" / "predictions.csv")] == ["0.png", "1.png", "2.png", "4.png"]


def test_no_cell_is_a_formula_and_every_row_a_line():
    names = ["=1+2.png", "+a.png", "-b.png", "@c.png", 'q"u,o.png', "li\nne.png", "\tt.png", "by\udcffte.png", "é.png"]
    text = table(["-1", "x"], names, ["-1"] + [""] * 8, [0] * 9, [[0.75, 0.25]] * 9)
    lines = text.encode("utf-8").decode("utf-8").splitlines()
    assert len(lines) == 10
    rows = list(csv.DictReader(lines))
    assert [row["file"] for row in rows[:4]] == ["./=1+2.png", "./+a.png", "./-b.png", "./@c.png"]
    assert [row["file"] for row in rows[4:]] == ['q"u,o.png', r"li\nne.png", r"\tt.png", r"by\udcffte.png", "é.png"]
    assert (rows[0]["label"], rows[0]["predicted"], rows[0]["p:-1"]) == ("'-1", "'-1", "0.75")
    for row in csv.reader(lines):
        assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@"))]


def test_nothing_is_written_where_the_network_answers_with_nan(say, tmp_path):
    run = made(tmp_path / "run")
    draw(tmp_path / "flat", 3)
    file = next(run.checkpoints.iterdir()) / "classifier.safetensors"
    network = load_classifier(run).network
    with torch.no_grad():
        network.linear.bias.fill_(torch.nan)
    checkpoint._write_network(file, network, {})
    manifest = json.loads((file.parent / "manifest.json").read_text())
    manifest["sha256"][file.name] = files.sha256(file)
    (file.parent / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = say("predict run flat --device cpu")
    assert code == 2
    assert "the classifier of step 3 answers with NaN or infinity" in err
    assert not (run.folder / "predictions.csv").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predict", "gander predict wants a run first"),
        ("predict run", "gander predict wants a data first"),
        ("predict nowhere flat", "nowhere does not exist; runs are made by"),
        ("predict gan flat", "gan has no classifier to ask; it has generator, discriminator, generator_ema"),
        ("predict run nowhere", "there is no folder or file 'nowhere'"),
        ("predict run flat --split val", "flat has no splits"),
        ("predict run flat --step 2", "no checkpoint of step 2; there are: 3"),
        ("predict run flat --out flat", "--out flat is no CSV file; name it like predictions.csv"),
        ("predict run flat --out 0.png", "--out 0.png is no CSV file"),
        ("predict run flat --precision fp8", "no precision called 'fp8'"),
        ("predict odd flat", r"odd/run.json names 2 classes, and the classifier has 3; restore it from a copy"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(line, message, say, tmp_path, monkeypatch):
    made(tmp_path / "run")
    made(tmp_path / "gan", "dcgan", {"resolution": 16, "width": 2, "latent": 4, "batch": 4, "steps": 2})
    made(tmp_path / "odd")
    described = json.loads((tmp_path / "odd" / "run.json").read_text())
    (tmp_path / "odd" / "run.json").write_text(json.dumps(described | {"classes": ["a", "b"]}))
    draw(tmp_path / "flat", 2)

    def never(*_, **__):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("gander.data.prepare", never)
    code, _, err = say(line)
    assert code == 2
    assert err.count("\n") == 1, err
    assert re.search(message, err), err


def test_a_run_without_names_of_classes_gets_numbers(tmp_path):
    run = made(tmp_path / "run", classes=[])
    found = load_classifier(run)
    assert isinstance(found, Classifier)
    assert found.classes == tuple(map(str, range(10)))
    assert (found.step, found.resolution, found.side, found.channels) == (3, 20, 52, 3)


def test_equal_answers_are_called_as_the_exam_calls_them():
    """bf16 has many equal ones, and argmax takes others of them than topk does."""
    from gander.train.classifier import Lesson
    from gander.train.precision import Precision

    class Ties(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, images):
            return (images[:, 0, 0, :7] * 2).round() * self.scale

    pixels = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)
    labels, network = np.arange(200) % 7, Ties()
    lesson = Lesson(network, optimizer=torch.optim.AdamW(network.parameters()), steps=1, resolution=8)
    found = lesson.examine([(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, torch.from_numpy(labels))])
    classifier = Classifier(network, 1, None, tuple("abcdefg"), 3, 8, 8)
    dataset = type("Set", (), {"images": pixels, "labels": labels, "__len__": lambda self: 200})()
    _, called = predicting.ask(classifier, dataset, Precision("fp32", torch.device("cpu"), ["classifier"]))
    assert np.mean(np.array(called) == labels) == pytest.approx(found["exam/top-1 accuracy"], abs=1e-12)
