"""Blocks on tokens: their formulas, the spatial layers' maths, reversible stacks, second derivatives."""

import pytest
import torch
from torch.autograd import gradgradcheck

from gander.attention import L2Attention, LSHAttention, WindowAttention
from gander.errors import UserError
from gander.estimate import _Meter
from gander.models.all_attention.tokens import KINDS, MLP, Attention, Block, Branch, ModulatedNorm, Stack

double = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, dtype=double)


@pytest.mark.parametrize("read", [False, True])
def test_attention_is_its_formula(read):
    layer = Attention(6, 2, context=5 if read else None).to(double)
    layer.gains.data.uniform_(0.5, 2)
    x, context = randn(2, 7, 6), randn(2, 4, 5)
    source, heads = context if read else x, []
    for h in range(2):
        rows = slice(3 * h, 3 * h + 3)
        q, k, v = (t @ part.weight[rows].T for t, part in ((x, layer.query), (source, layer.key), (source, layer.value)))
        q, k = (t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() * g for t, g in zip((q, k), layer.gains, strict=True))
        heads.append((q @ k.mT / 3**0.5).softmax(-1) @ v)
    torch.testing.assert_close(layer(x, context) if read else layer(x), torch.cat(heads, -1) @ layer.output.weight.T)


@pytest.mark.parametrize(
    ("kind", "spatial"),
    [
        ("window", lambda c: WindowAttention(c, heads=3, size=2, rotary=True)),
        ("l2", lambda c: L2Attention(c, heads=3, tie_values=False)),
        ("lsh", lambda c: LSHAttention(c, heads=3, bucket=4, rounds=2)),
    ],
)
def test_kinds_are_those_of_images(kind, spatial):
    """On the pixels of an image, with the same weights, tokens get what the layer on images adds."""
    image = spatial(12).to(double).eval()
    torch.nn.init.ones_(image.gamma)
    tokens = Attention(12, 3, kind=kind, size=(5, 3), window=2, bucket=4, rounds=2).to(double).eval()
    for name, p in tokens.named_parameters():
        own = dict(image.named_parameters())[name]
        p.data = torch.rand_like(own) + 0.5 if name == "gains" else own.data.flatten(1)
    if image.gains is not None:
        image.gains.data = tokens.gains.data
    x = randn(2, 12, 5, 3)
    torch.testing.assert_close(tokens(x.flatten(2).mT), (image(x) - x).flatten(2).mT)


def test_the_norm_is_its_formula_and_born_deaf():
    norm, h = ModulatedNorm(6, 4).to(double), randn(2, 3, 6)
    plain = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(h, randn(2, 4)), plain)
    torch.nn.init.normal_(norm.modulation.weight)
    w = randn(2, 4)
    gain, shift = (w @ norm.modulation.weight.T + norm.modulation.bias).chunk(2, -1)
    torch.testing.assert_close(norm(h, w), gain[:, None] * plain + shift[:, None])
    with pytest.raises(ValueError, match="style"):
        norm(h)


def test_a_block_is_its_formula():
    block = Block(8, 2, style=3)
    assert all((branch.alpha == 0.01).all() for branch in (block.attention, block.mlp))
    block.to(double)
    for p in block.parameters():
        torch.nn.init.normal_(p)
    h, w = randn(2, 6, 8), randn(2, 3)
    between = h + block.attention.alpha * block.attention.inner(block.attention.norm(h, w))
    wanted = between + block.mlp.alpha * block.mlp.inner(block.mlp.norm(between, w))
    torch.testing.assert_close(block(h, w), wanted)


def test_an_mlp_is_four_times_as_wide():
    mlp = MLP(6)
    assert [tuple(p.shape) for p in mlp.parameters()] == [(24, 6), (24,), (6, 24), (6,)]


def test_what_is_read_is_normed_and_has_no_order():
    branch, h, context = Branch(8, Attention(8, context=5), context=5, scale=1.0).to(double), randn(2, 6, 8), randn(2, 4, 5)
    torch.nn.init.normal_(branch.context_norm.weight)
    wanted = branch.alpha * branch.inner(branch.norm(h), branch.context_norm(context))
    torch.testing.assert_close(branch(h, None, context), wanted)
    torch.testing.assert_close(branch(h, None, context), branch(h, None, context[:, torch.randperm(4)]))
    assert not torch.allclose(branch(h, None, context), branch(h, None, randn(2, 4, 5)))


