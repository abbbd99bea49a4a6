import copy

import pytest
import torch
from processes import run
from torch import nn
from torch.nn import functional as F

from gander.distributed import average_gradients, processes, rank, shares
from gander.errors import UserError
from gander.layers import BatchNorm, ConditionalBatchNorm, has_batch_statistics

BATCH, CLASSES = 6, 3


def images(*shape: int, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=dtype) * 2 + 1


def shaken(layer: nn.Module) -> nn.Module:
    """Parameters and running averages away from ones and zeros."""
    generator = torch.Generator().manual_seed(1)
    for tensor in [*layer.parameters(), *layer.buffers()]:
        tensor.data.add_(torch.rand(tensor.shape, generator=generator))
    return layer


# One process


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (5, 4)])
@pytest.mark.parametrize("training", [True, False])
def test_equals_torch(shape, training):
    ours, theirs = shaken(BatchNorm(4)), nn.BatchNorm2d(4) if len(shape) == 4 else nn.BatchNorm1d(4)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    x = images(*shape, dtype=torch.float32)
    both = []
    for layer in (ours, theirs):
        layer.train(training)
        mine = x.clone().requires_grad_()
        for _ in range(2):
            y = layer(mine)
        y.square().sum().backward()
        both.append([y, mine.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var])
    for a, b in zip(*both, strict=True):
        assert torch.equal(a, b)


def test_bias_only_has_no_gain():
    layer = shaken(BatchNorm(4, gain=False))
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    x = images(5, 4, 3, 2, dtype=torch.float32)
    torch.testing.assert_close(layer(x), F.batch_norm(x, None, None, None, layer.bias, training=True))
    assert not list(BatchNorm(4, gain=False, bias=False).parameters())


def test_conditional_is_born_plain():
    x, labels = images(5, 4, 3, 2, dtype=torch.float32), torch.tensor([0, 2, 1, 1, 0])
    conditional, plain = ConditionalBatchNorm(4, CLASSES), BatchNorm(4, momentum=0.001)
    assert sum(p.numel() for p in conditional.parameters()) == 2 * CLASSES * 4
    torch.testing.assert_close(conditional(x, labels), plain(x))
    for a, b in zip(conditional.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (5, 4)])
def test_conditional_is_its_formula(shape):
    layer, x, labels = shaken(ConditionalBatchNorm(4, CLASSES)).double(), images(*shape), torch.tensor([0, 2, 1, 1, 0])
    dims = [d for d in range(len(shape)) if d != 1]
    y = layer(x, labels)
    normal = (x - x.mean(dims, keepdim=True)) / (x.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()
    for i, label in enumerate(labels):
        gain, bias = (table[label].view(-1, *[1] * (len(shape) - 2)) for table in (layer.gain, layer.bias))
        torch.testing.assert_close(y[i], gain * normal[i] + bias, rtol=1e-12, atol=1e-12)


def test_eval_uses_running_averages_and_keeps_them():
    for layer, rest in ((BatchNorm(4), ()), (ConditionalBatchNorm(4, CLASSES), (torch.tensor([0, 2, 1, 1, 0]),))):
        shaken(layer).eval()
        before = copy.deepcopy(layer.state_dict())
        x = images(5, 4, 3, 2, dtype=torch.float32)
        alone = torch.cat([layer(x[i : i + 1], *(labels[i : i + 1] for labels in rest)) for i in range(5)])
        torch.testing.assert_close(layer(x, *rest), alone)
        assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


class Formula(BatchNorm):
    """A batch norm that takes the way of several processes in one."""

    def standardise(self, x, weight=None, bias=None):
        return self._over_processes(x, weight, bias)


@pytest.mark.parametrize("kind", [BatchNorm, Formula])
def test_first_and_second_derivatives(kind):
    layer = shaken(kind(2)).double()
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (images(3, 2, 2, 1).requires_grad_(), *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_conditional_derivatives():
    layer, labels = shaken(ConditionalBatchNorm(2, CLASSES)).double(), torch.tensor([0, 2, 0])
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, labels))

    inputs = (images(3, 2, 2, 1).requires_grad_(), *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("kind", [BatchNorm, Formula])
def test_bfloat16_keeps_statistics_in_float32(kind):
    layer = kind(4, momentum=1.0)
    x = images(64, 4, 8, 8, dtype=torch.bfloat16) + 20  # sums in bfloat16 would stop growing
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(layer.running_mean, x.double().mean((0, 2, 3)).float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.running_var, x.double().var((0, 2, 3)).float(), rtol=1e-4, atol=0)
    torch.testing.assert_close(y.float(), BatchNorm(4)(x.float()), rtol=0, atol=0.05)


def test_conditional_in_bfloat16():
    layer, labels = shaken(ConditionalBatchNorm(4, CLASSES)), torch.randint(CLASSES, (64,))
    x = images(64, 4, 8, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, labels)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x.float(), labels), rtol=0, atol=0.1)


