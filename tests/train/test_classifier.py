"""The lesson: its cycle, its loss, its exam; it goes on to the last bit, and two processes are one."""

import json
import math
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from games import images, weights
from processes import run as in_processes
from scipy import stats
from test_fit import equal, without_clock

from gander import draws, recipes
from gander.data.batches import Batches, in_order
from gander.data.crops import draw_boxes, resized_crop
from gander.errors import UserError
from gander.layers import refresh
from gander.optimizers import adamw, decay_groups
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.train.classifier import Lesson, mixup_weights, one_cycle
from gander.train.exam import Exam
from gander.train.fit import fit

STEPS, BATCH, SIDE, CLASSES = 10, 12, 20, 7
SMALL = {"network": "xresnet18", "resolution": SIDE, "width": 4, "batch": BATCH, "steps": STEPS, "lr": 0.01}


def make(dtype=torch.float32, precision="fp32", classes=CLASSES, **knobs):
    """(learner, batches), functions of the knobs alone; γ and the gains of last norms are not 0, so that all has a say."""
    torch.manual_seed(0)
    experiment = recipes.load("imagewoof")(Facts(48, classes, 3), **{**SMALL, **knobs})
    learner = experiment.learner.to(torch.device("cpu"), precision)
    learner.classifier.to(dtype)
    with torch.no_grad():
        for parameter in learner.classifier.parameters():
            if (parameter == 0).all():
                parameter.fill_(0.1)
    pictures, labels = images(classes=classes, side=experiment.side)
    batches = Batches(pictures, labels, batch=BATCH, seed=0, accumulate=learner.accumulate)
    return learner, lambda step: [[(x.to(dtype), y) for x, y in batch] for batch in batches(step)]


def held_out(n=23, classes=CLASSES):
    return images(n, classes, SIDE + 32)


def taught(learner, batches, steps):
    for step in range(steps):
        learner.step(step, batches(step), draws.at_step(0, step))
    return learner


def test_the_cycle_is_that_of_fastai():
    """Two cosines, the second from 30 % on; their ends, their middles, and that they meet."""

    def annealed(start, end, done):
        return start + (end - start) * (1 - math.cos(math.pi * done)) / 2

    for step in range(1000):
        done = step / 1000
        rise, fall = done / 0.3, (done - 0.3) / 0.7
        expected = (annealed(0.1, 1, rise), annealed(0.95, 0.85, rise)) if done < 0.3 else (
            annealed(1, 1e-5, fall), annealed(0.85, 0.95, fall))  # fmt: skip
        assert one_cycle(step, 1000) == pytest.approx(expected, abs=1e-12)
    assert one_cycle(0, 1000) == pytest.approx((0.1, 0.95))
    assert one_cycle(150, 1000) == pytest.approx((0.55, 0.9))
    assert one_cycle(300, 1000) == pytest.approx((1, 0.85))
    assert one_cycle(650, 1000) == pytest.approx((0.500005, 0.9))
    assert one_cycle(1000, 1000) == pytest.approx((1e-5, 0.95))


def test_rate_and_momentum_of_a_step_do_not_depend_on_what_came_before():
    learner, batches = make()
    for step in (7, 2, 7):
        learner.step(step, batches(step), draws.at_step(0, step))
        rate, momentum = one_cycle(step, STEPS)
        assert [group["lr"] for group in learner.optimizer.param_groups] == pytest.approx([0.01 * rate] * 2)
        assert [group["betas"] for group in learner.optimizer.param_groups] == [(momentum, 0.99)] * 2
        told = learner.details()
        assert (float(told["learning_rate"]), float(told["beta1"])) == pytest.approx((0.01 * rate, momentum))


def test_a_slowed_lesson_stays_slow():
    learner, batches = make()
    learner.slow_down(0.5)
    again, _ = make()
    again.load_state_dict(learner.state_dict())
    again.step(3, batches(3), draws.at_step(0, 3))
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(0.005 * one_cycle(3, STEPS)[0])


