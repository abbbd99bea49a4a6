import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from gander.layers import BlurPool2d


def written_out(x):
    """Binomial weights over replicated borders, every second position."""
    filter_ = torch.tensor([1, 2, 1], dtype=x.dtype)
    weight = (filter_[:, None] * filter_ / 16).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), "replicate"), weight, stride=2, groups=x.shape[1])


@pytest.mark.parametrize("size", [(8, 8), (7, 4), (1, 5), (2, 1), (1, 1)], ids=str)
def test_is_its_formula(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    y = BlurPool2d()(x)
    assert y.shape == (2, 3, -(-size[0] // 2), -(-size[1] // 2))
    torch.testing.assert_close(y, written_out(x))
    assert gradcheck(BlurPool2d(), [x], fast_mode=True)


def test_what_a_stride_alone_would_alias_is_gone():
    """The finest stripes there are: gone, wherever they begin. And a plain image stays plain."""
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    for x in (stripes, stripes.mT, stripes.roll(1, 3)):
        assert BlurPool2d()(x)[:, :, 1:-1, 1:-1].abs().max() == 0
    assert torch.equal(BlurPool2d()(torch.ones(1, 2, 5, 6)), torch.ones(1, 2, 3, 3))
