"""The discriminator and the classifier without convolution: what runs, what it can be asked, what it says of mistakes."""

import copy

import pytest
import torch
from operators import Operators
from torch import nn

from gander.errors import UserError
from gander.layers import has_batch_statistics, sigmas, spectral_norm
from gander.models.all_attention.classifier import Classifier
from gander.models.all_attention.vit import Discriminator, Patches
from gander.penalties import r1


def convolutions(scalar):
    """Those among the operators of `scalar()` and its backward, autocast or not."""
    with Operators() as operators:
        scalar().backward()
        with torch.autocast("cpu", torch.bfloat16):
            scalar().backward()
    assert any("mm" in name for name in operators.seen)
    return operators.convolutions


def images(b=4, side=16, channels=3, dtype=torch.float32):
    return torch.randn(b, channels, side, side, generator=torch.Generator().manual_seed(side), dtype=dtype)


def small(**options):
    torch.manual_seed(0)
    return Discriminator(**({"resolution": 16, "width": 16, "depth": 2, "heads": 2} | options))


def classifier(**options):
    torch.manual_seed(0)
    return Classifier(**({"num_classes": 5, "width": 16, "depth": 2, "heads": 2, "patch": 4} | options))


def test_no_convolution_runs():
    network, x = spectral_norm(small(num_classes=3), scale="initial"), images()
    assert not convolutions(lambda: network(x, torch.tensor([0, 1, 2, 0])).sum())
    network = classifier()
    assert not convolutions(lambda: network(x).sum())
    control = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 1))
    assert convolutions(lambda: control(x).sum())


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_at_every_resolution(resolution, channels):
    with torch.device("meta"):
        network, x = small(resolution=resolution, channels=channels), torch.empty(3, channels, resolution, resolution)
    assert network(x).shape == (3,)
    assert network.resolution == resolution


@pytest.mark.parametrize("attention", ["l2", "product"])
@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_gradients_reach_every_parameter(attention, pool, num_classes):
    network = small(attention=attention, pool=pool, num_classes=num_classes)
    network(images(), torch.tensor([0, 1, 2, 0])).square().sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert 0 < p.grad.norm() < torch.inf, name


@pytest.mark.parametrize("attention", ["l2", "product"])
def test_r1_has_a_gradient_of_its_own(attention):
    """Second derivatives through attention, norms, patches and spectral norm, against differences."""
    network = spectral_norm(small(attention=attention).double(), scale="initial").eval()
    x = images(dtype=torch.float64)
    parameters = dict(network.named_parameters())
    value = r1(network, x, None, x, None, x[:, 0, 0, 0])
    slopes = dict(zip(parameters, torch.autograd.grad(value, list(parameters.values()), allow_unused=True), strict=True))
    for name in ("patches.linear", "blocks.0.attention.inner.query", "blocks.1.attention.inner.value", "head.hidden"):
        name += ".parametrizations.weight.original"
        direction = torch.randn(parameters[name].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameters[name].add_(sign * 1e-5 * direction)
            ends.append(r1(network, x, None, x, None, x[:, 0, 0, 0]).item())
            with torch.no_grad():
                parameters[name].add_(-sign * 1e-5 * direction)
        assert (slopes[name] * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4), name


def test_groups_of_images_and_no_more():
    """An image's logit hangs on the group of four that it is in, and on nothing of the others; without, on itself alone."""
    x = images(8).requires_grad_()
    for network, seen in ((small(), 4), (small(stddev=False), 1)):
        (slope,) = torch.autograd.grad(network(x)[5], x)
        moved = slope.flatten(1).norm(dim=1) > 0
        assert moved.sum() == seen
        assert moved[5]
        assert has_batch_statistics(network) == (seen == 4)


def test_patches_overlap():
    """A token sees patch + 2·overlap pixels, and zeros outside."""
    patches, x = Patches(16, 4, 2, 3, 8), images().requires_grad_()
    (slope,) = torch.autograd.grad(patches(x)[0, 5].sum(), x)  # the second of the second row
    seen = torch.zeros(16, 16, dtype=torch.bool)
    seen[2:10, 2:10] = True
    assert torch.equal((slope[0] != 0).all(0), seen)
    corner = patches(x)[0, 0] - patches.linear.bias - patches.places[0]
    weight = patches.linear.weight.view(8, 3, 8, 8)[:, :, 2:, 2:]
    torch.testing.assert_close(corner, (weight * x[0, :, :6, :6]).sum((1, 2, 3)))


def test_labels_count():
    network, x = small(num_classes=3), images()
    assert (network(x, torch.tensor([0, 1, 2, 0])) != network(x, torch.tensor([1, 2, 0, 1]))).all()
    with pytest.raises(ValueError, match="needs labels"):
        network(x)


def test_the_improved_spectral_norm_leaves_it_as_it_is_born():
    """And as it is however long its weights become."""
    plain, x = small().eval(), images()
    normed = spectral_norm(copy.deepcopy(plain), scale="initial")
    assert len(sigmas(normed)) == 3 + 2 * 5
    torch.testing.assert_close(normed(x), plain(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for name, p in normed.named_parameters():
            if name.endswith("original"):
                p.mul_(7)
    torch.testing.assert_close(normed(x), plain(x), rtol=1e-4, atol=1e-5)


# The classifier


def test_the_classifier_is_linear_in_its_features_and_takes_other_sizes():
    network = classifier().eval()
    for size in ((16, 16), (32, 32), (8, 20)):
        x = torch.randn(2, 3, *size)
        features = network.features(x)
        assert features.shape == (2, 16)
        torch.testing.assert_close(network(x), features @ network.linear.weight.T + network.linear.bias)
    network.train()(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_classifier_sees_where_things_are():
    network, x = classifier().eval(), images()
    assert (network(x) - network(x.roll(4, 3))).abs().max() > 1e-4


def test_the_classifier_learns():
    """A few steps tell stripes from stripes."""
    network = classifier(num_classes=2)
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(3, 16, 16)
    x, labels = torch.stack([stripes, stripes.mT]).repeat(4, 1, 1, 1) + 0.5 * images(8), torch.arange(8) % 2
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: small(patch=5), "patch 5 does not divide the resolution 16; those that do: 1, 2, 4, 8"),
        (lambda: small(patch=0), "patches of 0 pixels"),
        (lambda: small(pool="men"), "no pool called 'men'; did you mean 'mean'"),
        (lambda: small(attention="prodct"), "no attention on tokens called 'prodct'; did you mean 'product'"),
        (lambda: small()(images(side=32)), "images of 32×32 came to a network that was made for 16×16"),
        (lambda: classifier()(images(side=18)), "patch 4 does not divide the resolution 18"),
        (lambda: classifier(width=18)(images()), "a multiple of 4"),
    ],
)
def test_mistakes_are_one_line(call, line):
    with pytest.raises(UserError, match=line) as error:
        call()
    assert "\n" not in str(error.value)