def test_one_value_a_channel_is_refused():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm(4)(torch.zeros(1, 4, 1, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ConditionalBatchNorm(4, CLASSES)(torch.zeros(1, 4), torch.tensor([0]))
    BatchNorm(4).eval()(torch.zeros(1, 4, 1, 1))


def test_mistakes_are_named():
    with pytest.raises(UserError, match="did you mean 'global'"):
        BatchNorm(4, statistics="globl")
    with pytest.raises(ValueError, match=r"BatchNorm of 4 channels got an input of shape \(2, 3\)"):
        BatchNorm(4)(torch.zeros(2, 3))


def test_what_has_batch_statistics():
    class Companion(nn.Module):
        batch_statistics = True

    for layer in (BatchNorm(2), ConditionalBatchNorm(2, 2), nn.BatchNorm2d(2), nn.SyncBatchNorm(2), Companion()):
        assert has_batch_statistics(nn.Sequential(nn.ReLU(), nn.Sequential(layer)))
    for layer in (nn.Identity(), nn.InstanceNorm2d(2, track_running_stats=True), nn.GroupNorm(1, 2), nn.LayerNorm(2)):
        assert not has_batch_statistics(nn.Sequential(layer))


def test_spectral_norm_leaves_the_tables_alone():
    from gander.layers import spectral_norm

    assert not hasattr(spectral_norm(ConditionalBatchNorm(4, CLASSES)), "parametrizations")


# Several processes


class Network(nn.Module):
    """Scores of images: all three norms, and convolutions that pass gradients through the statistics."""

    def __init__(self, statistics: str) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 1)
        self.plain = BatchNorm(4, statistics=statistics)
        self.conditional = ConditionalBatchNorm(4, CLASSES, momentum=0.1, statistics=statistics)
        self.bias_only = BatchNorm(4, gain=False, statistics=statistics)

    def forward(self, x, labels):
        x = torch.tanh(self.plain(self.first(x)))
        x = torch.tanh(self.conditional(x, labels))
        return self.last(torch.tanh(self.bias_only(x.mean((2, 3)))))[:, 0]


def steps(statistics: str) -> dict:
    """Two steps of one process: mean losses over its share, a gradient penalty among them, and averaged gradients."""
    torch.manual_seed(0)
    network = shaken(Network(statistics)).double()
    batch, labels = images(BATCH, 2, 4, 4), torch.arange(BATCH) % CLASSES
    x, labels = shares(batch)[0].clone().requires_grad_(), shares(labels)[0]
    seen = {}
    for step in range(2):
        for parameter in (*network.parameters(), x):
            parameter.grad = None
        scores = network(x, labels)
        (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        fake = network(x * 0.5 - 1, labels)  # a second pass before the backward
        (F.softplus(-scores).mean() + F.softplus(fake).mean() + 10 * slope.square().sum((1, 2, 3)).mean()).backward()
        seen[f"images {step}"] = [scores.detach(), slope.detach(), x.grad / processes()]
        average_gradients(network.parameters())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.1 * parameter.grad
        seen[f"network {step}"] = [*(p.grad for p in network.parameters()), *(b.clone() for b in network.buffers())]
    return seen


def of_one() -> torch.Tensor:
    """One image of one pixel in each process: many values a channel, all the same."""
    layer = BatchNorm(4)
    return layer(torch.full((1, 4, 1, 1), float(rank())))


def member() -> dict:
    return {"global": steps("global"), "process": steps("process"), "one": of_one().detach()}


@pytest.fixture(scope="module")
def one() -> dict:
    return steps("global")


@pytest.fixture(scope="module", params=[2, 3])
def several(request) -> list[dict]:
    return run(member, request.param)


@pytest.mark.parametrize("step", [0, 1])
def test_processes_equal_one(one, several, step):
    for i, whole in enumerate(one[f"images {step}"]):
        parts = torch.cat([member["global"][f"images {step}"][i] for member in several])
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)
    for member in several:
        for mine, whole in zip(member["global"][f"network {step}"], one[f"network {step}"], strict=True):
            torch.testing.assert_close(mine, whole, rtol=1e-9, atol=1e-9)


def test_buffers_are_equal_to_the_bit(several):
    for member in several[1:]:
        for mine, first in zip(member["global"]["network 1"], several[0]["global"]["network 1"], strict=True):
            assert torch.equal(mine, first)


def test_per_process_differs(one, several):
    scores = torch.cat([member["process"]["images 0"][0] for member in several])
    assert (scores - one["images 0"][0]).abs().max() > 1e-3
    running = [member["process"]["network 0"][-1] for member in several]
    assert (running[0] - running[1]).abs().max() > 1e-3


def test_one_image_in_each_process_is_enough(several):
    expected = BatchNorm(4)(torch.arange(float(len(several))).view(-1, 1, 1, 1).expand(-1, 4, 1, 1))
    torch.testing.assert_close(torch.cat([member["one"] for member in several]), expected.detach())
