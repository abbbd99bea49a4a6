"""Adam is Adam and NAdam is NAdam, however they are called; AdaBound begins as Adam and ends as SGD."""

import math

import pytest
import torch
from torch import nn

from gander.errors import UserError
from gander.models.all_attention import vit
from gander.models.xresnet import xresnet18
from gander.optimizers import OPTIMIZERS, AdaBound, adabound, adam, decay_groups, nadam
from gander.train.belief import load_optimizer
from gander.train.checkpoint import save


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 4))


def train(net, optimizer, steps=20):
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_fused_equals_plain():
    ours, plain = network(), network()
    optimizer = adam(ours.parameters(), lr=1e-3, betas=(0.5, 0.999))
    assert optimizer.defaults["fused"]
    reference = torch.optim.Adam(plain.parameters(), lr=1e-3, betas=(0.5, 0.999), foreach=False, fused=False)
    torch.testing.assert_close(train(ours, optimizer), train(plain, reference), rtol=0, atol=1e-6)


def test_integers_are_numbers():
    optimizer = adam(network().parameters(), lr=1, betas=(0, 0.9))
    assert optimizer.defaults["betas"] == (0.0, 0.9)
    assert all(isinstance(value, float) for value in (*optimizer.defaults["betas"], optimizer.defaults["lr"]))


def test_the_first_step_is_the_rate():
    """Bias correction makes the first update lr · sign(g), for any betas."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = adam([weight], lr=0.1, betas=(0.0, 0.9))
    (weight * torch.tensor([3.0, -5.0])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, -1.9], dtype=torch.float64))


def test_groups_keep_their_own_rates():
    net = network()
    groups = [{"params": list(net[0].parameters()), "lr": 0.5}, {"params": net[3].weight}]
    optimizer = adam(groups, lr=0.1, betas=(0.0, 0.9))
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1]


def test_a_network_without_memory_is_not_fused():
    with torch.device("meta"):
        optimizer = adam(nn.Linear(2, 2).parameters(), lr=0.1, betas=(0.0, 0.9))
    assert not optimizer.defaults["fused"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumes_to_the_bit(name, tmp_path):
    make = OPTIMIZERS[name]
    whole, half = network(), network()
    straight = train(whole, make(whole.parameters(), 1e-3, (0, 0.9)), steps=10)
    before = make(half.parameters(), 1e-3, (0, 0.9))
    train(half, before, steps=5)
    save(tmp_path, 5, {}, {"optimizer": before.state_dict()})
    after = make(half.parameters(), 1e-3, (0, 0.9))
    load_optimizer(after, torch.load(tmp_path / "00000005" / "state.pt", weights_only=True)["optimizer"])
    assert torch.equal(train(half, after, steps=5), straight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_parameters_are_torchs_error(name):
    with pytest.raises(ValueError, match="empty parameter list"):
        OPTIMIZERS[name]([], lr=0.1, betas=(0.0, 0.9))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_betas_that_are_none_are_refused(name):
    with pytest.raises(UserError, match=r"betas 0\.5 1 do not both lie"):
        OPTIMIZERS[name](network().parameters(), lr=0.1, betas=(0.5, 1))


def test_nadam_is_torchs():
    ours, theirs = network(), network()
    reference = torch.optim.NAdam(theirs.parameters(), lr=1e-3, betas=(0.5, 0.9), momentum_decay=4e-3)
    assert torch.equal(train(ours, nadam(ours.parameters(), 1e-3, (0.5, 0.9))), train(theirs, reference))
    assert nadam(ours.parameters(), lr=1, betas=(0, 0.9)).defaults["betas"] == (0.0, 0.9)


def weight_and_gradients(n=6, steps=60):
    draw = torch.Generator().manual_seed(3)
    size = 10 ** torch.linspace(-4, 2, n, dtype=torch.float64)  # from such as want a high rate to such as want a low one
    start = torch.randn(n, generator=draw, dtype=torch.float64)
    return start, torch.randn(steps, n, generator=draw, dtype=torch.float64) * size


@pytest.mark.parametrize("amsbound", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.9)])
def test_adabound_is_the_formula(betas, amsbound):
    """Each weight by itself, in Python's floats; the bounds hold on both sides."""
    start, gradients = weight_and_gradients()
    weight = nn.Parameter(start.clone())
    lr, final, gamma, eps = 0.01, 0.05, 0.02, 1e-8
    optimizer = AdaBound([weight], lr=lr, betas=betas, eps=eps, final_lr=final, gamma=gamma, amsbound=amsbound)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    bound = {"below": 0, "above": 0, "neither": 0}
    for i, w in enumerate(start.tolist()):
        m = v = largest = 0.0
        for t, g in enumerate(gradients[:, i].tolist(), 1):
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * g * g
            largest = max(largest, v) if amsbound else v
            rate = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) / (math.sqrt(largest) + eps)
            low, high = final * (1 - 1 / (gamma * t + 1)), final * (1 + 1 / (gamma * t))
            bound["below" if rate < low else "above" if rate > high else "neither"] += 1
            w -= min(max(rate, low), high) * m
        assert weight[i].item() == pytest.approx(w, rel=1e-12)
    assert min(bound.values()) > 10


