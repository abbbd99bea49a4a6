import pytest
import torch
from processes import run

from gander.distributed import (
    agree,
    all_reduce,
    average_gradients,
    barrier,
    check_batch,
    rank,
    session,
    shares,
)
from gander.distributed import processes as count
from gander.errors import UserError

WORLDS = (1, 2, 3)
BATCH = 12  # cut by every one of the worlds, whole and in halves


def member() -> dict:
    """What one process sees; the tests below put the processes together."""
    x = torch.full((2, 3), rank() + 1.0, dtype=torch.float64, requires_grad=True)
    total = all_reduce(x)
    (gradient,) = torch.autograd.grad((total**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    (own,) = torch.autograd.grad(all_reduce(x).sum() * (rank() + 1), x)  # an expanded gradient, another in each process

    # as where one process holds the other layout
    mixed = torch.arange(6.0).view(2, 3) if rank() % 2 == 0 else torch.arange(6.0).view(2, 3).t().contiguous().t()

    parameters = [torch.zeros(2, 3), torch.zeros(()), torch.zeros(4), torch.zeros(5)]
    for i, parameter in enumerate(parameters[:3]):
        parameter.grad = torch.full_like(parameter, (rank() + 1.0) * (i + 1))
    average_gradients(parameters)
    average_gradients([torch.zeros(2)])  # nothing to average is no error

    weight = torch.linspace(-1, 1, 3, dtype=torch.float64, requires_grad=True)
    batch = torch.linspace(0, 1, 3 * BATCH, dtype=torch.float64).view(BATCH, 3)
    (shares(batch)[0] @ weight).square().mean().backward()
    average_gradients([weight])

    try:
        check_batch(7, 2)
        refused = ""
    except UserError as error:
        refused = str(error)
    check_batch(BATCH, 2)
    with session(torch.device("cpu")):  # in a group there is no other to start
        barrier()
    return {
        "count": count(),
        "rank": rank(),
        "x": x.detach(),
        "total": total.detach(),
        "gradient": gradient.detach(),
        "second": second,
        "own": own,
        "mixed": all_reduce(mixed),
        "averaged": [parameter.grad for parameter in parameters],
        "weight": weight.grad,
        "agree": [agree(rank()), agree(0), agree(int(rank() == 0)), agree(7, torch.device("cpu"))],
        "shares": [shares(torch.arange(BATCH)), shares(torch.arange(BATCH), 2)],
        "refused": refused,
    }


@pytest.fixture(scope="module")
def worlds() -> dict[int, list[dict]]:
    return {n: [member()] if n == 1 else run(member, n) for n in WORLDS}


@pytest.fixture(params=WORLDS)
def world(worlds, request) -> list[dict]:
    return worlds[request.param]


def test_each_process_knows_its_place(world):
    assert [(m["rank"], m["count"]) for m in world] == [(i, len(world)) for i in range(len(world))]


def test_all_reduce_is_the_sum_and_leaves_its_input(world):
    n = len(world)
    for member in world:
        assert (member["total"] == n * (n + 1) / 2).all()
        assert (member["x"] == member["rank"] + 1).all()


def test_gradients_of_all_losses_are_summed(world):
    n = len(world)
    total = n * (n + 1) / 2
    for member in world:
        torch.testing.assert_close(member["gradient"], torch.full((2, 3), n * 3 * total**2, dtype=torch.float64))
        torch.testing.assert_close(member["own"], torch.full((2, 3), total, dtype=torch.float64))


def test_all_reduce_can_be_differentiated_twice(world):
    n = len(world)
    for member in world:
        torch.testing.assert_close(member["second"], torch.full((2, 3), n**2 * 6 * n * (n + 1) / 2, dtype=torch.float64))


def test_all_reduce_knows_no_layout(world):
    for member in world:
        assert torch.equal(member["mixed"], len(world) * torch.arange(6.0).view(2, 3))


def test_gradients_are_averaged(world):
    mean = (len(world) + 1) / 2
    for member in world:
        *given, none = member["averaged"]
        assert none is None
        for i, (gradient, shape) in enumerate(zip(given, [(2, 3), (), (4,)], strict=True)):
            torch.testing.assert_close(gradient, torch.full(shape, mean * (i + 1)))


def test_averaged_gradients_are_those_of_the_whole_batch(world, worlds):
    for member in world:
        torch.testing.assert_close(member["weight"], worlds[1][0]["weight"], rtol=1e-12, atol=0)


def test_all_agree_on_the_largest(world):
    for member in world:
        assert member["agree"] == [len(world) - 1, 0, 1, 7]


def test_a_batch_is_cut_into_micro_batches_first_then_by_rank(world):
    for accumulate, place in ((1, 0), (2, 1)):
        parts = [[member["shares"][place][i] for member in world] for i in range(accumulate)]
        assert torch.equal(torch.cat([share for micro in parts for share in micro]), torch.arange(BATCH))
        assert {len(share) for micro in parts for share in micro} == {BATCH // accumulate // len(world)}


def test_an_uneven_batch_is_refused(world):
    n = len(world)
    for member in world:
        assert f"a batch of 7 cannot be cut into 2 micro-batches over {n} processes" in member["refused"]
        assert f"take a multiple of {2 * n}" in member["refused"]


def test_without_a_launcher_there_is_no_session():
    with session(torch.device("cpu")):
        assert not torch.distributed.is_initialized()
        assert (rank(), count()) == (0, 1)
