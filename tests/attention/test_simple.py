import copy
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrizations

from gander.attention import SimpleSelfAttention, simple
from gander.errors import UserError
from gander.layers import by_step, fold, refresh, sigmas, spectral_norm

VARIANTS = {
    "as published": {},
    "symmetric": {"symmetric": True},
    "projected": {"out_conv": True},
    "normalised": {"normalize": True},
    "neighbours": {"kernel": 3},
    "all but symmetric": {"kernel": 3, "out_conv": True, "normalize": True},
}
variants = pytest.mark.parametrize("how", VARIANTS.values(), ids=VARIANTS)
# 6 channels: fewer positions, as many, and more
sizes = pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3), (3, 5)], ids=str)
orders = pytest.mark.parametrize("order", simple.ORDERS)


def born(channels=6, gamma=0.7, **how):
    torch.manual_seed(channels)
    layer = SimpleSelfAttention(channels, **how).double()
    torch.nn.init.constant_(layer.gamma, gamma)
    return layer


def image(b=2, c=6, size=(3, 5), **how):
    return torch.randn(b, c, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(size[1]), **how)


def written_out(layer, x):
    """The formula, one query and one key at a time."""
    b, c, h, w = x.shape
    weight, middle = layer.conv.weight, layer.conv.kernel_size[0] // 2
    o = torch.zeros_like(x)
    for i in range(h):
        for j in range(w):
            asked = torch.zeros(b, c, dtype=x.dtype)
            for k in range(-middle, middle + 1):
                for l in range(-middle, middle + 1):
                    if 0 <= i + k < h and 0 <= j + l < w:
                        asked = asked + x[:, :, i + k, j + l] @ weight[:, :, middle + k, middle + l].T
            found = torch.zeros(b, c, dtype=x.dtype)
            for k in range(h):
                for l in range(w):
                    key = x[:, :, k, l]
                    found = found + (key * asked).sum(1, keepdim=True) * key
            place = torch.zeros(h, w, dtype=x.dtype)
            place[i, j] = 1
            o = o + found[:, :, None, None] * place
    return x + layer.gamma * layer.output(o / (h * w) if layer.normalize else o)


def assert_equal(mine, theirs):
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10 * float(theirs.detach().abs().max().clamp_min(1)))


@variants
@sizes
def test_is_its_formula_with_first_and_second_derivatives(how, size):
    layer, x = born(**how), image(size=size, requires_grad=True)
    results = []
    for f in (layer, lambda x: written_out(layer, x)):
        y = f(x)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), [x, *layer.parameters()])
        first = torch.autograd.grad(f(x).square().sum(), [x, *layer.parameters()])
        results.append([y, slope, *first, *second])
    for mine, theirs in zip(*results, strict=True):
        assert_equal(mine, theirs)


@sizes
def test_both_orders_are_one_function(monkeypatch, size):
    """γ = 1 and the same W: with γ = 0 both would return x, whatever they compute."""
    layer, results = born(gamma=1.0), []
    for order in simple.ORDERS:
        monkeypatch.setattr(simple, "order", lambda *_, order=order: order)
        x = image(size=size, requires_grad=True)
        y = layer(x)
        assert not torch.allclose(y, x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    for mine, theirs in zip(*results, strict=True):
        assert_equal(mine, theirs)


def test_the_smaller_map_is_chosen():
    assert [simple.order(256, n) for n in (64, 255, 256, 1024)] == ["positions", "positions", "channels", "channels"]


@orders
@variants
def test_gradcheck_and_gradgradcheck(monkeypatch, how, order):
    monkeypatch.setattr(simple, "order", lambda *_: order)
    layer, x = born(4, **how), image(1, 4, (2, 3), requires_grad=True)
    parameters = dict(layer.named_parameters())

    def f(x, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), x)

    assert gradcheck(f, [x, *parameters.values()], fast_mode=True)
    assert gradgradcheck(f, [x, *parameters.values()], fast_mode=True)


