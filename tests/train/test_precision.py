"""Which precision a run takes, and what fp16 must not do to it."""

import math

import pytest
import torch
from games import make, weights

from gander import draws
from gander.errors import UserError
from gander.run import Run
from gander.train.fit import fit
from gander.train.precision import DTYPES, Precision, resolve

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    ("asked", "device", "native", "got"),
    [
        (None, CPU, True, "fp32"),
        (None, CUDA, True, "bf16"),
        (None, CUDA, False, "fp32"),
        (None, MPS, True, "fp32"),
        ("fp32", CUDA, True, "fp32"),
        ("fp32", MPS, False, "fp32"),
        ("bf16", CPU, False, "bf16"),
        ("bf16", CUDA, False, "bf16"),
        ("fp16", CUDA, True, "fp16"),
        ("fp16", CPU, False, "fp16"),
    ],
)
def test_what_is_asked_is_taken_else_bf16_where_the_device_has_it(asked, device, native, got, monkeypatch):
    def has(including_emulation=True):
        assert not including_emulation
        return native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", has)
    assert resolve(asked, device) == got


@pytest.mark.parametrize(
    ("asked", "device", "words"),
    [
        ("fp64", CPU, "no precision called 'fp64'; there are: fp32, bf16, fp16"),
        ("", CPU, "no precision called ''"),
        ("FP16", CPU, "no precision called 'FP16'"),
        ("bf16", MPS, "precision bf16 is not tried on MPS; take --precision fp32"),
        ("fp16", MPS, "precision fp16 is not tried on MPS"),
    ],
)
def test_what_there_is_not_is_refused(asked, device, words):
    with pytest.raises(UserError, match=words):
        resolve(asked, device)


@pytest.mark.parametrize("name", DTYPES)
def test_a_forward_runs_in_its_precision_and_parameters_stay(name):
    layer = torch.nn.Linear(4, 4)
    with Precision(name, CPU, ["network"]).autocast():
        assert layer(torch.randn(2, 4)).dtype == DTYPES[name]
    assert layer.weight.dtype == torch.float32


def stepped(name, gradient):
    """One step of SGD on a weight of ones with this gradient of the loss: (weight, norm, precision)."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    precision = Precision(name, CPU, ["network"])
    precision.backward("network", (weight * torch.tensor(gradient)).sum())
    norm = precision.step("network", optimizer, [weight])
    return weight.detach(), norm, precision


@pytest.mark.parametrize("name", DTYPES)
def test_a_step_is_the_step_of_the_true_gradient(name):
    """fp16's scaled gradient is scaled back before the step and before its norm is told."""
    weight, norm, _ = stepped(name, [3.0, 4.0, 0.0, 0.0])
    assert weight.tolist() == [-0.5, -1.0, 1.0, 1.0]
    assert norm == 5


def test_an_overflow_in_fp16_takes_no_step_lowers_the_scale_and_is_no_alarm():
    weight, norm, precision = stepped("fp16", [math.inf, 0.0, 0.0, 0.0])
    assert weight.tolist() == [1.0] * 4
    assert norm == 0
    assert precision.state_dict()["network"]["scale"] == Precision("fp16", CPU, ["network"]).state_dict()["network"]["scale"] / 2


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_elsewhere_what_is_not_finite_is_told(name):
    assert stepped(name, [math.nan, 0.0, 0.0, 0.0])[1].isnan()


def test_the_scale_goes_with_the_state():
    _, _, old = stepped("fp16", [math.inf, 0.0, 0.0, 0.0])
    new = Precision("fp16", CPU, ["network"])
    new.load_state_dict(old.state_dict())
    assert new.state_dict() == old.state_dict()
    Precision("fp32", CPU, ["network"]).load_state_dict(Precision("fp32", CPU, ["network"]).state_dict())


@pytest.mark.parametrize("simultaneous", [False, True])
def test_fp16_takes_several_steps_of_the_discriminator(simultaneous):
    learner, batches = make("article simultaneous", precision="fp16", simultaneous=simultaneous, n_dis=2)
    before = weights(learner)
    for step in range(2):
        learner.step(step, batches(step), draws.at_step(0, step))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(learner).items())


class Broken:
    """A learner one of whose reports is not finite."""

    def __init__(self, learner):
        self.__dict__.update(learner=learner)

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def details(self):
        return {"gamma/generator.attention": torch.tensor(math.inf)}


def logged(folder, learner, batches, **options):
    run = Run.start(folder, {"recipe": "sagan", "knobs": {"steps": 2}, "facts": {}, "seed": 0})[0]
    fit(learner, batches, run, steps=2, batch=12, log_every=1, sample_every=0, **options)


@pytest.mark.parametrize("where", ["details", "watcher"])
def test_what_is_not_finite_in_the_log_is_a_mistake_that_is_named(where, tmp_path):
    learner, batches = make("article")
    if where == "details":
        with pytest.raises(UserError, match=r"gamma.generator.attention is inf"):
            logged(tmp_path / "a", Broken(learner), batches)
    else:
        with pytest.raises(UserError, match="score is nan"):
            logged(tmp_path / "a", learner, batches, watchers=[(1, lambda learner, step: {"score": math.nan})])
