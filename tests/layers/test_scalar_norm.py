import pytest
import torch
from processes import run
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from gander.distributed import average_gradients, processes, shares
from gander.errors import UserError
from gander.layers import ScalarNorm, has_batch_statistics
from gander.train.ema import ready

BATCH = 6
kinds = pytest.mark.parametrize("per_sample", [True, False])


def images(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 + 1


def shaken(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for tensor in layer.parameters():
        tensor.data.add_(torch.rand(tensor.shape, generator=generator))
    return layer


def formula(layer, x, scale=None):
    """One image after another; the unbiased deviation where the whole batch has one."""
    rows = []
    for i in range(len(x)):
        if layer.batch_statistics:
            mean, deviation = x.mean(), (x.var() + layer.eps).sqrt()
        else:
            mean, deviation = x[i].mean(), (x[i].var(correction=0) + layer.eps).sqrt()
        gain = scale[i] if scale is not None else torch.ones(x.shape[1]).to(x) if layer.weight is None else layer.weight
        rows.append((x[i] - mean) / deviation * gain[:, None, None] + layer.bias[:, None, None])
    return torch.stack(rows)


@kinds
@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_is_its_formula(per_sample, gain, eps):
    layer = shaken(ScalarNorm(4, per_sample=per_sample, gain=gain, eps=eps)).double()
    x, scale = images(3, 4, 5, 2), images(3, 4)
    for mode in (True, False):  # there are no running averages
        layer.train(mode)
        torch.testing.assert_close(layer(x), formula(layer, x))
        torch.testing.assert_close(layer(x, scale), formula(layer, x, scale))
        torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last), scale), formula(layer, x, scale))


@kinds
def test_first_and_second_derivatives(per_sample):
    layer = shaken(ScalarNorm(3, per_sample=per_sample)).double()
    x, scale = images(2, 3, 2, 2).requires_grad_(), images(2, 3).requires_grad_()
    for inputs in ([x], [x, scale]):
        assert gradcheck(layer, inputs)
        assert gradgradcheck(layer, inputs)


@kinds
def test_standardises_what_it_says(per_sample):
    y = ScalarNorm(4, per_sample=per_sample, eps=0.0).double()(images(3, 4, 8, 8) * torch.tensor([1.0, 5, 25])[:, None, None, None])
    deviations = y.std((1, 2, 3), correction=0)
    if per_sample:
        torch.testing.assert_close(deviations, torch.ones_like(deviations))
    else:
        assert y.std().item() == pytest.approx(1)
        assert deviations[2] > 4 * deviations[1] > 16 * deviations[0]


@kinds
def test_half_precision_and_autocast(per_sample):
    layer, x, scale = shaken(ScalarNorm(4, per_sample=per_sample)), images(8, 4, 8, 8, dtype=torch.bfloat16) + 20, torch.ones(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        for extra in ([], [scale]):
            y = layer(x, *extra)
            assert y.dtype == torch.bfloat16
            exact = formula(layer.double(), x.double(), *[e.double() for e in extra])
            torch.testing.assert_close(y.double(), exact, rtol=0.02, atol=0.02)
            layer.float()


def test_one_number_everywhere_is_its_bias():
    for per_sample in (True, False):
        y = ScalarNorm(2, per_sample=per_sample)(torch.full((2, 2, 3, 3), 7.0))
        torch.testing.assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-3)


def test_who_depends_on_the_batch():
    assert has_batch_statistics(ScalarNorm(2))
    assert not has_batch_statistics(ScalarNorm(2, per_sample=True))


def test_mistakes_are_named():
    with pytest.raises(UserError, match="did you mean 'global'"):
        ScalarNorm(4, statistics="globl")


# Several processes


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(2, 4, 3, padding=1), ScalarNorm(4), nn.Linear(4, 1)
        self.latent_dim = 2

    def forward(self, x):
        return self.last(torch.tanh(self.norm(torch.tanh(self.first(x)))).mean((2, 3)))[:, 0]


def member() -> dict:
    torch.manual_seed(0)
    network = shaken(Network()).double()
    x = shares(images(BATCH, 2, 4, 4))[0].clone().requires_grad_()
    scores = network(x)
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    (F.softplus(-scores).mean() + 10 * gradient.square().sum((1, 2, 3)).mean()).backward()
    average_gradients(network.parameters())
    alone = ready(network, [(images(2, 2, 4, 4),)]) if processes() == 1 or torch.distributed.get_rank() == 0 else None
    sampled = alone(images(2, 2, 4, 4)) if alone else torch.zeros(2)
    return {"images": [scores.detach(), x.grad / processes()], "network": [p.grad for p in network.parameters()], "alone": sampled}


def test_processes_equal_one_and_one_may_sample_alone():
    one, several = member(), run(member, 2)
    for i, whole in enumerate(one["images"]):
        torch.testing.assert_close(torch.cat([part["images"][i] for part in several]), whole, rtol=1e-9, atol=1e-9)
    for part in several:
        torch.testing.assert_close(part["network"], one["network"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(several[0]["alone"], one["alone"])