@orders
@pytest.mark.parametrize("frozen", ["image", "weight"])
def test_only_the_gradients_that_are_asked_for(monkeypatch, order, frozen):
    monkeypatch.setattr(simple, "order", lambda *_: order)
    layer, x = born(), image(requires_grad=True)
    whole = torch.autograd.grad(layer(x).square().sum(), [x, layer.gamma])
    if frozen == "image":
        (mine,) = torch.autograd.grad(layer(x.detach()).square().sum(), layer.gamma)
        torch.testing.assert_close(mine, whole[1])
    else:
        (mine,) = torch.autograd.grad(layer.requires_grad_(False)(x).square().sum(), x)
        torch.testing.assert_close(mine, whole[0])


@variants
@sizes
def test_weights_times_values_are_the_branch(how, size):
    layer, x = born(gamma=1.0, **how), image(size=size)
    maps = layer.weights(x)
    assert maps.shape == (2, 1, size[0] * size[1], *size)
    assert (maps < 0).any() or size == (1, 1)
    o = torch.einsum("bqhw,bchw->bcq", maps[:, 0], x).view_as(x)
    assert_equal(layer(x) - x, layer.output(o))


@variants
def test_weights_of_some_queries(how):
    layer, x = born(**how), image()
    maps = layer.weights(x)
    for queries in ([3], [14, 0, 7, 7], torch.tensor([2, 9]), range(5), []):
        torch.testing.assert_close(layer.weights(x, queries), maps[:, :, list(queries)])


def test_weights_of_one_query_make_no_square_map():
    layer, x = SimpleSelfAttention(8).to("meta"), torch.empty(1, 8, 4096, 4096, device="meta")
    assert layer.weights(x, [5]).shape == (1, 1, 1, 4096, 4096)


def test_parameters_as_published():
    def count(channels, **how):
        return sum(p.numel() for p in SimpleSelfAttention(channels, **how).parameters())

    assert (count(64), count(256), count(256, symmetric=True)) == (4_097, 65_537, 65_537)
    assert count(8, out_conv=True) == 2 * 64 + 1
    assert count(8, kernel=3) == 9 * 64 + 1


@variants
@sizes
def test_at_birth_only_gamma_learns(how, size):
    layer, x = born(gamma=0.0, **how), image(size=size)
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.gamma.grad.abs() > 1e-3
    assert all((p.grad == 0).all() for name, p in layer.named_parameters() if name != "gamma")


def norms():
    yield "gander", spectral_norm
    yield "torch", lambda layer: (parametrizations.spectral_norm(layer.conv), layer)[1]


@pytest.mark.parametrize("norm", [norm for _, norm in norms()], ids=[name for name, _ in norms()])
def test_symmetric_stays_so_under_spectral_norm(norm):
    """The source's did not. σ is that of the symmetric matrix, and the map is symmetric too, in training and after it."""
    layer = norm(born(symmetric=True, normalize=True))
    optimizer, x = torch.optim.SGD(layer.parameters(), lr=0.01), image()
    learned = dict(layer.conv.parametrizations.weight.named_parameters())["original"]
    before = learned.detach().clone()
    for _ in range(30):  # and power iteration settles
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    assert not torch.equal(learned, before)
    assert not torch.allclose(learned, learned.transpose(0, 1))
    with torch.no_grad():
        for _ in range(300):
            layer(x)
        for mode in (True, False):
            layer.train(mode)
            weight = layer.conv.weight.flatten(1)
            assert torch.equal(weight, weight.T)
            assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=1e-6)
            maps = layer.weights(x)[:, 0].flatten(2)
            torch.testing.assert_close(maps, maps.mT)
            torch.testing.assert_close(layer(x), written_out(layer, x))


def test_spectral_norm_by_step_copies_and_folding():
    layer, x = by_step(spectral_norm(born(symmetric=True))), image()
    refresh(layer, 300)
    matrix = layer.conv.parametrizations.weight.original.flatten(1)
    sigma = torch.linalg.matrix_norm((matrix + matrix.T) / 2, 2)
    torch.testing.assert_close(sigmas(layer)["conv"], sigma)
    y = layer(x)
    folded = fold(copy.deepcopy(layer))
    torch.testing.assert_close(folded(x), y)
    assert list(folded.state_dict()) == ["gamma", "conv.weight"]
    torch.testing.assert_close(layer(x), y)


