"""Steps: rates that warm up, gradients that are clipped, and the average's half-life."""

import pytest
import torch
from games import make
from torch import nn

from gander import draws
from gander.errors import UserError
from gander.train.descent import Descent
from gander.train.ema import EMA, decay_of
from gander.train.precision import Precision


def descent(gradient, lr=0.5, momentum=0.0, **options):
    """One network of three weights, whose gradient is as given, and SGD."""
    network = nn.Linear(3, 1, bias=False).double()
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum)
    down = Descent({"d": network}, {"d": optimizer}, **options)

    def step(number):
        before = network.weight.detach().clone()
        network.weight.grad = torch.tensor([gradient], dtype=torch.float64)
        log = down.step("d", number, Precision("fp32", torch.device("cpu"), ["d"]))
        return before - network.weight.detach(), log["d_gradient"].item()

    return down, optimizer, step


def test_rates_rise_linearly_and_stay():
    down, optimizer, step = descent([3.0, 0.0, 4.0], warm_up=4)
    moved = [step(number)[0].norm().item() for number in range(8)]
    assert moved == pytest.approx([0.5 * 5 * share for share in (0.25, 0.5, 0.75, 1, 1, 1, 1, 1)])
    assert optimizer.param_groups[0]["lr"] == 0.5  # what a checkpoint keeps
    down.slow_down(0.5)
    assert step(1)[0].norm().item() == pytest.approx(0.25 * 5 * 0.5)


@pytest.mark.parametrize(("clip", "norm"), [(0.0, 5.0), (1.0, 1.0), (4.0, 4.0), (5.5, 5.0)])
def test_clipping_bounds_the_norm_and_keeps_the_direction(clip, norm):
    _, _, step = descent([3.0, 0.0, 4.0], clip=clip)
    moved, logged = step(0)
    assert logged == pytest.approx(5)  # what is logged is the norm before
    torch.testing.assert_close(moved, 0.5 * norm * torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64), rtol=1e-5, atol=1e-9)


def test_a_game_clips_each_network():
    learner, batches = make("skinny", clip=1e-3, warm_up=0)
    log = learner.step(0, batches(0), draws.at_step(0, 0))
    for name in ("generator", "discriminator"):
        assert log[f"{name}_gradient"] > 1e-3
        norm = torch.nn.utils.get_total_norm([p.grad for p in learner.networks[name].parameters() if p.grad is not None])
        assert norm <= 1e-3 * (1 + 1e-5)


def test_what_fp16_scales_is_clipped_as_it_is_without():
    found = []
    for precision in ("fp32", "fp16"):
        learner, batches = make("skinny", precision=precision, clip=1e-3)
        log = learner.step(0, batches(0), draws.at_step(0, 0))
        norm = torch.nn.utils.get_total_norm([p.grad for p in learner.generator.parameters() if p.grad is not None])
        found.append((float(log["generator_gradient"]), float(norm)))
    assert found[1] == pytest.approx(found[0], rel=0.1)
    assert found[1][0] > 1e-3 >= found[1][1] * (1 - 1e-5)


def test_the_log_of_a_clipped_fp16_step_is_finite_and_the_step_is_not_taken():
    learner, batches = make("skinny", precision="fp16", clip=1.0)
    before = {name: p.detach().clone() for name, p in learner.discriminator.named_parameters()}
    for scaler in learner.precision.scalers.values():
        scaler.load_state_dict({**scaler.state_dict(), "scale": 1e38})  # overflows
    log = learner.step(0, batches(0), draws.at_step(0, 0))
    assert log["discriminator_gradient"] == 0
    assert all(torch.equal(p, before[name]) for name, p in learner.discriminator.named_parameters())


def test_half_life():
    """After that many images a weight counts half, whatever the batch; 0 is no average."""
    for batch in (8, 40, 500):
        assert decay_of(10.0, batch) ** (10_000 / batch) == pytest.approx(0.5)
    assert decay_of(0.0, 8) == 0
    network = nn.Linear(1, 1, bias=False)
    ema = EMA(network, decay_of(1.0, 10))
    with torch.no_grad():
        ema.network.weight.fill_(1.0)
        network.weight.fill_(0.0)
    for step in range(100):  # far from the first, whose decay is less
        ema.update(network, 10_000 + step)
    assert ema.network.weight.item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("options", [{"warm_up": -1}, {"clip": -1.0}, {"clip": float("nan")}, {"clip": float("inf")}])
def test_mistakes_get_a_line(options):
    with pytest.raises(UserError, match="0 is off for both"):
        descent([1.0, 0.0, 0.0], **options)
