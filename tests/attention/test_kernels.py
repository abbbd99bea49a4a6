import subprocess
import sys
import textwrap

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from gander.attention import kernels
from gander.attention.kernels import WAYS, attend, choose

ways = pytest.mark.parametrize("way", WAYS)


def force(monkeypatch, way):
    monkeypatch.setattr(kernels, "choose", lambda *_: way)


def formula(q, k, v, scale):
    return (scale * q.double() @ k.double().mT).softmax(-1) @ v.double()


def operands(*, n=5, m=4, d=3, e=6, batch=(2, 2), by_channel=False, dtype=torch.float64):
    draw = torch.Generator().manual_seed(n * m + d)
    shapes = (n, d), (m, d), (m, e)
    if by_channel:
        tensors = [torch.randn(*batch, c, r, generator=draw, dtype=dtype).mT for r, c in shapes]
    else:
        tensors = [torch.randn(*batch, r, c, generator=draw, dtype=dtype) for r, c in shapes]
    return [t.requires_grad_() for t in tensors]


class Watch(TorchDispatchMode):
    """The operators that ran, and the most elements of a tensor that one of them made."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        for t in result if isinstance(result, tuple | list) else [result]:
            if isinstance(t, torch.Tensor):
                self.largest = max(self.largest, t.numel())
        return result


@ways
@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize(("d", "e"), [(2, 3), (3, 1), (2, 2)])
def test_equals_the_formula_and_its_derivatives(monkeypatch, way, by_channel, d, e):
    force(monkeypatch, way)
    tensors = operands(n=2, m=3, d=d, e=e, batch=(1, 2), by_channel=by_channel)
    torch.testing.assert_close(attend(*tensors, 0.7), formula(*tensors, 0.7))
    assert gradcheck(lambda *t: attend(*t, 0.7), tensors)
    assert gradgradcheck(lambda *t: attend(*t, 0.7), tensors, fast_mode=True)


@ways
def test_second_derivatives_when_all_come_from_one_tensor(monkeypatch, way):
    force(monkeypatch, way)
    x = torch.randn(2, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda x: attend(x, x, x, 0.7), [x])
    assert gradgradcheck(lambda x: attend(x, x.sin(), x.cos(), 0.7), [x], fast_mode=True)


@ways
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_derivatives_for_one_operand_alone(monkeypatch, way, asked):
    force(monkeypatch, way)
    tensors = [t.detach().requires_grad_(i == asked) for i, t in enumerate(operands(n=2, m=3, d=2, e=3))]
    assert gradcheck(lambda *t: attend(*t, 1.0), tensors)
    assert gradgradcheck(lambda *t: attend(*t, 1.0), tensors, fast_mode=True)


@ways
def test_gradient_penalty_reaches_what_made_the_operands(monkeypatch, way):
    def penalty_gradient(attend):
        weight = torch.linspace(-1, 1, 9, dtype=torch.float64).view(3, 3).requires_grad_()
        x = torch.linspace(-2, 2, 24, dtype=torch.float64).sin().view(2, 1, 4, 3).requires_grad_()
        out = attend(x @ weight, x @ weight.T, x, 1.0).square().sum()
        (slope,) = torch.autograd.grad(out, x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    expected = penalty_gradient(formula)
    force(monkeypatch, way)
    torch.testing.assert_close(penalty_gradient(attend), expected)


@ways
@pytest.mark.parametrize("shape", [{"n": 70, "m": 33, "batch": (5, 2)}, {"n": 33, "m": 70, "batch": (3, 1)}, {"n": 1, "m": 1}])
@pytest.mark.parametrize("by_channel", [False, True])
def test_blocks_of_any_size_meet(monkeypatch, way, shape, by_channel):
    expected = operands(**shape, by_channel=by_channel)
    formula(*expected, 1.0).square().sum().backward()
    force(monkeypatch, way)
    for block in (1, 700, 5000, 1 << 19):  # less than a row, rows of one image, two images, everything
        monkeypatch.setattr(kernels, "BLOCK", block)
        tensors = operands(**shape, by_channel=by_channel)
        attend(*tensors, 1.0).square().sum().backward()
        for mine, theirs in zip(tensors, expected, strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)


@ways
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_normalised_in_float32(monkeypatch, way, dtype):
    force(monkeypatch, way)
    halves = [t.detach().requires_grad_() for t in operands(n=64, m=512, d=8, e=16, dtype=dtype)]
    exact = [t.detach().double().requires_grad_() for t in halves]
    mine, theirs = attend(*halves, 1.0), formula(*exact, 1.0)
    assert mine.dtype == dtype
    mine.double().square().sum().backward()
    theirs.square().sum().backward()
    eps = torch.finfo(dtype).eps
    for a, b in [(mine, theirs), *((h.grad, t.grad) for h, t in zip(halves, exact, strict=True))]:
        assert (a.double() - b).norm() < 4 * eps * b.norm()


@ways
def test_autocast_multiplies_in_half_and_returns_it(monkeypatch, way):
    force(monkeypatch, way)
    tensors = operands(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(*tensors, 1.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), formula(*tensors, 1.0), atol=0.03, rtol=0.03)
    out.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


@pytest.mark.parametrize("way", ["fused", "chunked"])
def test_penalty_under_autocast_is_exact_inside(monkeypatch, way):
    """Penalties are often taken inside the region; what is float32 in forward stays so in backward."""
    force(monkeypatch, way)
    results = []
    for inside in (True, False):
        tensors = operands(n=30, m=40, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            out = attend(*tensors, 1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            first = torch.autograd.grad(out.float().square().sum(), tensors, retain_graph=True)
            results.append([*first, *torch.autograd.grad(out.float().square().sum(), tensors, create_graph=True)])
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)


@ways
def test_meta_tensors_have_shapes(monkeypatch, way):
    force(monkeypatch, way)
    q, k, v = (t.detach().to("meta").requires_grad_() for t in operands())
    out = attend(q, k, v, 1.0)
    assert out.shape == (2, 2, 5, 6)
    assert out.is_meta
    out.sum().backward()
    assert q.grad.shape == q.shape


@ways
def test_empty_batches_pass(monkeypatch, way):
    force(monkeypatch, way)
    assert attend(*operands(batch=(0, 1)), 1.0).shape == (0, 1, 5, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("by_channel", [False, True])
def test_fused_runs_the_flash_kernel(dtype, by_channel):
    """torch falls back to the math form without a word, whose values are right and whose maps are not wanted."""
    with Watch() as seen:
        WAYS["fused"](*operands(by_channel=by_channel, dtype=dtype), 1.0).sum().backward()
    assert "_scaled_dot_product_flash_attention_for_cpu" in seen.names
    assert "_scaled_dot_product_flash_attention_for_cpu_backward" in seen.names
    assert not any("softmax" in name for name in seen.names)


@pytest.mark.parametrize("way", ["fused", "chunked", None])
def test_no_map_lives_at_64(monkeypatch, way):
    if way:
        force(monkeypatch, way)
    n = m = 64 * 64
    tensors = operands(n=n, m=m, d=1, e=8, batch=(1, 1), by_channel=True, dtype=torch.float32)
    with Watch() as seen:
        attend(*tensors, 1.0).sum().backward()
    assert seen.largest <= 2 * kernels.BLOCK < n * m / 8


def test_choice():
    def way(side, channels, batch, keys=1, ratio=8, device="cpu", dtype=torch.float32):
        n, m = side * side, side * side // keys
        return choose((batch, 1, n, channels // ratio), (batch, 1, m, channels // ratio), (batch, 1, m, channels), device, dtype)

    assert way(8, 64, 32) == way(16, 256, 16) == way(16, 64, 16, keys=4) == "plain"
    assert (
        way(16, 64, 16)
        == way(32, 64, 8)
        == way(64, 64, 1)
        == way(64, 512, 64)
        == way(128, 64, 1, keys=4)
        == way(64, 64, 1, device="meta")
        == "chunked"
    )
    assert way(64, 64, 1, device="cuda", dtype=torch.float64) == way(64, 64, 1, device="mps") == "chunked"
    assert way(32, 64, 8, ratio=1) == way(8, 64, 4, device="cuda") == way(64, 256, 64, device="cuda") == "fused"


def test_attend_takes_what_choose_says(monkeypatch):
    tensors = operands()
    for way in WAYS:
        force(monkeypatch, way)
        monkeypatch.setitem(WAYS, way, lambda *_, way=way: torch.full((2, 2, 5, 6), float(len(way))))
        assert attend(*tensors, 1.0).unique().item() == len(way)


COMPILED = """
    import sys, torch
    from gander.attention import SelfAttention
    for size, how in [(8, dict(value_ratio=1, pool=False, project=False)), (33, {})]:  # plain, and fused for chunked
        torch.manual_seed(0)
        layer = SelfAttention(16, **how)
        layer.gamma.data.fill_(1.0)
        compiled = torch.compile(layer, backend=sys.argv[1], fullgraph=True)
        results = []
        for net in (layer, compiled):
            x = torch.linspace(-1, 1, 2 * 16 * size * size).sin().view(2, 16, size, size).requires_grad_()
            layer.zero_grad()
            y = net(x)
            y.square().sum().backward()
            results.append([y, x.grad, *(p.grad for p in layer.parameters())])
        torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=1e-3)
"""


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_with_first_gradients(backend):
    """In a process of its own: the shape checks of the tests are not for dynamo to trace."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(COMPILED), backend], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
