"""The games against their formulas."""

import math

import pytest
import torch

from gander.losses import LOSSES


def mean(terms):
    return math.fsum(terms) / len(terms)


def log1pexp(t):
    return max(t, 0) + math.log1p(math.exp(-abs(t)))


FORMULAS = {
    "hinge": (lambda r, f: mean([max(0, 1 - x) for x in r]) + mean([max(0, 1 + y) for y in f]), lambda r, f: -mean(f)),
    "logistic": (
        lambda r, f: mean([log1pexp(-x) for x in r]) + mean([log1pexp(y) for y in f]),
        lambda r, f: mean([log1pexp(-y) for y in f]),
    ),
    "least_squares": (
        lambda r, f: 0.5 * mean([(x - 1) ** 2 for x in r]) + 0.5 * mean([y**2 for y in f]),
        lambda r, f: 0.5 * mean([(y - 1) ** 2 for y in f]),
    ),
    "wasserstein": (lambda r, f: mean(f) - mean(r), lambda r, f: -mean(f)),
    "relativistic": (
        lambda r, f: mean([log1pexp(-(x - y)) for x, y in zip(r, f, strict=True)]),
        lambda r, f: mean([log1pexp(-(y - x)) for x, y in zip(r, f, strict=True)]),
    ),
}


def logits(n=64, spread=4.0):
    generator = torch.Generator().manual_seed(0)
    real, fake = (spread * torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2))
    return real.requires_grad_(), fake.requires_grad_()


@pytest.mark.parametrize("name", LOSSES)
def test_is_its_formula(name):
    real, fake = logits()
    discriminator, generator = FORMULAS[name]
    r, f = real.tolist(), fake.tolist()
    assert LOSSES[name].discriminator(real, fake).item() == pytest.approx(discriminator(r, f), rel=1e-12)
    assert LOSSES[name].generator(real, fake).item() == pytest.approx(generator(r, f), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("hinge", 2, 0),
        ("logistic", 2 * math.log(2), math.log(2)),
        ("least_squares", 0.5, 0.5),
        ("wasserstein", 0, 0),
        ("relativistic", math.log(2), math.log(2)),
    ],
)
def test_a_discriminator_that_knows_nothing(name, discriminator, generator):
    zero = torch.zeros(5)
    assert LOSSES[name].discriminator(zero, zero).item() == pytest.approx(discriminator)
    assert LOSSES[name].generator(zero, zero).item() == pytest.approx(generator)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_pull_the_right_way(name):
    """At logits near zero: D raises the real ones and lowers the fake, G raises the fake."""
    real, fake = logits(spread=0.1)
    real = (real + 0.5).detach().requires_grad_()
    fake = (fake + 0.5).detach().requires_grad_()  # apart from 0, where least squares has nothing to say
    real_gradient, fake_gradient = torch.autograd.grad(LOSSES[name].discriminator(real, fake), (real, fake))
    assert (real_gradient < 0).all()
    assert (fake_gradient > 0).all()
    (gradient,) = torch.autograd.grad(LOSSES[name].generator(real, fake), fake)
    assert (gradient < 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_two_halves_average_to_the_whole(name):
    real, fake = logits()
    for loss in LOSSES[name][:2]:
        halves = [loss(r, f) for r, f in zip(real.chunk(2), fake.chunk(2), strict=True)]
        torch.testing.assert_close(sum(halves) / 2, loss(real, fake))


@pytest.mark.parametrize("name", LOSSES)
def test_paired_says_whether_the_generator_needs_real_logits(name):
    real, fake = logits()
    game = LOSSES[name]
    if game.paired:
        (gradient,) = torch.autograd.grad(game.generator(real, fake), real)
        assert (gradient > 0).all()
    else:
        torch.testing.assert_close(game.generator(None, fake), game.generator(real, fake))
        assert game.discriminator(real, fake[:3]).isfinite()


@pytest.mark.parametrize(("name", "expected"), [("logistic", 1e4), ("relativistic", 1e4)])
def test_large_logits_stay_finite(name, expected):
    real, fake = torch.tensor([-1e4, 1e4]), torch.tensor([1e4, -1e4])
    assert LOSSES[name].discriminator(real, fake).item() == pytest.approx(expected)
    assert LOSSES[name].generator(real, fake).isfinite()


def test_the_hinge_generator_never_saturates():
    fake = torch.tensor([5.0, 50.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES["hinge"].generator(None, fake), fake)
    assert gradient.tolist() == [-0.5, -0.5]
