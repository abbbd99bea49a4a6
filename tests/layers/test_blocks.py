import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from gander.layers import RootTanh
from gander.layers.blocks import CONVOLUTIONS, Inception3C, Skip, pool_features

units = pytest.mark.parametrize("name", CONVOLUTIONS)
SIDES = {"up": 16, "down": 4, "same": 8}
changes = pytest.mark.parametrize("change", SIDES)


def count(module):
    return sum(p.numel() for p in module.parameters())


def images(b=2, c=8, h=8, w=8):
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@units
@changes
def test_units_change_side_and_width_and_have_no_bias(name, change):
    unit = CONVOLUTIONS[name](8, 14, change).double()
    x = images().requires_grad_()
    y = unit(x)
    assert y.shape == (2, 14, SIDES[change], SIDES[change])
    y.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in unit.parameters())
    torch.testing.assert_close(unit(torch.zeros_like(x)), torch.zeros_like(y))


@units
def test_units_reach_across_the_image_alike_in_height_and_width(name):
    """A pixel is felt as far up and down as to the left and right: no axis was forgotten."""
    x = torch.zeros(1, 4, 16, 16, dtype=torch.float64)
    x[0, :, 8, 8] = 1
    felt = CONVOLUTIONS[name](4, 4, "same").double()(x)[0].abs().sum(0) > 0
    assert torch.equal(felt.any(0), felt.any(1))
    assert felt.any(0).sum() >= 3


def test_parameters_of_the_units():
    c, d = 12, 24
    assert count(CONVOLUTIONS["bottleneck"](c, d, "down")) == 16 * c * c + c * d
    assert count(CONVOLUTIONS["bottleneck"](c, d, "same")) == 9 * c * c + c * d
    assert count(CONVOLUTIONS["factorized"](c, d, "up")) == 8 * c * c + c * d
    assert count(CONVOLUTIONS["separable"](c, d, "down")) == 16 * c + c * d
    inner, third = 3, 8
    branches = 3 * (c * inner + 16 * inner * inner + 9 * inner * third) + 3 * 9 * inner * inner
    assert count(Inception3C(c, d, "up")) == branches + d * d
    branches = 3 * (c * inner + 8 * inner * inner + 3 * inner * third + 3 * third * third) + 3 * 6 * inner * inner
    assert count(Inception3C(c, d, "up", factorized=True)) == branches + d * d


def test_the_unit_is_its_formula():
    unit, f = CONVOLUTIONS["bottleneck"](8, 6, "down").double(), RootTanh()
    inner, outer = (layer for layer in unit if isinstance(layer, nn.Conv2d))
    x = images()
    naive = F.conv2d(f(F.conv2d(f(x), inner.weight, stride=2, padding=1)), outer.weight)
    torch.testing.assert_close(unit(x), naive)


@changes
@pytest.mark.parametrize("after", [4, 6, 8, 11])
def test_skips_change_side_and_width(change, after):
    skip = Skip(8, after, change).double()
    x = images()
    y = skip(x)
    assert y.shape == (2, after, SIDES[change], SIDES[change])
    if after == 8 and change == "same":
        assert torch.equal(y, x)
    assert count(skip) == {4: 0, 6: 8 * 6 + 6, 8: 0, 11: 8 * 3 + 3}[after]


def test_skips_are_their_formulas():
    x = images()
    torch.testing.assert_close(Skip(8, 8, "down")(x), F.avg_pool2d(x, 2))
    torch.testing.assert_close(Skip(8, 4, "up")(x), F.interpolate((x[:, ::2] + x[:, 1::2]) / 2, scale_factor=2.0, mode="bilinear"))
    skip = Skip(8, 11, "down").double()
    torch.testing.assert_close(skip(x), F.avg_pool2d(torch.cat([x, skip.more(x)], 1), 2))  # the mean may come first
    assert gradcheck(Skip(4, 2, "up").double(), [images(1, 4, 2, 2).requires_grad_()])


def test_pooling_features_leaves_positions_alone_and_the_scrambled_form_does_not():
    x = torch.zeros(1, 4, 2, 4)
    x[0, :, 1, 2] = torch.tensor([1.0, 3, 5, 7])
    pooled = pool_features(x, 2)
    assert pooled[0, :, 1, 2].tolist() == [2, 6]
    assert pooled.count_nonzero() == 2
    scrambled = pool_features(x, 2, scrambled=True)
    naive = torch.stack([x.flatten()[2 * i : 2 * i + 2].mean() for i in range(16)]).view(1, 2, 2, 4)
    torch.testing.assert_close(scrambled, naive)
    assert scrambled[0, :, 1, 2].abs().sum() == 0
