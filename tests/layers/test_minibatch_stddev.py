"""Groups of four that know nothing of each other."""

import pytest
import torch
from torch import nn

from gander.layers import MinibatchStddev, has_batch_statistics, minibatch_stddev


def batch(b, *features):
    return torch.randn(b, *features, generator=torch.Generator().manual_seed(b), dtype=torch.float64)


@pytest.mark.parametrize(("b", "groups"), [(8, (4, 4)), (6, (4, 2)), (3, (3,)), (5, (4, 1))])
def test_is_the_formula(b, groups):
    x, start, expected = batch(b, 3, 2), 0, []
    for size in groups:
        part = x[start : start + size].reshape(size, 6)
        s = sum((sum((v - column.mean()) ** 2 for v in column) / size + 1e-8) ** 0.5 for column in part.T) / 6
        expected += [s] * size
        start += size
    torch.testing.assert_close(minibatch_stddev(x), torch.stack(expected))


def test_groups_do_not_mix():
    """Nor do, so, the shares of processes, and two halves of a batch whose sizes four divides."""
    x = batch(12, 5).requires_grad_()
    for group in range(3):
        (slope,) = torch.autograd.grad(minibatch_stddev(x)[4 * group : 4 * group + 4].sum(), x)
        assert (slope[4 * group : 4 * group + 4] != 0).all()
        assert slope.abs().sum() == slope[4 * group : 4 * group + 4].abs().sum()
    torch.testing.assert_close(minibatch_stddev(x), torch.cat([minibatch_stddev(share) for share in x.split(4)]))


def test_images_that_are_alike_have_finite_slopes():
    x = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(minibatch_stddev(x), torch.full((4,), 1e-4, dtype=torch.float64))
    assert torch.autograd.gradgradcheck(minibatch_stddev, batch(5, 3).requires_grad_())
    (slope,) = torch.autograd.grad(minibatch_stddev(x).sum(), x)
    assert (slope == 0).all()


def test_the_layer_appends_it_and_keeps_real_and_fake_apart():
    x, network = batch(4, 3), nn.Sequential(nn.Linear(3, 3), MinibatchStddev())
    assert torch.equal(MinibatchStddev()(x), torch.cat([x, minibatch_stddev(x)[:, None]], 1))
    assert has_batch_statistics(network)
    half = minibatch_stddev(100 + x.bfloat16() / 64)
    assert half.dtype == torch.bfloat16
    assert half[0] > 0
