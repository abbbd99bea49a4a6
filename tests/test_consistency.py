"""Consistency: pairs are pairs, means are those of the whole batch, and an image that does not change costs nothing."""

import math

import pytest
import torch
from processes import run
from torch import nn

from gander import distributed
from gander.consistency import CHANGE, Consistency, of_batch_means, paired
from gander.data.augment import Augment
from gander.draws import generator
from gander.errors import UserError


def logits(seed, n=12):
    return torch.randn(n, generator=generator("logits", seed), dtype=torch.float64).requires_grad_()


NAMES = ("real", "fake", "changed real", "changed fake", "near fake")


def test_the_terms_are_the_formulas():
    given = {name: logits(i) for i, name in enumerate(NAMES)}
    x, g, tx, tg, near = (given[name].tolist() for name in NAMES)

    def mean(values):
        return math.fsum(values) / 12

    terms = Consistency(cr=2.0, bcr=3.0, zcr=5.0, batch_cr=7.0).discriminator(given)
    expected = {
        "cr": (mean((a - b) ** 2 for a, b in zip(x, tx, strict=True)), 5.0),
        "bcr": (mean((a - b) ** 2 for a, b in zip(g, tg, strict=True)), 3.0),
        "zcr": (mean((a - b) ** 2 for a, b in zip(g, near, strict=True)), 5.0),
        "batch_cr": ((mean(x) - mean(tx)) ** 2, 7.0),
    }
    assert terms.keys() == expected.keys()
    for name, (value, weight) in terms.items():
        assert (value.item(), weight) == (pytest.approx(expected[name][0], rel=1e-12), expected[name][1])


def test_the_generator_is_paid_for_images_that_differ():
    fake, near = (torch.randn(3, 2, 4, 4, generator=generator(i), dtype=torch.float64) for i in range(2))
    value, weight = Consistency(zcr=5.0).generator(fake, near)
    expected = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(fake.flatten(), near.flatten(), strict=True)) / 96
    assert (value.item(), weight) == (pytest.approx(expected, rel=1e-12), -0.5)


def test_pairs_are_pairs_and_means_are_not():
    a, b = logits(0), logits(1)
    turned = b.roll(1)
    assert abs(paired(a, b) - paired(a, turned)) > 0.01
    torch.testing.assert_close(of_batch_means(a, b), of_batch_means(a, turned))
    assert paired(a, a.detach()) == 0
    assert paired(a, a.roll(1)) > 0.01  # the same numbers, of other images
    torch.testing.assert_close(of_batch_means(a, a.roll(1)), torch.zeros_like(a[0]))


@pytest.mark.parametrize("term", [paired, of_batch_means])
def test_the_gradient_flows_into_both(term):
    a, b = logits(0), logits(1)
    assert torch.autograd.gradcheck(term, (a, b))
    to_a, to_b = torch.autograd.grad(term(a, b), (a, b))
    assert to_a.norm() > 0
    assert torch.equal(to_a, -to_b)


def test_what_does_not_change_costs_nothing():
    """T leaves images of one colour as they are, so for these no discriminator pays; for others this one does."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 1), nn.Flatten(0)).double()
    change = Augment(CHANGE)
    numbers = change.draw(generator("change"), 6)
    plain = torch.rand(6, 3, 1, 1, generator=generator("colour"), dtype=torch.float64).expand(6, 3, 8, 8)
    images = torch.rand(6, 3, 8, 8, generator=generator("images"), dtype=torch.float64)
    assert torch.equal(change.apply(plain, numbers), plain)
    assert paired(network(plain), network(change.apply(plain, numbers))) < 1e-25
    assert paired(network(images), network(change.apply(images, numbers))) > 1e-4


def test_what_is_off_asks_for_nothing():
    assert Consistency().discriminator({}) == {}
    assert not Consistency(zcr=1.0).of_real
    assert Consistency(cr=1.0).discriminator({"real": logits(0), "changed real": logits(1)}).keys() == {"cr"}
    both = {name: logits(0) for name in ("real", "changed real", "fake", "changed fake")}
    assert Consistency(bcr=1.0).discriminator(both).keys() == {"cr", "bcr"}


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["cr", "bcr", "zcr", "batch_cr", "sigma"])
def test_a_weight_that_is_none_is_refused(name, value):
    with pytest.raises(UserError, match=f"^{name} {value} .* 0 is off"):
        Consistency(**{name: value})


def shared():
    """The value of LocAtE's term and its gradient, averaged over the processes as training does."""
    weight = nn.Parameter(torch.randn(4, generator=generator("weight"), dtype=torch.float64))
    x, y = (distributed.shares(torch.randn(12, 4, generator=generator(i), dtype=torch.float64))[0] for i in range(2))
    value = of_batch_means((x @ weight).tanh(), (y @ weight).tanh())
    value.backward()
    distributed.average_gradients([weight])
    return {"value": value.detach(), "gradient": weight.grad}


def test_the_mean_is_that_of_all_processes():
    alone = shared()
    assert alone["gradient"].norm() > 0.01
    for other in run(shared, 2):
        for name, value in alone.items():
            torch.testing.assert_close(other[name], value, rtol=1e-12, atol=1e-14)
