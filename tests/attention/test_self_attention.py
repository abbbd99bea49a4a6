import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradgradcheck
from torch.nn.utils.parametrize import register_parametrization

from gander.attention import Residual, SelfAttention, kernels
from gander.errors import UserError

FULL = {"value_ratio": 1, "pool": False, "project": False}
VARIANTS = {
    "official": {},
    "full": FULL,
    "article": {**FULL, "bias": True},
    "icml": {"value_ratio": 8, "pool": False},
    "wide keys": {"key_ratio": 2, "bias": True},
}
variants = pytest.mark.parametrize("how", VARIANTS.values(), ids=VARIANTS)
local = pytest.mark.parametrize("name", ["full", "article", "icml"])
sizes = pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 6), (1, 1)], ids=str)
ways = pytest.mark.parametrize("way", kernels.WAYS)


def born(channels=16, gamma=0.7, **how):
    torch.manual_seed(channels)
    layer = SelfAttention(channels, **how).double()
    torch.nn.init.constant_(layer.gamma, gamma)
    for name, p in layer.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p)
    return layer


def image(b=2, c=16, h=4, w=4, **how):
    return torch.randn(b, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(h * 10 + w), **how)


def written_out(layer, x):
    """The paper's formula, one query at a time."""
    b, _, h, w = x.shape
    q, k, v = layer.query(x), layer.key(x), layer.value(x)
    if layer.pool:
        window = 2 if h > 1 else 1, 2 if w > 1 else 1
        k, v = F.max_pool2d(k, window), F.max_pool2d(v, window)
    k, v = k.reshape(b, k.shape[1], -1), v.reshape(b, v.shape[1], -1)
    places = []
    for i in range(h):
        for j in range(w):
            share = torch.exp(torch.einsum("bc,bcm->bm", q[:, :, i, j], k))
            places.append(torch.einsum("bm,bcm->bc", share / share.sum(1, keepdim=True), v))
    o = torch.stack(places, dim=2).unflatten(2, (h, w))
    return x + layer.gamma * layer.output(o)


@variants
@sizes
@ways
def test_is_its_formula_with_first_and_second_derivatives(monkeypatch, how, size, way):
    monkeypatch.setattr(kernels, "choose", lambda *_: way)
    layer, x = born(**how), image(h=size[0], w=size[1], requires_grad=True)
    results = []
    for f in (layer, lambda x: written_out(layer, x)):
        y = f(x)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), [x, *layer.parameters()], allow_unused=True, materialize_grads=True)
        first = torch.autograd.grad(f(x).square().sum(), [x, *layer.parameters()])
        results.append([y, slope, *first, *second])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@variants
@ways
def test_gradgradcheck(monkeypatch, how, way):
    monkeypatch.setattr(kernels, "choose", lambda *_: way)
    layer = born(8, **how)
    assert gradgradcheck(layer, [image(1, 8, 4, 4, requires_grad=True)], fast_mode=True)


@pytest.mark.parametrize("channels", [64, 256, 8, 24])
def test_parameters_as_published(channels):
    def count(**how):
        return sum(p.numel() for p in SelfAttention(channels, **how).parameters())

    square = channels * channels
    assert count() == count(**FULL) == 1.25 * square + 1
    assert count(**FULL, bias=True) == 1.25 * square + 1.25 * channels + 1
    assert count(value_ratio=8, pool=False) == 0.5 * square + 1
    assert sum(p.numel() for p in Residual(channels).parameters()) == 1.25 * square + 1


def test_the_counts_that_papers_print():
    def count(layer):
        return sum(p.numel() for p in layer.parameters())

    assert count(SelfAttention(256)) == count(SelfAttention(256, **FULL)) == 81_921
    assert count(SelfAttention(64, **FULL)) == 5_121
    assert count(SelfAttention(64, **FULL, bias=True)) == 5_201


@variants
@pytest.mark.parametrize("channels", [1, 3, 7, 12])
def test_any_number_of_channels(how, channels):
    x = image(c=channels)
    assert born(channels, **how)(x).shape == x.shape


