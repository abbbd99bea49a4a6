import pytest
import torch
from torch.autograd import gradcheck

from gander.attention import FeatureAttention, build
from gander.errors import UserError

forms = pytest.mark.parametrize("separable", [False, True])
rescaled = pytest.mark.parametrize("rescale", [True, False])


def born(channels=8, size=(4, 6), gamma=0.7, **how):
    torch.manual_seed(channels)
    layer = FeatureAttention(channels, size=size, **how).double()
    torch.nn.init.constant_(layer.gamma, gamma)
    for p in layer.parameters():
        if p.dim() == 4:
            torch.nn.init.normal_(p, std=0.3)
    return layer


def images(b=3, c=8, h=4, w=6):
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def root_tanh(x):
    return (x * x + 1) ** 0.25 * torch.tanh(x)


def written_out(layer, x):
    """LocAtE's formula, sums written as such."""
    kernels = [p for p in layer.parameters() if p.dim() == 4]
    if len(kernels) == 2:
        kernel = kernels[0]  # e, c / groups, h, w
        groups = x.shape[1] // kernel.shape[1]
        parts = x.unflatten(1, (groups, -1))
        squeezed = torch.einsum("bgchw,gechw->bge", parts, kernel.unflatten(0, (groups, -1))).flatten(1)
    else:
        columns = root_tanh(torch.einsum("bchw,ech->bew", x, kernels[0][..., 0]))
        squeezed = root_tanh(torch.einsum("bew,few->bf", columns, kernels[1][:, :, 0]))
    scores = squeezed @ kernels[-1][:, :, 0, 0].T
    share = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True)
    return x * (1 + layer.gamma * layer.factor * share[..., None, None])


@forms
@rescaled
@pytest.mark.parametrize("size", [(4, 6), (5, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("channels", [8, 6, 3])
def test_is_its_formula(separable, rescale, size, channels):
    layer, x = born(channels, size, separable=separable, rescale=rescale), images(2, channels, *size)
    torch.testing.assert_close(layer(x), written_out(layer, x))
    assert layer.factor == (channels if rescale else 1)


@forms
def test_shares_sum_to_one_over_channels(separable):
    shares = born(separable=separable).weights(images())
    assert shares.shape == (3, 8, 1, 1)
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    assert shares.std() > 0.01


@forms
def test_it_matters_where_a_pixel_stands(separable):
    """The same content one pixel aside is weighed otherwise, in either direction; squeeze-and-excitation would not see it."""
    layer, x = born(separable=separable), images()
    for axis in (2, 3):
        moved = x.roll(1, axis)
        torch.testing.assert_close(moved.mean((2, 3)), x.mean((2, 3)))
        assert (layer.weights(moved) - layer.weights(x)).abs().max() > 0.01


def test_rescaled_gates_have_mean_one():
    layer, x = born(gamma=1.0), images()
    torch.testing.assert_close((layer(x) / x).mean(1) - 1, torch.ones(3, 4, 6, dtype=torch.float64))


@forms
def test_gradients_are_those_of_the_formula(separable):
    layer, x = born(4, (2, 3), separable=separable), images(2, 4, 2, 3).requires_grad_()
    seen = torch.randn_like(x).requires_grad_()
    assert gradcheck(lambda *inputs: layer(inputs[0]), [x, *layer.parameters()])
    assert gradcheck(layer, [x, seen])


def test_the_gate_may_look_elsewhere():
    layer, x, seen = born(), images(), -images()
    torch.testing.assert_close(layer(x, seen), x * (1 + 0.7 * 8 * layer.weights(seen)))


def test_parameters():
    def count(**how):
        return sum(p.numel() for p in FeatureAttention(32, size=(8, 4), **how).parameters())

    assert count() == 8 * 32 * 8 + 4 * 8 * 8 + 8 * 32 + 1
    assert count(separable=True) == 8 * 4 * 32 + 8 * 32 + 1


def test_autocast():
    layer, x = FeatureAttention(8, size=(4, 6)), images().float()
    layer.gamma.data.fill_(0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.float32
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        shares = layer.weights(x)
    torch.testing.assert_close(shares.sum(1), torch.ones(3, 1, 1))


def test_mistakes_are_named():
    for layer in (FeatureAttention(8, size=(4, 6)), FeatureAttention(8, size=(4, 6), separable=True)):
        for call in (layer, layer.weights):
            with pytest.raises(UserError, match="made for 4×6 got an input of 6×4; make it with size=") as error:
                call(images(1, 8, 6, 4))
            assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"made for one size of its input: give size=\(height, width\)"):
        build("self+feature", 8)
