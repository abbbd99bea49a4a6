import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from gander.errors import UserError
from gander.layers import RootTanh

growths = pytest.mark.parametrize("growth", [3, 4, 5.5, 6])
LARGE = {torch.float32: 1e18, torch.bfloat16: 1e18, torch.float16: 65504.0}  # where the formula holds to the letter


def numbers(dtype=torch.float64, most=65504.0):
    """From nothing to `most`, of either sign."""
    positive = torch.cat([torch.zeros(1), torch.logspace(-30, 0, 40), torch.linspace(0.1, 60, 200), torch.logspace(1, 38, 100)])
    positive = positive[positive <= most].to(dtype)
    return torch.cat([positive, -positive])


def formula(x, growth):
    return torch.sqrt(x * x + 1) ** (2 / growth) * torch.tanh(x)


def slope(x, growth):
    root, tanh = torch.sqrt(x * x + 1) ** (2 / growth), torch.tanh(x)
    return root * ((1 - tanh * tanh) + 2 / growth * x * tanh / (x * x + 1))


@growths
def test_is_its_formula_in_every_type(growth):
    layer = RootTanh(growth)
    for dtype, most in {torch.float64: 1e38, **LARGE}.items():
        x = numbers(dtype, most).requires_grad_()
        y = layer(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        (through,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        exact = x.detach().double()
        near = {torch.float64: 1e-12, torch.float32: 5e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
        torch.testing.assert_close(y.double(), formula(exact, growth), rtol=near, atol=1e-37)
        torch.testing.assert_close(gradient.double(), slope(exact, growth), rtol=near, atol=max(near, 5e-7))
        torch.testing.assert_close(through.double(), gradient.double(), rtol=near, atol=max(near, 5e-7))
        assert y.dtype == gradient.dtype == dtype


@growths
def test_first_and_second_derivatives(growth):
    x = (3 * torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).requires_grad_()
    assert gradcheck(RootTanh(growth), [x])
    assert gradgradcheck(RootTanh(growth), [x])


@growths
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_finite_number_has_a_finite_value_and_derivatives(growth, dtype):
    most = torch.finfo(dtype).max
    x = torch.cat([numbers(dtype, most), torch.tensor([most, -most, 1.8e19, 1.9e19]).to(dtype)])
    x = x[x.isfinite()].requires_grad_()
    y = RootTanh(growth)(x)
    assert y.isfinite().all()
    y.sum().backward()
    assert x.grad.isfinite().all()
    (first,) = torch.autograd.grad(RootTanh(growth)(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert first.isfinite().all()
    assert second.isfinite().all()


@growths
def test_is_odd_with_the_steepest_slope_one_at_zero(growth):
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64, requires_grad=True)
    y = RootTanh(growth)(x)
    torch.testing.assert_close(y, -y.flip(0))
    y.sum().backward()
    assert x.grad.argmax() == 2000
    torch.testing.assert_close(x.grad.max(), torch.tensor(1.0, dtype=torch.float64))


def test_numbers_that_are_known_of_it():
    found = RootTanh()(torch.tensor([1.0, 3.0, 100.0]))
    torch.testing.assert_close(found, torch.tensor([0.906, 1.769, 10.0]), rtol=0, atol=5e-4)
    normal = RootTanh()(torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)))
    assert abs(normal.mean()) < 2e-3
    assert normal.std() == pytest.approx(0.806, abs=2e-3)


def test_keeps_its_input_and_nothing_else():
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    x = torch.randn(10, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        RootTanh()(x)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


def test_autocast_and_memory_formats():
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    network = nn.Sequential(nn.Conv2d(8, 8, 1), RootTanh())
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert RootTanh()(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.float(), network(x), rtol=0, atol=0.05)


def test_vmap_of_value_and_gradient():
    x = torch.randn(6, 3)
    torch.testing.assert_close(torch.vmap(RootTanh())(x), RootTanh()(x))
    slopes = torch.vmap(torch.func.grad(lambda row: RootTanh()(row).sum()))(x)
    torch.testing.assert_close(slopes, slope(x, 4))


COMPILED = """
    import sys, torch
    from gander.layers import RootTanh
    x = torch.linspace(-60, 60, 4001)
    found = []
    for layer in (RootTanh(), torch.compile(RootTanh(), backend=sys.argv[1], fullgraph=True)):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.sum().backward()
        found.append([y, leaf.grad])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
"""


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_with_first_gradients(backend):
    """In a process of its own: the shape checks of the tests are not for dynamo to trace."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(COMPILED), backend], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mistakes_are_named():
    for growth in (2, 2.99, 0, -4, float("nan")):
        with pytest.raises(UserError, match="take 3 or more") as error:
            RootTanh(growth)
        assert "\n" not in str(error.value)
