"""What holds for every layer of several heads, in every form."""

import pytest
import torch
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

from gander.attention.axial import AxialAttention
from gander.attention.l2 import L2Attention
from gander.attention.linear import LinearAttention
from gander.attention.lsh import LSHAttention
from gander.attention.multi_head import MultiHeadAttention
from gander.attention.window import WindowAttention
from gander.errors import UserError
from gander.layers import ReversibleSequence, spectral_norm

FORMS = {
    "multi_head": (MultiHeadAttention, {}),
    "multi_head, rotary": (MultiHeadAttention, {"rotary": True}),
    "multi_head, no norm": (MultiHeadAttention, {"qk_norm": False}),
    "window": (WindowAttention, {"size": 3}),
    "window, rotary": (WindowAttention, {"size": 3, "rotary": True}),
    "axial": (AxialAttention, {}),
    "linear": (LinearAttention, {}),
    "lsh": (LSHAttention, {"bucket": 4, "rounds": 3}),
    "l2": (L2Attention, {}),
    "l2, free values": (L2Attention, {"tie_values": False}),
}
forms = pytest.mark.parametrize("form", FORMS)


def born(form, channels=12, gamma=0.7, **how):
    kind, known = FORMS[form]
    torch.manual_seed(channels)
    layer = kind(channels, **{"heads": 3, **known, **how}).double().eval()
    torch.nn.init.constant_(layer.gamma, gamma)
    if layer.gains is not None:
        torch.nn.init.normal_(layer.gains, mean=1.0)
    return layer


def image(b=2, c=12, h=4, w=5, **how):
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(h * 10 + w), **how)


def values(layer, x):
    """(b, heads, n, d)"""
    z = layer.query(x) if getattr(layer, "tie_values", False) else layer.value(x)
    z = z.flatten(2).mT.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    if getattr(layer, "tie_values", False):
        w, v = (conv.weight[:, :, 0, 0].unflatten(0, (layer.heads, -1)) for conv in (layer.query, layer.value))
        z = torch.einsum("bhne,hec,hdc->bhnd", z, w, v) / layer.width**0.5
    return z


@forms
@pytest.mark.parametrize("size", [(4, 5), (1, 6), (7, 1), (1, 1)], ids=str)
@pytest.mark.parametrize(("channels", "heads"), [(12, 3), (14, 4)], ids=str)
def test_forward_is_its_weights_applied_to_the_values(form, size, channels, heads):
    layer, x = born(form, channels, heads=heads), image(c=channels, h=size[0], w=size[1])
    maps = layer.weights(x)
    assert maps.shape == (2, heads, size[0] * size[1], *size)
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(maps.shape[:3], dtype=x.dtype))
    o = maps.flatten(3) @ values(layer, x)
    o = o.transpose(2, 3).flatten(1, 2).unflatten(-1, size)
    torch.testing.assert_close(layer(x), x + layer.gamma * layer.output(o))


@forms
def test_derivatives_are_those_of_the_weights(form):
    """First and second, of the input and of every parameter."""
    layer, x = born(form), image(requires_grad=True)

    def by_weights(x):
        o = (layer.weights(x).flatten(3) @ values(layer, x)).transpose(2, 3).flatten(1, 2).unflatten(-1, x.shape[2:])
        return x + layer.gamma * layer.output(o)

    results = []
    for f in (layer, by_weights):
        first = torch.autograd.grad(f(x).square().sum(), [x, *layer.parameters()])
        (slope,) = torch.autograd.grad(f(x).square().sum(), x, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), [x, *layer.parameters()], allow_unused=True, materialize_grads=True)
        results.append([*first, slope, *second])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@forms
def test_weights_of_some_queries(form):
    layer, x = born(form), image()
    maps = layer.weights(x)
    for queries in ([3], [15, 0, 7, 7], torch.tensor([2, 9]), range(5), []):
        torch.testing.assert_close(layer.weights(x, queries), maps[:, :, list(queries)])


@pytest.mark.parametrize("form", [form for form in FORMS if form != "lsh"])  # which sorts, and so needs the whole image
def test_weights_of_one_query_make_no_square_map(form):
    layer, x = born(form).to("meta"), torch.empty(1, 12, 4096, 4096, device="meta")
    assert layer.weights(x, [5]).shape == (1, 3, 1, 4096, 4096)