def test_only_matrices_and_kernels_decay():
    learner, _ = make()
    names = {id(parameter): name for name, parameter in learner.classifier.named_parameters()}
    decayed, kept = ([names[id(p)] for p in group["params"]] for group in learner.optimizer.param_groups)
    assert [group["weight_decay"] for group in learner.optimizer.param_groups] == [1e-2, 0]
    assert sorted([*decayed, *kept]) == sorted(names.values())
    modules = dict(learner.classifier.named_modules())
    for name in kept:
        module = modules[name.rpartition(".")[0]]
        assert name.endswith(("gamma", "bias")) or "Norm" in type(module).__name__, name
    assert all(name.endswith(("weight", "weight.original")) for name in decayed)
    assert any("attention" in name for name in decayed)
    assert any(name.endswith("attention.gamma") for name in kept)


def test_spectral_norm_is_on_the_attention_alone_and_moves_once_a_step():
    learner, batches = make(accumulate=2)
    assert [name for name in learner.details() if name.startswith("sigma/")] == ["sigma/stages.0.1.attention.conv"]
    (norm,) = [module for module in learner.classifier.modules() if type(module).__name__ == "SpectralNorm"]
    moves = []
    iterate = norm.iterate
    norm.iterate = lambda *arguments: moves.append(1) or iterate(*arguments)
    taught(learner, batches, 3)
    learner.examine(in_order(*held_out(), torch.device("cpu")))
    assert len(moves) == 3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_weights_of_mixup_are_the_larger_half_of_beta(alpha):
    found = mixup_weights(alpha, 4000, torch.Generator().manual_seed(0)).numpy()
    assert (found >= 0.5).all()
    assert (found <= 1).all()
    assert stats.kstest(found, lambda x: 2 * stats.beta.cdf(x, alpha, alpha) - 1).pvalue > 0.01


def loss_of(logits, labels, smoothing):
    """(1 - ε) · NLL + ε / k · Σ -log p, image by image."""
    found = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        log = row - row.exp().sum().log()
        found.append((1 - smoothing) * -log[label] + smoothing * -log.sum() / len(log))
    return torch.stack(found)


@pytest.mark.parametrize(
    "knobs", [{}, {"smoothing": 0.0, "flip": False}, {"mixup": 0.4}, {"mixup": 0.4, "accumulate": 2, "smoothing": 0.3}]
)
def test_a_step_is_the_formula(knobs):
    """In float64, with crops, partners and weights drawn again by their names: what the network is shown, the loss, the step."""
    learner, batches = make(torch.float64, **knobs)
    oracle, draw = deepcopy(learner.classifier).train(), draws.at_step(0, 0)
    shown = []
    learner.classifier.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    values = learner.step(0, batches(0), draw)
    boxes, coins = draw_boxes(draw("crop"), BATCH).double(), torch.rand(BATCH, generator=draw("flip")) < 0.5
    coins &= learner.flip
    lambdas = mixup_weights(learner.mixup, BATCH, draw("mixup")) if learner.mixup else torch.ones(BATCH, dtype=torch.float64)
    size, losses = BATCH // learner.accumulate, []
    refresh(oracle)
    for m, (squares, labels) in enumerate(batches(0)[0]):
        part = slice(m * size, (m + 1) * size)
        crops = resized_crop(squares, boxes[part], SIDE, coins[part])
        partners = torch.randperm(size, generator=draw(f"partner {m}"))
        weight = lambdas[part]
        mixed = torch.stack([weight[i] * crops[i] + (1 - weight[i]) * crops[partners[i]] for i in range(size)])
        assert torch.allclose(shown[m], mixed, atol=1e-12)
        logits = oracle(mixed)
        first, second = (loss_of(logits, y, learner.smoothing) for y in (labels, labels[partners]))
        losses.append((weight * first + (1 - weight) * second).mean())
    expected = torch.stack(losses).mean()
    expected.backward()
    optimizer = torch.optim.AdamW(decay_groups(oracle), lr=0.001, betas=(0.95, 0.99), eps=1e-6, weight_decay=1e-2)
    optimizer.step()
    assert values["loss"].item() == pytest.approx(expected.item(), rel=1e-12)
    for (name, mine), theirs in zip(learner.classifier.named_parameters(), oracle.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-8), name  # Adam's first step is a sign where the gradient is not 0