def test_adabound_begins_as_adam():
    """Where its bounds are far, it is (but for eps, which it does not divide by the root of the bias correction)."""
    ours, theirs = network(), network()
    wide = AdaBound(ours.parameters(), lr=1e-3, betas=(0.5, 0.999), eps=1e-20, final_lr=1.0, gamma=1e-9)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-3, betas=(0.5, 0.999), eps=1e-20)
    torch.testing.assert_close(train(ours, wide), train(theirs, reference), rtol=0, atol=1e-6)


def test_adabound_drifts_to_sgd():
    """Its step over SGD's at the final rate: anything at first, within 1 / (γ t) in the end, whatever the gradient's size."""
    start, gradients = weight_and_gradients(steps=3000)
    weight = nn.Parameter(start.clone())
    optimizer = AdaBound([weight], lr=1e-3, betas=(0.0, 0.999), final_lr=0.1, gamma=0.1)
    off = []
    for gradient in gradients:
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
        off.append(((before - weight.detach()) / (0.1 * gradient) - 1).abs().max().item())
    assert off[0] > 0.8
    assert max(off[300:]) < 1 / 30 + 1e-6
    assert max(off[2900:]) < 1 / 290 + 1e-6


def test_a_slow_down_slows_the_final_rate():
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = AdaBound([weight], lr=1e-3, betas=(0.0, 0.9), final_lr=0.1, gamma=1e9)
    optimizer.param_groups[0]["lr"] *= 0.5
    weight.grad = torch.full_like(weight, 2.0)
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.5 * 0.1 * 2, rel=1e-6)
    half = AdaBound([weight], lr=1e-3, betas=(0.0, 0.9), final_lr=0.1, gamma=1e9)
    half.load_state_dict(optimizer.state_dict())
    half.step()
    assert weight.item() == pytest.approx(1 - 2 * 0.5 * 0.1 * 2, rel=1e-6)


def test_adabound_counts_each_weights_own_steps():
    """One that gets its first gradient late begins as any other: its bounds are far, its averages corrected."""
    early, late, alone = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(3))
    both, one = AdaBound([early, late], gamma=0.1), AdaBound([alone], gamma=0.1)
    for t in range(6):
        early.grad = torch.full_like(early, 0.3)
        if t >= 3:
            late.grad = alone.grad = torch.full_like(late, 0.2 + t)
            one.step()
        both.step()
    assert torch.equal(late, alone)
    assert not torch.equal(early, late)


def test_the_usual_final_rate():
    optimizer = adabound(network().parameters(), lr=1e-3, betas=(0.5, 0.999))
    assert optimizer.defaults["final_lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["lr", "final_lr", "eps", "gamma"])
@pytest.mark.parametrize("value", [0, -0.1, math.inf, math.nan])
def test_numbers_that_are_no_rates_are_refused(name, value):
    with pytest.raises(UserError, match=f"AdaBound's {name} of {value} is no"):
        AdaBound(network().parameters(), **{name: value})


def test_weight_decay_is_of_what_multiplies_inputs_alone():
    networks = [vit.Discriminator(16, width=16, depth=1, attention="product"), xresnet18(2, width=8, attention="multi_head")]
    for network in networks:
        decayed, others = (group["params"] for group in decay_groups(network))
        assert len(decayed) + len(others) == len(list(network.parameters()))
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        kept = {names[id(parameter)].rpartition(".")[2] for parameter in others}
        assert "gains" in kept
        assert kept <= {"gains", "bias", "weight", "gamma", "alpha"}
        assert {names[id(parameter)].rpartition(".")[2] for parameter in decayed} <= {"weight", "places", "score"}