def lively(stack):
    """Norms that listen and branches that count."""
    for name, p in stack.named_parameters():
        if "alpha" in name or "modulation" in name:
            torch.nn.init.normal_(p, std=0.5)
    return stack.to(double)


def found(stack, reversible, *inputs):
    stack.sequence.reversible = reversible
    inputs = [t.clone().requires_grad_() for t in inputs]
    torch.manual_seed(1)  # for the hashes, which are drawn in training
    out = stack(*inputs)
    torch.manual_seed(2)  # as they do not stand still until backward
    return [out, *torch.autograd.grad(out.square().sum(), [*inputs, *stack.parameters()])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reversible_stack_is_a_plain_one(kind):
    stack = lively(Stack(8, [kind] * 3, style=5, size=(4, 4), window=2, bucket=4, rounds=2))
    inputs = randn(2, 16, 8), randn(2, 3, 5)
    for a, b in zip(found(stack, True, *inputs), found(stack, False, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * max(1, b.abs().max().item()))
    assert all(grad.abs().sum((0, 2)).all() for grad in found(stack, True, *inputs)[2:3])  # each block's style has a say


def test_a_stack_is_two_streams_and_their_mean():
    stack = lively(Stack(8, ["product"] * 2, style=5))
    h, styles = randn(2, 6, 8), randn(2, 2, 5)
    a = b = h
    for (attention, mlp), w in zip(stack.sequence.blocks, styles.unbind(1), strict=True):
        a = a + attention.branch(b, w)
        b = b + mlp.branch(a, w)
    torch.testing.assert_close(stack(h, styles), (a + b) / 2)


def peak(depth, reversible):
    """Bytes beside weights and their gradients at the most of a forward and a backward of 64 tokens of 48 numbers, 16 times."""
    with torch.device("meta"):
        stack = Stack(48, ["product"] * depth, style=8, reversible=reversible)
    weights, meter = list(stack.parameters()), _Meter()
    meter.watch(weights)
    with meter:
        h, styles = torch.empty(16, 64, 48, device="meta"), torch.empty(16, depth, 8, device="meta")
        stack(h.requires_grad_(), styles).sum().backward()
    return meter.most - 2 * sum(p.nbytes for p in weights)


def test_memory_is_flat_in_depth():
    tokens = 16 * 64 * 48 * 4
    assert peak(10, False) - peak(2, False) > 8 * 10 * tokens  # a plain block keeps more than ten of them
    assert abs(peak(10, True) - peak(2, True)) < tokens / 4  # all eight together: their styles


@pytest.mark.parametrize("kind", ["product", "l2", "window"])
def test_blocks_have_second_derivatives(kind):
    block = Block(4, 2, kind=kind, style=3, scale=1.0, size=(2, 2), window=2).to(double)
    torch.nn.init.normal_(block.attention.norm.modulation.weight)
    assert gradgradcheck(block, (randn(1, 4, 4).requires_grad_(), randn(1, 3).requires_grad_()), fast_mode=True)


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (lambda: Attention(8, kind="windows"), "did you mean 'window'"),
        (lambda: Attention(8, 9), "take 1 to 8"),
        (lambda: Attention(8, 0), "heads=0 for 8 channels; take 1 to 8"),
        (lambda: Attention(8, 1, kind="window", size=(4, 4)), "take 2 to 8"),
        (lambda: Attention(8, kind="window"), "needs the size"),
        (lambda: Attention(8, kind="lsh", context=4), "take kind product"),
    ],
)
def test_mistakes_get_one_line(made, line):
    with pytest.raises(UserError, match=line) as error:
        made()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("kind", ["product", "l2"])
def test_normed_tokens_look_at_each_other_at_birth(kind, width):
    torch.manual_seed(0)
    layer = Attention(4 * width, 4, kind=kind, size=(8, 8))
    x = torch.nn.functional.layer_norm(torch.randn(2, 64, 4 * width), (4 * width,))
    oneself = layer.weights(x).flatten(3).diagonal(dim1=2, dim2=3)
    assert oneself.mean() < 0.2  # all alike would be 1/64; of distances at the scale of products it is 1