def test_sides_grow_in_equal_shares_and_held_out_images_are_shown_whole():
    learner, batches = make(progressive=(17, 18), steps=9)
    sides = []
    learner.classifier.register_forward_pre_hook(lambda module, inputs: sides.append(inputs[0].shape[-1]))
    taught(learner, batches, 9)
    assert sides == [17] * 3 + [18] * 3 + [20] * 3
    learner.examine(in_order(*held_out(), torch.device("cpu")))
    assert set(sides[9:]) == {20}


def new_run(folder):
    return Run.start(folder, {"recipe": "imagewoof", "knobs": {"steps": STEPS}, "facts": {}, "seed": 0})[0]


def trained(run, steps, precision="fp32", **knobs):
    learner, batches = make(precision=precision, **knobs)
    exam = Exam(lambda: in_order(*held_out(), torch.device("cpu")), 23, run, {"split": "val"})
    options = {"log_every": 2, "save_every": 5, "sample_every": 1, "watchers": [(5, exam)]}
    return learner, fit(learner, batches, run, steps=steps, batch=BATCH, **options)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_ten_steps_are_five_and_five(precision, tmp_path):
    """Weights, buffers, optimiser, log and exam: to the last bit; nothing is drawn."""
    straight, halved = new_run(tmp_path / "straight"), new_run(tmp_path / "halved")
    knobs = {"mixup": 0.2, "accumulate": 2, "progressive": (17,), "precision": precision}
    whole, _ = trained(straight, STEPS, **knobs)
    trained(halved, 5, **knobs)
    resumed, outcome = trained(halved, STEPS, **knobs)
    assert outcome == (STEPS, 0)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert equal(whole.state_dict(), resumed.state_dict())
    # a run that ends at 5 logs its last step; the line is not in the other log
    assert [line for line in without_clock(halved) if line["step"] != 5 or "loss" not in line] == without_clock(straight)
    assert (straight.folder / "exam.json").read_text() == (halved.folder / "exam.json").read_text()
    assert not straight.samples.exists()