@forms
def test_heads_are_of_64_channels(form):
    kind, known = FORMS[form]
    least = 2 if kind in (WindowAttention, AxialAttention) else 1
    for channels, heads in (256, 4), (200, 3), (64, least), (16, least), (1, least):
        layer = kind(channels, **known)
        assert (layer.heads, layer.width) == (heads, max(1, channels // heads))
        assert layer.float()(torch.zeros(1, channels, 2, 3)).shape == (1, channels, 2, 3)


@forms
def test_parameters(form):
    convs = 3 if "l2" in form or form == "lsh" else 4
    layer = born(form, 24)
    norms = 0 if layer.gains is None else 2 * 8
    assert sum(p.numel() for p in layer.parameters()) == convs * 24**2 + norms + 1
    assert (layer.gains is not None) == (form.split(",")[0] in ("multi_head", "window", "axial") and "no norm" not in form)


@forms
def test_the_result_has_the_memory_format_of_x(form):
    layer, x = born(form), image()
    last = x.contiguous(memory_format=torch.channels_last)
    assert layer(last).is_contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous()
    torch.testing.assert_close(layer(x[:, :, 1:, ::2]), layer(x[:, :, 1:, ::2].contiguous()))
    assert layer(x[:0]).shape == (0, *x.shape[1:])


@forms
def test_reads_each_weight_once(form):
    """A weight that is read twice goes through two power iterations."""

    class Reads(torch.nn.Module):
        count = 0

        def forward(self, weight):
            self.count += 1
            return weight.clone()

    layer, reads = born(form), []
    for conv in [m for m in layer.modules() if isinstance(m, torch.nn.Conv2d)]:
        reads.append(Reads())
        register_parametrization(conv, "weight", reads[-1], unsafe=True)
    layer(image())
    assert [r.count for r in reads] == [1] * len(reads)


@forms
def test_autocast_is_close(form):
    layer, x = born(form).float(), image().float()
    with torch.autocast("cpu", torch.bfloat16):
        y, maps = layer(x), layer.weights(x)
    assert y.dtype == torch.float32
    assert maps.dtype == torch.float32 or form == "linear"
    if form != "lsh":  # there a bucket may change
        torch.testing.assert_close(y, layer(x), atol=0.1, rtol=0.1)
        torch.testing.assert_close(maps.float(), layer.weights(x), atol=0.05, rtol=0.1)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@forms
def test_large_inputs_are_finite(form):
    layer, x = born(form).float(), (300 * image()).float().requires_grad_()
    layer(x).square().mean().backward()
    assert x.grad.isfinite().all()
    assert layer(torch.zeros_like(x)).isfinite().all()


@forms
@pytest.mark.parametrize("way", ["checkpoint", "reversible"])
def test_is_recomputed_as_it_was(form, way):
    """In training mode, spectral norm and the drawing of hashes included."""
    results = []
    for again in (True, False):
        layers = [born(form).train() for _ in range(4)]
        if way == "reversible":
            network = spectral_norm(ReversibleSequence([(layers[0], layers[1]), (layers[2], layers[3])], reversible=again)).train()
            f, x = network, image(c=24, requires_grad=True)
        else:
            network = torch.nn.Sequential(*layers)
            f = (lambda x, network=network: checkpoint(network, x, use_reentrant=False)) if again else network
            x = image(requires_grad=True)
        torch.manual_seed(3)
        y = f(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *network.parameters()])])
    for mine, theirs in zip(*results, strict=True):
        assert (mine - theirs).norm() <= 1e-10 * theirs.norm()


@forms
def test_births(form):
    kind, known = FORMS[form]
    layer = kind(64, **known)
    for conv in layer.children():
        bound = (6 / (conv.in_channels + conv.out_channels)) ** 0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound
        assert conv.bias is None
    assert layer.gamma == 0
    assert layer.gains is None or (layer.gains == 1).all()


@forms
def test_mistakes_are_named(form):
    kind, known = FORMS[form]
    for heads in (0, 13):
        with pytest.raises(UserError, match=rf"^{kind.__name__} got heads={heads} for 12 channels; take [12] to 12$"):
            kind(12, **known, heads=heads)
