from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from gander.attention import LSHAttention, lsh
from gander.errors import UserError


def born(channels=8, heads=2, gamma=0.7, **how):
    torch.manual_seed(0)
    layer = LSHAttention(channels, heads=heads, **how).double().eval()
    torch.nn.init.constant_(layer.gamma, gamma)
    with torch.no_grad():
        layer.query.weight *= 3
    return layer


def image(b=2, c=8, h=5, w=7):
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(h * w))


def operands(layer, x):
    q, v = (conv(x).flatten(2).unflatten(1, (layer.heads, -1)).mT for conv in (layer.query, layer.value))
    return q, q / q.norm(dim=-1, keepdim=True), v


def result(layer, x, maps):
    o = (maps @ operands(layer, x)[2]).transpose(2, 3).flatten(1, 2).view_as(x)
    return x + layer.gamma * layer.output(o)


def shared(layer, x, met):
    """softmax(q_i · q_j / |q_j| / √d) over the j that i met, itself only if it met nobody else."""
    q, k, _ = operands(layer, x)
    met = met & ~torch.eye(met.shape[-1], dtype=torch.bool)
    met = met | (~met.any(-1, keepdim=True) & torch.eye(met.shape[-1], dtype=torch.bool))
    shares = torch.exp(q @ k.mT / layer.width**0.5) * met
    return shares / shares.sum(-1, keepdim=True)


def meetings(buckets, length):
    """Who meets whom, by the source's words: sort by bucket, then place; cut; look at one's own chunk and the one before."""
    met = torch.zeros(*buckets.shape[:2], *[buckets[0, 0, 0].numel()] * 2, dtype=torch.bool)
    for b, heads in enumerate(buckets.flatten(3).tolist()):
        for head, rounds in enumerate(heads):
            for ids in rounds:
                order = sorted(range(len(ids)), key=lambda i: (ids[i], i))
                chunks = [order[i : i + length] for i in range(0, len(order), length)]
                for i, chunk in enumerate(chunks):
                    for mine in chunk:
                        met[b, head, mine, chunk + chunks[i - 1]] = True
    return met


# tokens, buckets: divided evenly, an odd number of chunks, some missing in the last, one to a bucket
@pytest.mark.parametrize(
    ("size", "bucket", "length"), [((4, 6), 4, 4), ((3, 5), 3, 3), ((5, 7), 8, 7), ((5, 7), 6, 6), ((1, 13), 5, 5), ((1, 6), 1, 1)]
)
@pytest.mark.parametrize("rounds", [1, 3])
def test_is_softmax_over_whom_a_position_meets(size, bucket, length, rounds):
    """In whichever rounds, and however often; to the first and second derivatives."""
    layer, x = born(bucket=bucket, rounds=rounds), image(h=size[0], w=size[1]).requires_grad_()
    met = meetings(layer.buckets(x), length)
    assert rounds > 1 or not met.all()
    torch.testing.assert_close(layer.weights(x).flatten(3), shared(layer, x, met))
    results = []
    for f in (layer, lambda x: result(layer, x, shared(layer, x, met))):
        y = f(x)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), [x, *layer.parameters()])
        results.append([y, slope, *torch.autograd.grad(f(x).square().sum(), [x, *layer.parameters()]), *second])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("bucket", [18, 20, 35, 64])
@pytest.mark.parametrize("rounds", [1, 4])
def test_a_bucket_of_half_of_all_tokens_is_full_attention(bucket, rounds):
    layer, x = born(bucket=bucket, rounds=rounds), image()
    full = result(layer, x, shared(layer, x, torch.ones(35, 35, dtype=torch.bool)))
    torch.testing.assert_close(layer(x), full)
    torch.testing.assert_close(layer.train()(x), full)
    assert not torch.allclose(born(bucket=17, rounds=rounds)(x), full, atol=1e-4)


def test_error_falls_with_rounds():
    """Mean over images and hashes; 4 rounds of buckets of a 16th of all tokens leave less than half of what 1 leaves."""
    layer, x = born(16, heads=1, bucket=8).train(), image(4, 16, 8, 16)
    with torch.no_grad():
        full = result(layer, x, shared(layer, x, torch.ones(128, 128, dtype=torch.bool)))
        errors = []
        for layer.rounds in (1, 2, 4, 8, 16):
            torch.manual_seed(0)
            errors.append(sum((layer(x) - full).square().mean() for _ in range(8)).item())
    assert all(after < 0.85 * before for before, after in pairwise(errors)), errors
    assert errors[2] < errors[0] / 2