@pytest.mark.parametrize("classes", [3, 7])
def test_an_exam_is_what_a_loop_finds(classes):
    learner, batches = make(classes=classes)
    taught(learner, batches, 2)
    before = {name: tensor.clone() for name, tensor in weights(learner).items()}
    pictures, labels = held_out(classes=classes)
    found = learner.examine(in_order(pictures, labels, torch.device("cpu"), 5))
    learner.classifier.eval()
    right = [0, 0]
    loss, counts = 0.0, np.zeros((classes, classes), int)
    for picture, label in zip(pictures, labels, strict=True):
        image = torch.tensor(picture[16:36, 16:36].transpose(2, 0, 1)[None] / 127.5 - 1, dtype=torch.float32)
        with torch.no_grad():
            logits = learner.classifier(image)[0].double()
        order = logits.argsort(descending=True).tolist()
        right = [right[0] + (order[0] == label), right[1] + (label in order[:5])]
        counts[label, order[0]] += 1
        loss -= float(logits[label] - logits.logsumexp(0))
    expected = {"exam/top-1 accuracy": right[0] / 23, "exam/loss": loss / 23}
    expected |= {"exam/top-5 accuracy": right[1] / 23} if classes > 5 else {}
    assert found == pytest.approx(expected, rel=1e-5)
    assert learner.confusion.tolist() == counts.tolist()
    assert int(learner.confusion.sum()) == 23
    assert learner.confusion.sum(1).tolist() == np.bincount(labels, minlength=classes).tolist()
    assert int(learner.confusion.trace()) == round(23 * found["exam/top-1 accuracy"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(learner).items())


def test_the_last_exam_is_kept_in_the_run(tmp_path):
    run = new_run(tmp_path / "run")
    trained(run, STEPS)
    kept, lines = json.loads((run.folder / "exam.json").read_text()), list(run.logged())
    examined = [line for line in lines if "exam/loss" in line]
    assert [line["step"] for line in examined] == [5, 10]
    assert {name: kept[name] for name in examined[-1]} == examined[-1]
    assert (kept["split"], kept["images"], np.sum(kept["counts"])) == ("val", 23, 23)


def lesson():
    """Weights after a few steps in float64, and what an exam finds."""
    learner, batches = make(torch.float64, mixup=0.5, accumulate=2, progressive=(17,))
    taught(learner, batches, 6)
    found = dict(weights(learner))
    pictures, labels = held_out()

    def part():
        return ((x.double(), y) for x, y in in_order(pictures, labels, torch.device("cpu"), 5))

    with tempfile.TemporaryDirectory() as folder:
        exam = Exam(part, 23, Run(Path(folder), {}), {})
        found |= {name: torch.tensor(value, dtype=torch.float64) for name, value in exam(learner, 6).items()}
        if (file := Path(folder, "exam.json")).exists():  # the first process writes it
            found["counts"] = torch.tensor(json.loads(file.read_text())["counts"], dtype=torch.float64)
    return found


def test_two_processes_are_one():
    """With mixup, whose partners are images of the other process too; and the exam is cut, its counts are of all."""
    alone, (first, second) = lesson(), in_processes(lesson, 2)
    assert first.keys() == alone.keys()
    assert second.keys() == alone.keys() - {"counts"}
    assert float(alone["counts"].sum()) == 23
    for other in (first, second):
        for name, tensor in other.items():
            if tensor.is_floating_point():
                assert (tensor - alone[name]).norm() <= 1e-9 * max(1, alone[name].norm()), name


def test_each_image_is_in_one_part(monkeypatch):
    pictures, labels = held_out()
    monkeypatch.setattr("gander.distributed.processes", lambda: 4)
    parts = []
    for rank in range(4):
        monkeypatch.setattr("gander.distributed.rank", lambda rank=rank: rank)
        parts.append([len(y) for _, y in in_order(pictures, labels, torch.device("cpu"))])
    assert all(parts)
    assert sum(map(sum, parts)) == 23


@pytest.mark.parametrize(
    ("knobs", "line"),
    [
        ({"smoothing": 1.0}, "smoothing 1.0 is not from 0 up to, and without, 1"),
        ({"progressive": (18, 20)}, "progressive 20 is no side below the resolution 20"),
        ({"progressive": (16,)}, "at 16 px the last stage would see one pixel; take sides of 17 or more"),
        ({"resolution": 8}, "at 8 px the last stage"),
        ({"progressive": (18,), "attention": "feature"}, "attention 'feature' is made for one side, and --progressive changes it"),
        ({"attention": "simpel"}, "no attention called 'simpel'; did you mean 'simple'"),
        ({"stages": (4,)}, "attention at stage 4, but the stages are 0 to 3"),
        ({"width": 5}, "width 5"),
        ({"steps": 0}, "steps 0 is not a whole number from 1 on"),
    ],
)
def test_a_mistake_is_one_line(knobs, line):
    with pytest.raises(UserError, match=line) as error:
        make(**knobs)
    assert "\n" not in str(error.value)


def test_a_state_that_is_none_is_refused():
    learner, _ = make()
    state = learner.state_dict()
    with pytest.raises(UserError, match="has no slowed"):
        learner.load_state_dict({name: value for name, value in state.items() if name != "slowed"})
    for slowed in (math.nan, 2.0, "half"):
        with pytest.raises(UserError, match="rates are"):
            learner.load_state_dict({**state, "slowed": slowed})


def test_a_lesson_takes_any_network():
    """One without attention, spectral norm or norms: a linear layer over the pixels."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, CLASSES))
    learner = Lesson(network, optimizer=adamw(decay_groups(network), 1e-3, (0.95, 0.99)), steps=60, resolution=SIDE)
    batches = Batches(*images(side=SIDE + 32, classes=CLASSES), batch=BATCH, seed=0)
    losses = [float(learner.step(step, batches(step), draws.at_step(0, step))["loss"]) for step in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
