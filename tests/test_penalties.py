"""The penalties in closed form, and their second derivatives."""

import pytest
import torch
from torch import nn

from gander import draws
from gander.penalties import PENALTIES, SIGMA

B, SHAPE = 6, (3, 4, 5)


def images(seed, dtype=torch.float64):
    return torch.randn(B, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def situation(dtype=torch.float64):
    labels = torch.arange(B) % 2
    epsilon = torch.rand(B, generator=torch.Generator().manual_seed(2))
    return images(0, dtype), labels, images(1, dtype), labels.flip(0), epsilon


def linear(weight):
    return lambda x, labels: x.flatten(1) @ weight


class Quadratic(nn.Module):
    """D(x) = w[label] ‖x‖² / 2, so ∇D = w x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, -1.3], dtype=torch.float64))

    def forward(self, x, labels):
        return self.weight[labels] * x.flatten(1).square().sum(1) / 2


def test_of_a_linear_discriminator():
    weight = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    norm = weight.norm()
    torch.testing.assert_close(PENALTIES["r1"](linear(weight), *situation()), norm**2 / 2)
    torch.testing.assert_close(PENALTIES["r2"](linear(weight), *situation()), norm**2 / 2)
    torch.testing.assert_close(PENALTIES["wgan_gp"](linear(weight), *situation()), (norm - 1) ** 2)


def test_each_looks_where_it_says():
    real, real_labels, fake, fake_labels, epsilon = given = situation()
    network = Quadratic()
    of = network.weight.detach()

    def square(x, labels):
        return (of[labels] * x.flatten(1).norm(dim=1)).square()

    torch.testing.assert_close(PENALTIES["r1"](network, *given).detach(), square(real, real_labels).mean() / 2)
    torch.testing.assert_close(PENALTIES["r2"](network, *given).detach(), square(fake, fake_labels).mean() / 2)
    mix = epsilon.double()[:, None, None, None]
    norm = square(mix * real + (1 - mix) * fake, real_labels).sqrt()
    torch.testing.assert_close(PENALTIES["wgan_gp"](network, *given).detach(), (norm - 1).square().mean())


@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_reaches_the_weights(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 1)).double()
    names, weights = zip(*network.named_parameters(), strict=True)
    given = [of[:2] for of in situation()]

    def penalty(*weights):
        def discriminator(x, labels):
            return torch.func.functional_call(network, dict(zip(names, weights, strict=True)), (x,)).squeeze(1)

        return PENALTIES[name](discriminator, *given)

    assert torch.autograd.gradcheck(penalty, weights)
    gradients = torch.autograd.grad(penalty(*weights), weights, allow_unused=True)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[:-1])  # all but the last bias


@pytest.mark.parametrize("name", PENALTIES)
def test_two_halves_average_to_the_whole(name):
    network, given = Quadratic(), situation()
    halves = zip(*(of.chunk(2) for of in given), strict=True)
    averaged = sum(PENALTIES[name](network, *half) for half in halves) / 2
    torch.testing.assert_close(averaged, PENALTIES[name](network, *given))


@pytest.mark.parametrize("name", PENALTIES)
def test_nothing_flows_into_the_images(name):
    real, real_labels, fake, fake_labels, epsilon = situation()
    fake.requires_grad_()
    PENALTIES[name](Quadratic(), real, real_labels, fake, fake_labels, epsilon).backward()
    assert fake.grad is None
    assert not real.requires_grad


@pytest.mark.parametrize("name", PENALTIES)
def test_in_float32_within_autocast(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))

    def discriminator(x, labels):
        return network(x)

    given = situation(torch.float32)
    plain = PENALTIES[name](discriminator, *given)
    with torch.autocast("cpu", torch.bfloat16):
        cast = PENALTIES[name](discriminator, *given)
    assert torch.equal(plain, cast)
    real, real_labels, fake, fake_labels, epsilon = given
    low = PENALTIES[name](discriminator, real.bfloat16(), real_labels, fake.bfloat16(), fake_labels, epsilon)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, plain, rtol=0.02, atol=0)
    assert set(seen) == {(torch.float32, torch.float32)}


def test_a_dead_discriminator_has_no_gradient_but_no_nan():
    weight = torch.zeros(60, dtype=torch.float64, requires_grad=True)
    value = PENALTIES["wgan_gp"](linear(weight), *situation())
    (gradient,) = torch.autograd.grad(value, weight)
    assert value.item() == 1
    assert torch.equal(gradient, torch.zeros_like(weight))


@pytest.mark.parametrize("name", PENALTIES)
def test_without_labels(name):
    real, _, fake, _, epsilon = situation()
    weight = torch.ones(60, dtype=torch.float64)
    assert PENALTIES[name](linear(weight), real, None, fake, None, epsilon).isfinite()


@pytest.mark.parametrize(("exact", "approximate"), [("r1", "approximate_r1"), ("r2", "approximate_r2")])
def test_the_approximate_form_is_the_exact_one_as_an_expectation(exact, approximate):
    """Of a linear D without error: (w·n)², w fixed, has the mean ‖w‖² and the variance 2 ‖w‖⁴. Of a quadratic one to O(σ²)."""
    n, generator = 20_000, draws.generator("images")
    for discriminator in (linear(torch.randn(12, generator=generator).double()), Quadratic()):
        x = [torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64).expand(n, -1, -1, -1) for _ in range(2)]
        labels = torch.ones(n, dtype=torch.int64)
        given = (x[0], labels, x[1], labels, torch.rand(n, generator=generator))
        value, mean = PENALTIES[exact](discriminator, *given), PENALTIES[approximate](discriminator, *given)
        assert abs(mean - value) < 4 * value * (2 / n) ** 0.5 + 100 * SIGMA**2


def test_the_noise_of_an_image_is_its_own():
    """A function of its epsilon alone: a batch may be cut anywhere. Two images have two."""
    labels = torch.zeros(B, dtype=torch.int64)
    seen = []

    def discriminator(x, labels):
        seen.append(x)
        return x.flatten(1).sum(1)

    real, _, fake, _, epsilon = situation()
    PENALTIES["approximate_r1"](discriminator, real, labels, fake, labels, epsilon)
    noise = (seen[0] - seen[1]) / SIGMA
    PENALTIES["approximate_r1"](discriminator, real[2:], labels[2:], fake[2:], labels[2:], epsilon[2:].double())
    assert torch.equal(seen[2] - seen[3], seen[0][2:] - seen[1][2:])
    assert (noise[0] - noise[1]).abs().mean() > 0.5
