"""What `show` says a step costs, against what a step was seen to cost."""

import re
import weakref

import pytest
import torch

from gander import draws, recipes
from gander import estimate as estimates
from gander.recipes.experiment import Facts

SMALL = {"resolution": 16, "width": 8, "attention": "none"}


def made(device="meta", name="sagan", **knobs):
    with torch.device(device):
        return recipes.load(name)(Facts(100, 0, 3), **{**SMALL, **knobs})


@pytest.fixture(autouse=True)
def _one_gigaflop(monkeypatch):
    monkeypatch.setattr(estimates, "matrix_rate", lambda: 1e9)


def said(experiment):
    """The numbers in the lines: GFLOP, GB in all, GB of weights and the like, GB of activations, seconds a step."""
    step, memory, clock = estimates.estimate(experiment, 3)
    number = r"([\d,.]+(?:e[+-]\d+)?)"
    found = (
        re.search(rf"{number} GFLOP", step).groups()
        + re.search(
            rf"about {number} GB: weights, gradients and optimisers {number}, activations {number} \(fp32\)", memory
        ).groups()
    )
    return [float(value.replace(",", "")) for value in (*found, re.search(rf"about {number} s a step", clock).group(1))]


@pytest.mark.parametrize("name", ["sagan", "sagan_official", "dcgan"])
def test_flops_and_activations_are_linear_in_the_batch(name):
    one, four = said(made(name=name, batch=40_000)), said(made(name=name, batch=160_000))
    assert four[0] == pytest.approx(4 * one[0], rel=0.02)
    assert four[3] == pytest.approx(4 * one[3], rel=0.02)
    assert four[2] == one[2]


def test_micro_batches_need_less_memory_for_the_same_work():
    whole, cut = said(made(batch=4000)), said(made(batch=4000, accumulate=4))
    assert cut[0] == pytest.approx(whole[0], rel=0.01)
    assert cut[3] == pytest.approx(whole[3] / 4, rel=0.05)


def test_more_updates_of_the_discriminator_cost_more_and_need_no_more_memory():
    one, three = said(made(batch=2000)), said(made(batch=2000, n_dis=3))
    assert 1.5 * one[0] < three[0] < 3 * one[0]
    assert three[3] == pytest.approx(one[3], rel=0.05)


def test_flops_of_a_convolution_are_the_formula():
    """Twice as wide networks cost four times as much, but for the images' own channels."""
    narrow, wide = said(made(batch=1000, width=32)), said(made(batch=1000, width=64))
    assert 3.5 < wide[0] / narrow[0] < 4


def test_weights_are_the_bytes_of_three_networks_and_what_training_adds_to_two():
    """fp32: generator, discriminator, average; a gradient and Adam's two moments for the first two."""
    experiment = made(batch=4, width=256)
    generator, discriminator = (sum(p.numel() for p in experiment.networks[n].parameters()) for n in ("generator", "discriminator"))
    expected = 4 * (2 * generator + discriminator + 3 * (generator + discriminator)) / 1e9
    assert expected > 1
    _, total, weights, activations, _ = said(experiment)
    assert weights == pytest.approx(expected, abs=0.0051)
    assert total == pytest.approx(weights + activations, abs=0.0151)


class Seen:
    """The most bytes that autograd held at once for backward, parameters apart: counted storage by storage."""

    def __init__(self):
        self.alive, self.most = {}, 0

    def pack(self, tensor):
        if isinstance(tensor, torch.nn.Parameter):
            return lambda: tensor
        storage, kept = tensor.untyped_storage(), lambda: tensor
        key = storage.data_ptr()
        size, count = self.alive.get(key, (storage.nbytes(), 0))
        self.alive[key] = size, count + 1
        self.most = max(self.most, sum(size for size, count in self.alive.values() if count))
        weakref.finalize(kept, self.release, key)
        return kept

    def release(self, key):
        size, count = self.alive.pop(key)
        if count > 1:
            self.alive[key] = size, count - 1


def held(experiment, batch):
    """Bytes that a real step on the CPU keeps for backward."""
    seen = Seen()
    share, side = batch // experiment.learner.accumulate, experiment.resolution
    images, labels = torch.zeros(share, 3, side, side), torch.zeros(share, dtype=torch.int64)
    batches = [[(images, labels)] * experiment.learner.accumulate] * experiment.learner.draws_per_step
    with torch.autograd.graph.saved_tensors_hooks(seen.pack, lambda kept: kept()):
        experiment.learner.step(0, batches, draws.at_step(0, 0))
    assert not seen.alive
    return seen.most


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("sagan", {}),
        ("sagan", {"accumulate": 2, "augment": "color,translation,cutout"}),
        ("sagan_official", {}),
        ("dcgan", {}),
        ("sagan", {"attention": "article", "resolution": 32}),
    ],
    ids=str,
)
def test_activations_are_what_a_real_step_holds(name, knobs):
    """The estimate for many times the batch, for its digits, against that many times the step."""
    # which way attention takes depends on the batch: a real step of a larger one there
    batch, times = (256, 1) if "attention" in knobs else (64, 100)
    real = times * held(made("cpu", name, batch=batch, **knobs), batch) / 1e9
    assert said(made(name=name, batch=batch * times, **knobs))[3] == pytest.approx(real, rel=0.15)


@pytest.mark.parametrize("penalty", ["r1", "r2", "wgan_gp"])
def test_penalties_cost_more(penalty):
    assert said(made(batch=1000, **{penalty: 1.0}))[0] > 1.1 * said(made(batch=1000))[0]


def test_time_is_the_work_over_the_rate():
    flops, *_, seconds = said(made(batch=1000))
    assert seconds == pytest.approx(flops * 1e9 / (1e9 * estimates.REACHED), rel=0.05)  # two digits


def test_the_matrix_rate_is_a_rate(monkeypatch):
    monkeypatch.undo()
    assert 1e8 < estimates.matrix_rate(seconds=0.01, n=128) < 1e14


@pytest.mark.parametrize(
    ("value", "words"),
    [((0.0, 0.9), "0.0 0.9"), ([8, 16], "8 16"), (None, "by size"), (True, "True"), (1e-4, "0.0001"), ("self", "self")],
)
def test_a_value_is_worded_as_it_is_typed(value, words):
    assert estimates.worded(value) == words
