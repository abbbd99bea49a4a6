import pytest
import torch
from torch.autograd import gradcheck

from gander.attention import SpatialSoftmaxGate


def born(channels=6, gamma=0.7, **how):
    torch.manual_seed(channels)
    layer = SpatialSoftmaxGate(channels, **how).double()
    torch.nn.init.constant_(layer.gamma, gamma)
    for p in layer.parameters():
        if p.dim() == 4:
            torch.nn.init.normal_(p, std=0.5)
    return layer


def images(b=3, c=6, h=4, w=5):
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("size", [(4, 5), (1, 7), (1, 1)], ids=str)
def test_is_its_formula(rescale, size):
    layer, x = born(rescale=rescale), images(2, 6, *size)
    inner, outer = layer.inner.weight[:, :, 0, 0], layer.outer.weight[:, :, 0, 0]
    hidden = torch.einsum("dc,bchw->bdhw", inner, x)
    scores = torch.einsum("dc,bchw->bdhw", outer, (hidden**2 + 1) ** 0.25 * torch.tanh(hidden)).exp()
    shares = scores / scores.sum((2, 3), keepdim=True)
    factor = size[0] * size[1] if rescale else 1
    torch.testing.assert_close(layer(x), x * (1 + 0.7 * factor * shares))
    turned = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(turned), x * (1 + 0.7 * factor * shares))
    assert layer(turned).stride() == turned.stride()


def test_shares_sum_to_one_over_positions_of_each_channel():
    shares = born().weights(images())
    assert shares.shape == (3, 6, 4, 5)
    torch.testing.assert_close(shares.sum((2, 3)), torch.ones(3, 6, dtype=torch.float64))
    assert (shares[:, 0] - shares[:, 1]).abs().max() > 0.01


def test_positions_are_all_alike_to_it():
    """Unlike feature attention it moves with its input."""
    layer, x = born(), images()
    for axis in (2, 3):
        torch.testing.assert_close(layer(x.roll(1, axis)), layer(x).roll(1, axis))


def test_gradients_are_those_of_the_formula():
    layer, x = born(3), images(2, 3, 2, 2).requires_grad_()
    assert gradcheck(lambda *inputs: layer(inputs[0]), [x, *layer.parameters()])
    assert gradcheck(layer, [x, torch.randn_like(x).requires_grad_()])


def test_parameters():
    assert sum(p.numel() for p in SpatialSoftmaxGate(10).parameters()) == 2 * 10 * 10 + 1
