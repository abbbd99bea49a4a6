"""What holds for every layer that ATTENTION names."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.autograd import gradgradcheck

from gander.attention import ATTENTION, Residual, SelfAttention, build
from gander.errors import UserError

CHANNELS, SIZE = 16, (4, 6)
NOT_BORN_AS_IDENTITY: set[str] = set()  # those that are faithful to a source which is not
WITHOUT_WEIGHTS = {"none", "residual"}
layers = pytest.mark.parametrize("key", ATTENTION)


def born(key, channels=CHANNELS, size=SIZE):
    torch.manual_seed(0)
    return ATTENTION[key](channels, size=size)


def alive(key, **how):
    """A layer whose parameters all have a say."""
    layer = born(key, **how).double()
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    return layer


def images(b=2, c=CHANNELS, size=SIZE):
    return torch.randn(b, c, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@layers
def test_keeps_the_shape_and_follows_the_device(key):
    x = images()
    assert alive(key)(x).shape == x.shape
    assert born(key).to("meta")(x.float().to("meta")).shape == x.shape


@layers
def test_is_born_as_the_identity(key):
    if key in NOT_BORN_AS_IDENTITY:
        pytest.skip("its source is not")
    x = images()
    assert torch.equal(born(key).double()(x), x)


@layers
def test_says_what_it_attends_to(key):
    layer, x = alive(key), images()
    if key in WITHOUT_WEIGHTS:
        assert not hasattr(layer, "weights")
        return
    maps = layer.weights(x)
    assert layer.map_kind in {"rows", "signed", "channels", "positions"}
    if layer.map_kind in {"rows", "signed"}:
        assert maps.dim() == 5
        assert maps.shape[0] == 2
        assert maps.shape[2] == x[0, 0].numel()
        torch.testing.assert_close(layer.weights(x, [5, 0]), maps[:, :, [5, 0]])
        if layer.map_kind == "rows":
            torch.testing.assert_close(maps.sum((-2, -1)), torch.ones_like(maps[..., 0, 0]))
    else:
        assert maps.shape in {(2, CHANNELS, 1, 1), x.shape}


@layers
def test_state_and_copies_are_the_layer(key):
    layer, x = alive(key).eval(), images()
    twin = copy.deepcopy(layer)
    fresh = born(key).double().eval()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x))
    assert torch.equal(fresh(x), layer(x))


@layers
def test_both_memory_formats(key):
    layer, x = alive(key).eval(), images()
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), layer(x))


@layers
def test_second_derivatives(key):
    layer = alive(key, channels=8, size=(4, 4)).eval()
    x = images(1, 8, (4, 4)).requires_grad_()
    assert gradgradcheck(layer, [x], fast_mode=True)


@layers
def test_gradients_reach_every_parameter(key):
    layer, x = alive(key), images().requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_build_puts_layers_in_their_order():
    assert isinstance(build("self", 8), SelfAttention)
    both = build("residual+self", 8, size=(4, 4))
    assert [type(layer) for layer in both] == [Residual, SelfAttention]
    assert both(torch.zeros(1, 8, 4, 4)).shape == (1, 8, 4, 4)


def test_build_names_what_is_not_there():
    with pytest.raises(UserError, match="no attention called 'selv'; did you mean 'self'"):
        build("self+selv", 8)


def test_stands_alone():
    """One import for a model of one's own: no other part of gander, and nothing heavy but torch."""
    code = (
        "import sys; from gander.attention import SelfAttention;"
        "allowed = tuple('gander.' + room for room in 'attention layers errors draws files distributed'.split());"
        "strangers = {m for m in sys.modules if m.startswith('gander.') and not m.startswith(allowed)};"
        "print(strangers | {'scipy', 'PIL', 'tyro'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
