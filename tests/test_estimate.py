"""What `show` says a step costs, against what a step was seen to cost."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gander import draws, recipes
from gander import estimate as estimates
from gander.models.all_attention import skinny
from gander.recipes.experiment import Facts

SMALL = {"resolution": 16, "width": 8, "attention": "none"}


def made(device="meta", name="sagan", **knobs):
    with torch.device(device):
        return recipes.load(name)(Facts(100, 0, 3), **{**SMALL, **knobs})


@pytest.fixture(autouse=True)
def _one_gigaflop(monkeypatch):
    monkeypatch.setattr(estimates, "matrix_rate", lambda: 1e9)


def said(experiment):
    """The numbers in the lines: GFLOP; GB in all, of weights and the like, of activations, of what is beside; seconds a step."""
    step, memory, clock = estimates.estimate(experiment, 3)
    number = r"([\d,.]+(?:e[+-]\d+)?)"
    parts = f"{number} GB: weights, gradients and optimisers {number}, activations {number}, torch and its allocator {number} "
    found = [re.search(rf"{number} GFLOP", step), re.search(parts, memory), re.search(rf"about {number} s a step", clock)]
    return [float(value.replace(",", "")) for match in found for value in match.groups()]


@pytest.mark.parametrize("name", ["sagan", "sagan_official", "dcgan"])
def test_flops_and_activations_are_linear_in_the_batch(name):
    one, four = said(made(name=name, batch=40_000)), said(made(name=name, batch=160_000))
    assert four[0] == pytest.approx(4 * one[0], rel=0.02)
    assert four[3] == pytest.approx(4 * one[3], rel=0.02)
    assert four[2] == one[2]


def test_micro_batches_need_less_memory_for_the_same_work():
    whole, cut = said(made(batch=4000)), said(made(batch=4000, accumulate=4))
    assert cut[0] == pytest.approx(whole[0], rel=0.01)
    assert cut[3] == pytest.approx(whole[3] / 4, rel=0.15)  # the images of a whole batch lie there either way


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
    _, total, weights, activations, beside, _ = said(experiment)
    assert weights == pytest.approx(expected, rel=0.01)
    assert total == pytest.approx(weights + activations + beside, abs=0.0201)


def allocated(experiment, steps=2):
    """Bytes that live at their most in real steps on the CPU, by torch's profiler: from before the first, the networks included."""
    share, side = experiment.batch // experiment.learner.accumulate, experiment.resolution

    def work():
        images = [torch.zeros(share, 3, side, side) for _ in range(experiment.learner.accumulate)]
        batches = [[(part, torch.zeros(share, dtype=torch.int64)) for part in images]] * experiment.learner.draws_per_step
        for step in range(steps):
            experiment.learner.step(step, batches, draws.at_step(0, step))

    networks = experiment.networks.values()
    return sum(p.nbytes for network in networks for p in (*network.parameters(), *network.buffers())) + peak(work)


def peak(work):
    """Bytes that live at their most, over those that lived before."""
    now = most = 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("sagan", {}),
        ("sagan", {"accumulate": 2, "augment": "color,translation,cutout"}),
        ("sagan", {"attention": "article", "resolution": 32, "batch": 256}),
        ("sagan_official", {}),
        ("dcgan", {"r1": 1.0}),
        ("locate", {"attention": "feature+gate", "batch": 16}),
        ("locate", {"depth": 2, "reversible": True, "attention": "self", "optimizer": "adabound", "batch": 16}),
        ("locate", {"batch": 2, "width": 32}),
    ],
    ids=str,
)
def test_tensors_are_what_real_steps_allocate(name, knobs):
    knobs = {"batch": 64, **knobs}
    meter = estimates.measured(made(name=name, **knobs), 3)[0]
    assert meter.most == pytest.approx(allocated(made("cpu", name, **knobs)), rel=0.15)
    assert meter.now < 0.9 * meter.most


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("pixels", ["window", "lsh"])
def test_tensors_inside_attention_and_reversible_stacks_are_seen(pixels, reversible):
    """Attention in windows and by hashes, and what is computed again in backward: a forward and a backward of a generator."""
    knobs = {"latent_dim": 16, "style": 16, "width": 64, "depth": 3, "tokens": 16, "mapping_tokens": 4, "mapping_depth": 1}

    def made(device):
        with torch.device(device):
            return skinny.Generator(64, pixels=pixels, reversible=reversible, **knobs), torch.zeros(1, 16)

    network, latents = made("meta")
    meter = estimates._Meter()
    with meter:
        network(latents).square().mean().backward()
    network, latents = made("cpu")
    assert meter.most == pytest.approx(peak(lambda: network(latents).square().mean().backward()), rel=0.25)


GROWTH = """
import torch
from pathlib import Path
from gander import draws, recipes
from gander.recipes.experiment import Facts

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

function, before = recipes.load("{name}"), status("VmRSS")
experiment = function(Facts(100, 0, 3), **{knobs})
experiment.learner.to(torch.device("cpu"))
batch = torch.zeros(experiment.batch, 3, *[experiment.resolution] * 2), torch.zeros(experiment.batch, dtype=torch.int64)
for step in range(2):
    experiment.learner.step(step, [[batch]], draws.at_step(0, step))
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize(("name", "knobs"), [("locate", {"resolution": 32, "width": 32, "batch": 16, "attention": "feature+gate"})])
def test_memory_is_what_a_process_grows_by(name, knobs):
    """Within 30 %; `benchmarks/memory.py` has large ones."""
    code = GROWTH.format(name=name, knobs=knobs)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert said(made(name=name, **knobs))[1] == pytest.approx(int(run.stdout) / 1e9, rel=0.3)


@pytest.mark.parametrize("penalty", ["r1", "r2", "wgan_gp"])
def test_penalties_cost_more(penalty):
    assert said(made(batch=1000, **{penalty: 1.0}))[0] > 1.1 * said(made(batch=1000))[0]


def test_time_is_the_work_over_the_rate():
    flops, *_, seconds = said(made(batch=1000))
    assert seconds == pytest.approx(flops * 1e9 / (1e9 * estimates.REACHED), rel=0.05)  # two digits


def test_steps_with_composites_are_what_counts():
    small = {"resolution": 16, "width": 16, "discriminator_width": 16, "depth": 1, "scales": 2, "latent": 16, "batch": 8}

    def work(**knobs):
        with torch.device("meta"):
            made = recipes.load("pixel_discriminator")(Facts(100, 0, 3), **{**small, **knobs})
        return estimates.measured(made, 3)[0].flops

    assert work(steps=100) == work(steps=101) == work(steps=102) == work(composites=1.0)
    assert work(composites=0.0) < work()


def test_the_matrix_rate_is_a_rate(monkeypatch):
    monkeypatch.undo()
    assert 1e8 < estimates.matrix_rate(seconds=0.01, n=128) < 1e14


@pytest.mark.parametrize(
    ("value", "words"),
    [((0.0, 0.9), "0.0 0.9"), ([8, 16], "8 16"), (None, "by size"), (True, "True"), (1e-4, "0.0001"), ("self", "self")],
)
def test_a_value_is_worded_as_it_is_typed(value, words):
    assert estimates.worded(value) == words