def test_reads_the_weight_once():
    """A weight that is read twice goes through two power iterations."""
    for size in ((3, 5), (1, 2)):
        layer, x = spectral_norm(born()), image(size=size)
        norm = layer.conv.parametrizations.weight[0]
        twin = copy.deepcopy(norm)
        layer(x)
        twin.iterate(layer.conv.parametrizations.weight.original)
        assert torch.equal(norm.u, twin.u)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
def test_honours_the_old_spectral_norm():
    """torch.nn.utils.spectral_norm makes the weight in a hook before the convolution's forward."""
    layer, x = born(), image()
    torch.nn.utils.spectral_norm(layer.conv)
    before = layer.conv.weight_u.clone()
    layer(x).square().sum().backward()
    assert (layer.conv.weight_orig.grad != 0).any()
    assert not torch.equal(layer.conv.weight_u, before)
    layer.eval()
    assert_equal(layer(x), written_out(layer, x))


def branch_of(x, asked):
    """X Xᵀ asked, the same vector asked for everywhere."""
    flat = x.flatten(2)
    return (flat @ (flat.mT @ asked[:, None].expand(-1, flat.shape[2]))).view_as(x)


@sizes
def test_what_is_put_in_the_place_of_the_convolution_is_called(size):
    class Doubled(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    layer, x = born(), image(size=size)
    twice = born(gamma=0.35)
    twice.conv = Doubled(twice.conv)
    torch.testing.assert_close(twice(x), layer(x))
    biased = born(gamma=0.7)
    biased.conv = torch.nn.Conv2d(6, 6, 1).double()
    torch.testing.assert_close(biased(x), written_out(biased, x) + 0.7 * branch_of(x, biased.conv.bias))
    layer.conv.register_forward_hook(lambda module, inputs, out: 0 * out)
    assert torch.equal(layer(x), x)


@variants
@sizes
def test_both_memory_formats(how, size):
    layer = born(**how)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = image(size=size).contiguous(memory_format=memory_format).requires_grad_()
        y = layer(x)
        assert y.is_contiguous(memory_format=memory_format)
        for grad in (image(size=size), image(size=size).contiguous(memory_format=torch.channels_last), y.new_ones(()).expand_as(y)):
            results.append([y, *torch.autograd.grad(y, [x, *layer.parameters()], grad, retain_graph=True)])
    for mine, theirs in zip(results[:3], results[3:], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert_equal(a, b)


def test_takes_images_that_are_views():
    layer, whole = born(), image(size=(6, 10))
    for x in (whole[:, :, 1:, ::2], whole.mT[1:], image(c=20)[:, 2:8], image(b=0), image(b=0, size=(1, 2))):
        torch.testing.assert_close(layer(x), layer(x.contiguous()))


@variants
@pytest.mark.parametrize("size", [(64, 64), (4, 4)], ids=str)
def test_float16_does_not_overflow(how, size):
    """At 64² the sums over positions are beyond 65504, where float16 ends; y is not."""
    torch.manual_seed(0)
    layer = SimpleSelfAttention(32, **how)
    torch.nn.init.constant_(layer.gamma, 0.04 if layer.normalize else 1e-5)
    half = (torch.randn(1, 32, *size) + 4).half()
    exact = copy.deepcopy(layer).double()
    with torch.autocast("cpu", torch.float16):
        x = half.clone().requires_grad_()
        y = layer(x)
        (y.float().square().mean() * 16).backward()
    flat = half.flatten(2).double()
    assert (flat @ flat.mT).max() > 65504 or size == (4, 4)
    assert y.dtype == torch.float16
    true = half.double().requires_grad_()
    (exact(true).square().mean() * 16).backward()
    torch.testing.assert_close(y.double(), exact(true), rtol=2e-3, atol=1e-3 * float(exact(true).detach().abs().max()))
    for mine, other in zip((x, *layer.parameters()), (true, *exact.parameters()), strict=True):
        assert (mine.grad.double() - other.grad).norm() < 3e-3 * other.grad.norm()


@variants
@pytest.mark.parametrize("size", [(64, 64), (4, 4)], ids=str)
def test_bfloat16_is_summed_in_float32(how, size):
    """In bfloat16 a sum of ones stands still at 256."""
    torch.manual_seed(0)
    layer = SimpleSelfAttention(32, **how)
    torch.nn.init.constant_(layer.gamma, 1 if layer.normalize else 1 / (size[0] * size[1]))
    x = (torch.randn(2, 32, *size) + 1).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, maps = layer(x), layer.weights(x, [0, 5])
    with torch.no_grad():
        exact, exact_maps = layer.double()(x.double()), layer.weights(x.double(), [0, 5])
    # y is rounded to 8 bits, and so are four matrices that make the branch
    bound = 2**-8 * (exact.norm() + 4 * (exact - x.double()).norm())
    assert (y.double() - exact).norm() < bound < 0.1 * (exact - x.double()).norm()
    assert maps.dtype == torch.float32
    assert (maps - exact_maps).norm() < 0.01 * exact_maps.norm()


def test_normalised_means_the_same_at_every_resolution():
    """Each position four times: the branch is what it was."""
    layer, x = born(normalize=True), image()
    larger = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_equal(layer(larger)[:, :, ::2, ::2], layer(x))


@pytest.mark.parametrize("how", [{}, {"symmetric": True}, {"normalize": True}], ids=str)
def test_does_not_care_where_a_pixel_stands(how):
    layer, x, order = born(**how), image(), torch.randperm(15)

    def shuffled(t):
        return t.flatten(2)[:, :, order].view_as(t)

    assert_equal(layer(shuffled(x)), shuffled(layer(x)))


def test_a_kernel_does_not_wrap_rows():
    """A wall between the last column and the first of the next row: the source's convolution of the flattened image had none."""
    layer, x = born(kernel=3), image(size=(4, 4))
    changed = x.clone()
    changed[:, :, 1, 0] += 1
    asked = layer.conv(changed) - layer.conv(x)
    assert (asked[:, :, 0, 3] == 0).all()
    assert (asked[:, :, 0, 0] != 0).all()


def test_what_is_kept_for_backward():
    """x and two c×c matrices, or for few positions two maps of theirs: no n×n above, and no third of the source's copies of x."""
    for size, at_most in (((8, 8), 2 * 16**2), ((2, 4), 8 * 16 + 8 * 8)):
        kept = {}
        layer = born(16)
        x = image(1, 16, size, requires_grad=True)

        def keep(t, kept=kept):
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // 8
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            layer(x)
        small = 2 * 16**2 + 2  # the weight, γ times it, γ
        assert sum(kept.values()) <= x.numel() + at_most + small


COMPILED = """
    import torch
    from gander.attention import SimpleSelfAttention
    from gander.layers import spectral_norm
    for size, how in [((3, 5), dict(symmetric=True)), ((1, 4), {}), ((3, 5), dict(kernel=3, normalize=True, out_conv=True))]:
        torch.manual_seed(0)
        layer = spectral_norm(SimpleSelfAttention(6, **how)).double().eval()
        layer.gamma.data.fill_(1.0)
        results = []
        for net in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
            x = torch.linspace(-1, 1, 12 * size[0] * size[1]).double().sin().view(2, 6, *size).requires_grad_()
            layer.zero_grad()
            y = net(x)
            y.square().sum().backward()
            results.append([y, x.grad, *(p.grad for p in layer.parameters())])
        torch.testing.assert_close(*results)
"""


def test_compiles_with_first_gradients():
    """In a process of its own: the shape checks of the tests are not for dynamo to trace."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(COMPILED)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_births():
    deviation = SimpleSelfAttention(256).conv.weight.std().item()
    assert deviation == pytest.approx((2 / 256) ** 0.5, rel=0.02)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="kernel of simple attention is 2"):
        SimpleSelfAttention(8, kernel=2)
    with pytest.raises(UserError, match="take kernel=1"):
        SimpleSelfAttention(8, kernel=3, symmetric=True)