def test_likes_meet():
    """What a round's chunks hold is nearer to each other than chance has it, and a turned vector has the other half's bucket."""
    layer, x = born(bucket=8, rounds=4), image(1, h=8, w=16)
    q = operands(layer, x)[1]
    met = meetings(layer.buckets(x), 8)
    cosines = q @ q.mT
    assert cosines[met].mean() > cosines[~met].mean() + 0.2
    there, opposite = layer.buckets(x), layer.buckets(-x)
    assert torch.equal(opposite, (there + 8) % 16)
    assert torch.equal(layer.buckets(5 * x), there)
    assert there.shape == (1, 2, 4, 8, 16)
    assert there.unique().tolist() == list(range(16))


def test_buckets_are_the_argmax_over_directions_and_their_opposites(monkeypatch):
    layer, x = born(bucket=4, rounds=1), image(1)
    drawn, draw = [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **how: drawn.append(draw(*shape, **how)) or drawn[-1])
    found = layer.buckets(x)
    (directions,) = drawn
    assert directions.shape == (4, 5)  # 9 chunks, 10 buckets
    along = operands(layer, x)[0] @ directions.double()
    assert torch.equal(found[:, :, 0].flatten(2), torch.cat([along, -along], -1).argmax(-1))


def test_hashes_are_torchs_random_numbers_in_training_and_fixed_else():
    layer, x = born(bucket=4, rounds=2).train(), image()

    def seeded(seed):
        torch.manual_seed(seed)
        return layer(x)

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.allclose(seeded(1), seeded(2))
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    state = torch.get_rng_state()
    assert torch.equal(seeded(1), seeded(2))
    torch.set_rng_state(state)
    layer(x)
    layer.train()
    layer.weights(x)
    layer.buckets(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(layer.buffers())


def test_hash_does_not_hang_on_what_came_before_or_beside():
    layer, x, other = born(bucket=4), image(), image(h=3, w=3)
    before = layer(x)
    layer(other)
    assert torch.equal(layer(x), before)
    torch.testing.assert_close(layer(x[1:]), before[1:])


@pytest.mark.parametrize("block", [1, 100, 5000])
def test_blocks_of_any_size_meet(monkeypatch, block):
    layer, x = born(bucket=6, rounds=3), image().requires_grad_()
    results = []
    for size in (lsh.BLOCK, block):
        monkeypatch.setattr(lsh, "BLOCK", size)
        y = layer(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_gradients_are_those_of_the_function():
    layer, x = born(4, heads=1, bucket=3, rounds=2), image(1, 4, 3, 4).requires_grad_()
    assert gradcheck(layer, [x])
    assert gradgradcheck(layer, [x], fast_mode=True)


@pytest.mark.parametrize("frozen", ["query", "value"])
def test_second_derivatives_of_what_wants_them(frozen):
    layer, x = born(bucket=4), image()
    getattr(layer, frozen).requires_grad_(False)
    met, wanted = meetings(layer.buckets(x), 4), [p for p in layer.parameters() if p.requires_grad]
    results = []
    for y in (layer(x), result(layer, x, shared(layer, x, met))):
        slopes = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
        results.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), wanted))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_is_kept_does_not_grow_with_the_scores():
    """By autograd: the same for 8 rounds as for 1, and less than the 64 scores of each position and head in one."""

    def kept(rounds):
        layer, x, sizes = born(bucket=32, rounds=rounds), image(1, h=16, w=16), {}

        def pack(t):
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            layer(x)
        return sum(sizes.values())

    assert kept(8) == kept(1) < 256 * 2 * 64 * 8


def test_strong_preferences_are_kept_in_float32():
    """Scores of ±1000: where nobody that is met is liked, the least disliked one is seen."""
    layer, x = born(bucket=4, rounds=3), image()
    with torch.no_grad():
        layer.query.weight *= 300
    exact = layer(x)
    torch.testing.assert_close(layer.float()(x.float()).double(), exact, atol=1e-3, rtol=1e-3)


def test_pixels_that_are_alike_meet_by_their_place():
    layer, x = born(bucket=2), torch.ones(1, 8, 1, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[..., 0], layer(x)[..., 5])
    assert (layer.weights(x)[0, 0, 4, 0] > 0).nonzero().flatten().tolist() == [2, 3, 5]


def test_mistakes_are_named():
    for how in ({"bucket": 0}, {"rounds": 0}):
        with pytest.raises(UserError, match=r"LSH attention got bucket=.*; take 1 or more of each, such as 64 and 4"):
            LSHAttention(8, **how)