@variants
@sizes
def test_weights_are_those_of_forward(how, size):
    layer, x = born(**how), image(h=size[0], w=size[1])
    maps = layer.weights(x)
    keys = tuple(max(1, side // 2) for side in size) if layer.pool else size
    assert maps.shape == (2, 1, size[0] * size[1], *keys)
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(maps.shape[:3], dtype=x.dtype))
    v = layer._pooled(layer.value(x)).flatten(2)
    o = (v @ maps[:, 0].flatten(2).mT).unflatten(2, size)
    torch.testing.assert_close(layer(x), x + layer.gamma * layer.output(o))


@variants
def test_weights_of_some_queries(how):
    layer, x = born(**how), image()
    maps = layer.weights(x)
    for queries in ([3], [15, 0, 7, 7], torch.tensor([2, 9]), range(5), []):
        torch.testing.assert_close(layer.weights(x, queries), maps[:, :, list(queries)])


def test_weights_of_one_query_make_no_square_map():
    layer, x = SelfAttention(8, **FULL).to("meta"), torch.empty(1, 8, 4096, 4096, device="meta")
    assert layer.weights(x, [5]).shape == (1, 1, 1, 4096, 4096)


@local
def test_does_not_care_where_a_pixel_stands(name):
    layer, x, order = born(gamma=1.0, **VARIANTS[name]), image(), torch.randperm(16)

    def shuffled(t):
        return t.flatten(2)[:, :, order].view_as(t)

    torch.testing.assert_close(layer(shuffled(x)), shuffled(layer(x)))


def test_pooled_knows_its_windows():
    layer, x = born(gamma=1.0), image()
    rolled = x.roll(1, dims=3)  # other neighbours come into a window
    assert not torch.allclose(layer(rolled), layer(x).roll(1, dims=3), atol=1e-4)
    swapped = x.roll(2, dims=3)  # windows change places, whole
    torch.testing.assert_close(layer(swapped), layer(x).roll(2, dims=3))


@variants
def test_at_birth_only_gamma_learns(how):
    layer, x = born(gamma=0.0, **how), image()
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.gamma.grad.abs() > 1e-3
    assert all((p.grad == 0).all() for name, p in layer.named_parameters() if name != "gamma")


@variants
@ways
def test_both_memory_formats(monkeypatch, how, way):
    monkeypatch.setattr(kernels, "choose", lambda *_: way)
    layer, x = born(**how), image(h=6, w=5)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(last), layer(x))
    assert layer(last).is_contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous()


@variants
def test_takes_images_that_are_views(how):
    layer, whole = born(**how), image(h=6, w=10)
    for x in (whole[:, :, 1:, ::2], whole.mT[1:], image(c=20)[:, 2:18], image(b=0)):
        torch.testing.assert_close(layer(x), layer(x.contiguous()))


@variants
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_reads_each_weight_once(how, memory_format):
    """A weight that is read twice goes through two power iterations."""

    class Reads(torch.nn.Module):
        count = 0

        def forward(self, weight):
            self.count += 1
            return weight.clone()

    layer, reads = born(**how), []
    for conv in [m for m in layer.modules() if isinstance(m, torch.nn.Conv2d)]:
        reads.append(Reads())
        register_parametrization(conv, "weight", reads[-1], unsafe=True)
    layer(image().contiguous(memory_format=memory_format))
    assert [r.count for r in reads] == [1] * len(reads)


@variants
@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
def test_honours_the_old_spectral_norm(how):
    """torch.nn.utils.spectral_norm makes the weight in a hook before the convolution's forward."""
    layer, x = born(**how), image()
    convs = [m for m in layer.modules() if isinstance(m, torch.nn.Conv2d)]
    for conv in convs:
        torch.nn.utils.spectral_norm(conv)
    before = [conv.weight_u.clone() for conv in convs]
    layer(x).square().sum().backward()
    assert all((conv.weight_orig.grad != 0).any() for conv in convs)
    assert not any(torch.equal(conv.weight_u, u) for conv, u in zip(convs, before, strict=True))
    layer.eval()
    torch.testing.assert_close(layer(x), written_out(layer, x))


@variants
def test_what_is_put_in_the_place_of_a_convolution_is_called(how):
    """As adapters do, and forward hooks."""

    class Doubled(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    layer, x = born(**how), image()
    for conv in layer.children():
        if getattr(conv, "bias", None) is not None:
            torch.nn.init.zeros_(conv.bias)
    twice = born(**how)
    twice.load_state_dict(layer.state_dict())
    twice.value = Doubled(twice.value)
    with torch.no_grad():
        layer.gamma *= 2
    torch.testing.assert_close(twice(x), layer(x))
    layer.value.register_forward_hook(lambda module, inputs, out: 0 * out)
    torch.testing.assert_close(layer(x) if isinstance(layer.output, torch.nn.Identity) else x, x)


@variants
@ways
def test_autocast_is_close(monkeypatch, how, way):
    monkeypatch.setattr(kernels, "choose", lambda *_: way)
    layer, x = born(**how).float(), image().float()
    with torch.autocast("cpu", torch.bfloat16):
        y, maps = layer(x), layer.weights(x)
    torch.testing.assert_close(y, layer(x), atol=0.05, rtol=0.05)
    torch.testing.assert_close(maps, layer.weights(x), atol=0.02, rtol=0.05)
    y.sum().backward()


def test_births():
    for conv in (m for m in SelfAttention(64, bias=True).modules() if isinstance(m, torch.nn.Conv2d)):
        bound = (6 / (conv.in_channels + conv.out_channels)) ** 0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound
        assert (conv.bias == 0).all()


def test_mistakes_are_named():
    with pytest.raises(UserError, match="value_ratio=2"):
        SelfAttention(8, project=False)
    with pytest.raises(UserError, match="key_ratio"):
        SelfAttention(8, key_ratio=0)
