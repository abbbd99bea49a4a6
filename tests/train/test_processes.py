"""Two processes are one: the same global batch, the same draws, the same statistics, the same step."""

import pytest
import torch
from games import GAMES, make, weights
from processes import run

from gander import draws

STEPS = 20


def trained(game):
    """Weights after STEPS steps in float64; the gradients of the first step in float64 and in fp32."""
    learner, batches = make(game, dtype=torch.float64, accumulate=2)
    found = {}
    for step in range(STEPS):
        learner.step(step, batches(step), draws.at_step(0, step))
        if step == 0:
            found |= gradients(learner, "true gradient of ")
    found |= weights(learner) | learner.details()  # how much the images of all processes vary among the latter
    learner, batches = make(game, accumulate=2)
    learner.step(0, batches(0), draws.at_step(0, 0))
    return found | gradients(learner, "gradient of ")


def gradients(learner, title):
    networks = {name: learner.networks[name] for name in ("generator", "discriminator")}
    return {f"{title}{n}.{k}": p.grad.clone() for n, network in networks.items() for k, p in network.named_parameters()}


def all_games(games):
    return {game: trained(game) for game in games}


def held(one, others):
    for game, alone in one.items():
        true = {name: tensor.norm() for name, tensor in alone.items() if name.startswith("true")}
        for name, tensor in alone.items():
            # a bias before a batch norm has no gradient: what fp32 gives there is rounding
            if name.startswith("gradient") and true[f"true {name}"] < 1e-10 * max(true.values()):
                continue
            for other in others:
                difference = (other[game][name] - tensor).norm()
                if name.startswith("gradient"):
                    assert difference <= 1e-5 * tensor.norm(), (game, name)
                elif tensor.is_floating_point():
                    assert difference <= 1e-9 * max(1, tensor.norm()), (game, name)


def test_two_processes_are_one():
    """Conditional with cBN and projection; batch norm in the discriminator: accumulation and spectral norm in both."""
    games = ["official conditional", "dcgan", "consistent"]
    held(all_games(games), run(all_games, 2, games))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_are_one_for_every_game(processes):
    held(all_games(list(GAMES)), run(all_games, processes, list(GAMES)))
