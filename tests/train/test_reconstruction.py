"""Reconstruction: the step is the gradient of its loss; it is judged on images it has not seen; `fit` treats it as any other."""

import math
from copy import deepcopy

import pytest
import torch
from games import images, weights
from processes import run
from torch import nn

from gander import draws, recipes
from gander.data.batches import Batches
from gander.probes import PROBES
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.train.autoencoder import Reconstruction, psnr
from gander.train.fit import fit


def make(dtype=torch.float32, **knobs):
    torch.manual_seed(0)
    knobs = {"resolution": 16, "width": 4, "latent": 8, "batch": 12, "steps": 6, "attention": "self", **knobs}
    learner = recipes.load("autoencoder")(Facts(48, 0, 3), **knobs).learner.to(torch.device("cpu"))
    learner.autoencoder.to(dtype)
    batches = Batches(*images(classes=0), batch=12, seed=0, accumulate=learner.accumulate)
    return learner, lambda step: [[(x.to(dtype), y) for x, y in batch] for batch in batches(step)]


@pytest.mark.parametrize("loss", ["l1", "mse"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_the_formula(loss, accumulate):
    learner, batches = make(torch.float64, loss=loss, accumulate=accumulate, lr=0.01)
    oracle = deepcopy(learner.autoencoder).train()
    optimizer = torch.optim.Adam(oracle.parameters(), 0.01)
    values = learner.step(0, batches(0), draws.at_step(0, 0))
    apart = [oracle(x) - x for x, _ in batches(0)[0]]  # each micro-batch has its own batch statistics
    expected = torch.cat(apart).abs().mean() if loss == "l1" else torch.cat(apart).square().mean()
    expected.backward()
    optimizer.step()
    assert values["loss"] == pytest.approx(expected.item(), rel=1e-12)
    for name, tensor in oracle.state_dict().items():
        torch.testing.assert_close(learner.autoencoder.state_dict()[name], tensor, rtol=1e-9, atol=1e-12)


def test_flipped_images_are_the_mirror_images_of_half_of_them():
    learner, batches = make(flip=True)
    plain = batches(0)[0][0][0]
    learner.step(0, batches(0), draws.at_step(0, 0))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(learner.shown, plain, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, learner.shown, plain, strict=True))
    assert 0 < sum(mirrored) < 12


def test_six_steps_are_three_and_three(tmp_path):
    def trained(name, steps):
        the_run = Run.start(tmp_path / name, {"recipe": "autoencoder", "knobs": {"steps": 6}, "facts": {}, "seed": 0})[0]
        learner, batches = make(spectral_norm=True, flip=True)
        fit(learner, batches, the_run, steps=steps, batch=12, log_every=3, save_every=3, sample_every=3)
        return learner, the_run

    whole, straight = trained("straight", 6)
    trained("halved", 3)
    resumed, halved = trained("halved", 6)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    pictures = sorted(picture.name for picture in straight.samples.iterdir())
    assert pictures == ["00000003.png", "00000006.png"]  # before the first step there is nothing to show
    for name in pictures:
        assert (straight.samples / name).read_bytes() == (halved.samples / name).read_bytes()
    assert any(key.startswith("gamma/") for line in straight.logged() for key in line)


def stepped():
    learner, batches = make(torch.float64, accumulate=2, flip=True, spectral_norm=True)
    for step in range(5):
        learner.step(step, batches(step), draws.at_step(0, step))
    return weights(learner)


def test_two_processes_are_one():
    alone = stepped()
    for other in run(stepped, 2):
        for name, tensor in alone.items():
            assert (other[name] - tensor).norm() <= 1e-9 * max(1, tensor.norm()), name


class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x):
        return x + self.by


def test_the_exam_has_its_closed_form():
    """Off by 0.2 everywhere: 10·log10(4 / 0.04) = 20 dB."""
    network = Shift(0.2)
    learner = Reconstruction(network, optimizer=torch.optim.SGD(network.parameters(), 0.1))
    found = learner.examine([(torch.rand(n, 3, 4, 4) * 2 - 1, torch.zeros(n)) for n in (5, 2)])
    assert found == pytest.approx({"exam/PSNR": 20.0, "exam/L1": 0.2, "exam/MSE": 0.04}, rel=1e-5)


def test_psnr_is_that_of_each_image():
    x, y = torch.rand(4, 3, 5, 5, dtype=torch.float64), torch.rand(4, 3, 5, 5, dtype=torch.float64)
    for i, value in enumerate(psnr(x, y)):
        error = sum((a - b) ** 2 for a, b in zip(x[i].flatten().tolist(), y[i].flatten().tolist(), strict=True)) / 75
        assert value == pytest.approx(10 * math.log10(4 / error), rel=1e-12)


def test_an_image_without_a_fault_is_no_infinity():
    black = torch.full((2, 3, 4, 4), -1.0)
    assert psnr(black, black).tolist() == pytest.approx([106.02, 106.02], abs=0.01)


def test_it_learns():
    """Two discs of one colour on grey say more than noise does; other images of their kind are said again better, too."""
    drawn = PROBES["twins"].draw(0, range(160), 16)[0]
    learner, _ = make(attention="none", lr=3e-3)
    x = torch.from_numpy(drawn).permute(0, 3, 1, 2) / 127.5 - 1
    held_out = [(x[128:], torch.zeros(32))]
    before = learner.examine(held_out)["exam/PSNR"]
    for step in range(80):
        rows = torch.arange(step * 12, step * 12 + 12) % 128
        learner.step(step, [[(x[rows], torch.zeros(12))]], draws.at_step(0, step))
    assert learner.examine(held_out)["exam/PSNR"] > before + 3


def test_reconstructions_stand_under_their_images():
    learner, batches = make()
    assert learner.columns == 0
    learner.step(0, batches(0), draws.at_step(0, 0))
    sheet = learner.samples(0)
    assert sheet.shape == (16, 3, 16, 16)
    assert learner.columns == 8
    assert torch.equal(sheet[:8], learner.shown[:8])
    learner.autoencoder.eval()
    torch.testing.assert_close(sheet[8:], learner.autoencoder(learner.shown[:8]), rtol=1e-5, atol=1e-6)
