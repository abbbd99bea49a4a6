"""Folded is plain: the same numbers to rounding, the same parameters exactly."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gander.layers import DownConv2d, UpConv2d, by_step, refresh, sigmas, spectral_norm

KINDS = {"up": UpConv2d, "down": DownConv2d}
kinds = pytest.mark.parametrize("kind", KINDS)
SIZES = [(2, 2), (4, 6), (5, 4), (7, 7), (2, 9)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def both(kind: str, dtype=torch.float64, **options) -> tuple[nn.Module, nn.Module]:
    """The same layer, plain and folded."""
    plain = KINDS[kind](3, 4, **options).to(dtype)
    folded = copy.deepcopy(plain)
    folded.folded = True
    return plain, folded


def naive(kind: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The definition, with torch's own layers."""
    if kind == "up":
        return F.conv2d(nn.Upsample(scale_factor=2)(x), weight, bias, padding=1)
    return nn.AvgPool2d(2)(F.conv2d(x, weight, bias, padding=1))


@kinds
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_definition_borders_and_odd_sizes_included(kind, size, bias):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for layer in both(kind, bias=bias):
        torch.testing.assert_close(layer(x), naive(kind, x, layer.weight, layer.bias), rtol=1e-12, atol=1e-12)


def test_kernels_are_those_of_the_docstring():
    """Read off as responses to single pixels, on one axis."""
    up, down = UpConv2d(1, 1, folded=True, bias=False).double(), DownConv2d(1, 1, folded=True, bias=False).double()
    a, b, c = 1.0, 10.0, 100.0
    for layer in (up, down):
        nn.init.zeros_(layer.weight)
        layer.weight.data[0, 0, 1] = torch.tensor([a, b, c])  # the middle row: 1×3
    pixel = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    pixel[0, 0, :, 2] = 1
    torch.testing.assert_close(up(pixel)[0, 0, 4, 3:7], torch.tensor([c, b + c, a + b, a], dtype=torch.float64))
    pixels = torch.eye(8, dtype=torch.float64)[:, None, None, :].expand(-1, 1, 8, 8)
    torch.testing.assert_close(down(pixels)[3:7, 0, 2, 2], torch.tensor([a, a + b, b + c, c], dtype=torch.float64) / 2)


@kinds
def test_first_and_second_derivatives(kind):
    _, folded = both(kind)
    names = [name for name, _ in folded.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(folded, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    inputs = (x, *(p.detach().clone().requires_grad_() for p in folded.parameters()))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@kinds
def test_gradients_are_those_of_the_plain_form(kind):
    found = []
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    for layer in both(kind):
        y = layer(x)
        (slope,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        slope.square().sum().backward()
        found.append([slope.detach(), x.grad.clone(), *(p.grad for p in layer.parameters() if p.grad is not None)])
        x.grad = None
    assert len(found[0]) >= 3
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@kinds
def test_is_a_plain_convolution_to_whoever_looks_at_it(kind):
    torch.manual_seed(1)
    layer = KINDS[kind](3, 4, folded=True)
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    assert isinstance(layer, nn.Conv2d)
    assert layer.state_dict().keys() == convolution.state_dict().keys()
    for key, value in convolution.state_dict().items():
        assert torch.equal(layer.state_dict()[key], value)


@kinds
def test_spectral_norm_is_of_the_kernel_three_by_three(kind):
    plain, folded = both(kind)
    reference = nn.Conv2d(3, 4, 3, padding=1).double()
    reference.load_state_dict(plain.state_dict())
    for layer in (plain, folded, reference):
        torch.manual_seed(2)
        spectral_norm(layer)
    assert folded.state_dict().keys() == reference.state_dict().keys()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for _ in range(3):  # one iteration a forward in each: the weight is read once
        results = [layer(x) for layer in (plain, folded)]
        refresh(reference)
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
        assert all(torch.equal(sigmas(layer)[""], sigmas(reference)[""]) for layer in (plain, folded))
    gradients = []
    for layer in (plain, folded):
        by_step(layer)(x).square().sum().backward()
        gradients.append(layer.parametrizations.weight.original.grad)
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


@kinds
@pytest.mark.parametrize("normed", [False, True])
def test_channels_last(kind, normed):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for layer in both(kind):
        if normed:
            by_step(spectral_norm(layer))
        expected = layer(x)
        layer.to(memory_format=torch.channels_last)
        y = layer(x.to(memory_format=torch.channels_last))
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@kinds
def test_bfloat16_is_no_worse_folded(kind):
    """The kernel is folded in float32 and rounded once."""
    layers = both(kind, torch.float32)
    x = torch.randn(8, 3, 16, 16)
    exact = naive(kind, x.double(), layers[0].weight.double(), layers[0].bias.double())
    errors = []
    for layer in layers:
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.float().square().mean().backward()
        assert layer.weight.grad.dtype == torch.float32
        errors.append((y.double() - exact).square().mean().sqrt())
    assert errors[1] < 1.2 * errors[0]
    assert errors[0] < 0.01


@kinds
def test_on_the_meta_device(kind):
    with torch.device("meta"):
        layer, x = KINDS[kind](3, 4, folded=True), torch.empty(2, 3, 8, 8)
    assert layer(x).shape == ((2, 4, 16, 16) if kind == "up" else (2, 4, 4, 4))


@pytest.mark.parametrize("folded", [False, True])
def test_a_map_of_one_pixel_has_no_mean_of_four(folded):
    with pytest.raises(RuntimeError):
        DownConv2d(3, 4, folded=folded)(torch.zeros(1, 3, 1, 1))
    assert UpConv2d(3, 4, folded=folded)(torch.zeros(1, 3, 1, 1)).shape == (1, 4, 2, 2)
