"""Adam is Adam, however it is called."""

import pytest
import torch
from torch import nn

from gander.optimizers import adam


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


def test_resumes_to_the_bit():
    whole, half = network(), network()
    straight = train(whole, adam(whole.parameters(), 1e-3, (0, 0.9)), steps=10)
    before = adam(half.parameters(), 1e-3, (0, 0.9))
    train(half, before, steps=5)
    after = adam(half.parameters(), 1e-3, (0, 0.9))
    after.load_state_dict(before.state_dict())
    assert torch.equal(train(half, after, steps=5), straight)


def test_no_parameters_are_torchs_error():
    with pytest.raises(ValueError, match="empty parameter list"):
        adam([], lr=0.1, betas=(0.0, 0.9))
