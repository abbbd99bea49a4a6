"""A reversible stack is a plain stack to whoever looks at its results, and keeps one output for backward."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from gander.attention.kernels import attend
from gander.errors import UserError
from gander.layers import BatchNorm, ReversibleSequence, by_step, refresh, spectral_norm

WIDTH = 8  # of one stream


class Convolution(nn.Module):
    """Two 3×3 convolutions, modulated channel by channel; dropout between them."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, style=None, labels=None):
        x = self.first(x.tanh())
        if style is not None:
            x = x * (1 + style[..., None, None])
        if labels is not None:
            x = x + labels[:, None, None, None]
        return self.second(self.dropout(x.tanh()))


class Attention(nn.Module):
    """One head over tokens (b, n, c)."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, style):
        q, k, v = (self.qkv(self.norm(x)) + style[:, None].tile(3)).chunk(3, -1)
        return self.out(attend(q[:, None], k[:, None], v[:, None], WIDTH**-0.5)[:, 0])


class MLP(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x, style):
        return super().forward(x) * style[:, None]


KINDS = {"convolutions": (Convolution, Convolution, 1, (3, 2 * WIDTH, 5, 4)), "tokens": (Attention, MLP, -1, (3, 10, 2 * WIDTH))}
every_kind = pytest.mark.parametrize("kind", KINDS)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stack(kind="convolutions", depth=3, dtype=torch.float64, **more):
    """(a reversible one, a plain one of the same weights)."""
    f, g, dim, _ = KINDS[kind]
    torch.manual_seed(0)
    made = ReversibleSequence([(f(**more), g(**more)) for _ in range(depth)], dim=dim).to(dtype)
    plain = copy.deepcopy(made)
    plain.reversible = False
    return made, plain


def inputs(kind="convolutions", dtype=torch.float64):
    return [draw(*KINDS[kind][3], dtype=dtype).requires_grad_(), draw(3, WIDTH, seed=1, dtype=dtype).requires_grad_()]


def results(network, tensors, *, seed=0):
    """y, and the gradient of a function of it for every input and weight."""
    torch.manual_seed(seed)
    y = network(*tensors)
    wanted = [t for t in (*tensors, *network.parameters()) if t is not None and t.requires_grad]
    return [y.detach(), *torch.autograd.grad((y * draw(*y.shape, seed=2, dtype=y.dtype)).sum(), wanted)]


def assert_same(ours, theirs, tolerance=1e-10):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= tolerance * max(1, b.norm())


@every_kind
def test_the_block_is_the_formula(kind):
    (made, plain), (x, style) = stack(kind, depth=1), inputs(kind)
    (f, g), dim = made.blocks[0], made.dim
    x1, x2 = x.chunk(2, dim)
    y1 = x1 + f(x2, style)
    expected = torch.cat([y1, y1.new_zeros(()) + x2 + g(y1, style)], dim)
    for network in (made, plain):
        assert torch.equal(network(x, style), expected)


@every_kind
def test_gradients_are_autograds(kind):
    """Of inputs, context and weights."""
    (made, plain), given = stack(kind), inputs(kind)
    ours = results(made, given)
    assert_same(ours, results(plain, given))
    assert all(gradient.norm() > 1e-3 for gradient in ours)


def test_gradients_are_those_of_the_function():
    made, _ = stack("tokens", depth=2)
    assert torch.autograd.gradcheck(lambda x, style: made(x[:2, :3], style[:2]), inputs("tokens"))


def test_a_module_used_twice_and_a_weight_in_two_blocks():
    f, g, dim, _ = KINDS["convolutions"]
    torch.manual_seed(0)
    shared = f().double()
    made = ReversibleSequence([(shared, g().double()), (g().double(), shared)], dim=dim)
    plain = copy.deepcopy(made)
    plain.reversible = False
    assert_same(results(made, inputs()), results(plain, inputs()))
    x, style = inputs()
    twice = [torch.autograd.grad(n(n(x, style), style).square().sum(), list(n.parameters())) for n in (made, plain)]
    assert_same(*twice)


def test_random_numbers_are_replayed():
    (made, plain), given = stack(dropout=0.5), inputs()
    assert_same(results(made, given), results(plain, given))
    assert not torch.equal(made(*given), made(*given))


def test_backward_leaves_the_random_state_alone():
    made, _ = stack(dropout=0.5)
    y = made(*inputs())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("steps", ["foreign", "ours"])
def test_spectral_norm_is_that_of_the_forward(steps):
    """In a foreign loop each forward iterates, so the second call has another σ than the first; backward none of its own."""
    made, plain = stack()
    for network in (made, plain):
        torch.manual_seed(1)
        spectral_norm(network)
        if steps == "ours":
            by_step(network)
            refresh(network)
        network.train()
    found = []
    for network in (made, plain):
        x, style = inputs()
        both = network(x, style), network(0.5 * x, style)
        if steps == "foreign":  # as DistributedDataParallel does
            for buffer in network.buffers():
                buffer.copy_(F.normalize(torch.ones_like(buffer), dim=0))
        before = [buffer.clone() for buffer in network.buffers()]
        loss = sum((y * draw(*y.shape, seed=i)).sum() for i, y in enumerate(both))
        gradients = torch.autograd.grad(loss, [x, style, *network.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))
        assert all(part.by_step == (steps == "ours") for part in network.modules() if hasattr(part, "by_step"))
        found.append([*both, *gradients, *before])
    assert_same(*found)


def kept(network, given):
    """Bytes that autograd keeps for backward, weights and the output itself apart."""
    storages = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = network(*given)
    storages.pop(y.untyped_storage().data_ptr(), None)
    return sum(storages.values())


@every_kind
def test_what_is_kept_does_not_grow_with_depth(kind):
    given = inputs(kind)
    ours = [kept(stack(kind, depth)[0], given) for depth in (1, 4, 16)]
    assert ours == [given[1].nbytes] * 3  # the context
    assert kept(stack(kind, 16)[1], given) > 40 * given[0].nbytes


@every_kind
def test_the_input_comes_back(kind):
    """float32, 24 blocks: the first F sees in backward what it saw in forward, to 1e-3 (measured: 1e-6)."""
    made, _ = stack(kind, depth=24, dtype=torch.float32)
    seen = []
    made.blocks[0][0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach().clone()))
    x, style = inputs(kind, torch.float32)
    y = made(x, style)
    assert (y - x).norm() > x.norm() / 2  # it is not that nothing happened on the way
    y.square().sum().backward()
    first, second = seen
    assert 0 < (first - second).abs().max() < 1e-3


def test_autocast_is_as_it_was():
    (made, plain), given = stack(dtype=torch.float32), inputs(dtype=torch.float32)
    seen = []
    made.blocks[0][0].first.register_forward_hook(lambda module, arguments, y: seen.append(y.dtype))
    found = []
    for network in (made, plain):
        with torch.autocast("cpu", torch.bfloat16):
            y = network(*given)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [*given, *network.parameters()])])
    assert seen == [torch.bfloat16] * 2
    assert found[0][0].dtype == torch.float32
    assert torch.equal(found[0][0], found[1][0])
    assert_same(*found, tolerance=0.01)
    with torch.autocast("cpu", torch.bfloat16):  # nor does that of backward matter
        y = made(*given)
        y.square().sum().backward()
    made(*given).square().sum().backward()
    assert seen[-2:] == [torch.float32] * 2


def test_autocasts_cache_is_left_alone():
    """What is cast where gradients are off has no graph: whoever used the same weight next would lose its gradient."""
    made, plain = stack(depth=1, dtype=torch.float32)
    found = []
    for network in (made, plain):
        with torch.autocast("cpu", torch.bfloat16):
            x = inputs(dtype=torch.float32)[0]
            y = network(x).sum() + network.blocks[0][0].first(x[:, :WIDTH]).sum()
        found.append(torch.autograd.grad(y, list(network.parameters())))
    assert_same(*found, tolerance=0.02)


def test_streams_are_float32_in_lower_precision():
    """8 blocks that each add 2⁻⁹ to ones: in bfloat16 no addition would be seen."""

    class Little(nn.Module):
        def forward(self, x):
            return torch.full_like(x, 2**-9)

    made = ReversibleSequence([(Little(), Little())] * 8)
    x = torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True)
    y = made(x)
    assert y.dtype == torch.bfloat16
    assert (y == 1 + 8 * 2**-9).all()
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert (x.grad == 1).all()


def test_where_gradients_are_off_it_is_plain():
    (made, plain), given = stack(), inputs()
    with torch.no_grad():
        y = made(*given)
    with torch.inference_mode():
        made(*given)
    assert not y.requires_grad
    assert torch.equal(y, plain(*given))
    made.requires_grad_(False)
    assert not made(*(t.detach() for t in given)).requires_grad


def test_backwards_add_up():
    made, plain = stack()
    for network in (made, plain):
        for seed in range(2):
            x, style = (t * (1 + seed) for t in inputs())
            y = network(x, style).square().sum()
            y.backward(retain_graph=True)
            y.backward()
    assert_same([p.grad for p in made.parameters()], [p.grad for p in plain.parameters()])


@pytest.mark.parametrize("frozen", ["x", "style", "weights", "a block"])
def test_gradients_of_what_wants_them(frozen):
    made, plain = stack()
    x, style = inputs()
    for network in (made, plain):
        if frozen == "weights":
            network.requires_grad_(False)
        elif frozen == "a block":
            network.blocks[1].requires_grad_(False)
    given = [x.detach() if frozen == "x" else x, style.detach() if frozen == "style" else style, torch.arange(3)]
    assert_same(results(made, given), results(plain, given))
    given[1] = None
    assert_same(results(made, given), results(plain, given))


def test_what_is_not_used_has_no_gradient():
    made, _ = stack(depth=1)
    made.blocks[0][1].register_parameter("spare", nn.Parameter(torch.ones(2)))
    made(inputs()[0]).sum().backward()
    assert made.blocks[0][1].spare.grad is None
    assert made.blocks[0][0].first.weight.grad is not None


def test_second_derivatives_are_refused_or_plain():
    made, plain = stack()
    x, style = inputs()
    with pytest.raises(UserError, match=r"no second derivative.*R1.*reversible=False") as caught:
        torch.autograd.grad(made(x, style).sum(), x, create_graph=True)
    assert "\n" not in str(caught.value)
    made.reversible = False
    penalties = []
    for network in (made, plain):
        (slope,) = torch.autograd.grad(network(x, style).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(slope.square().sum(), list(network.parameters()), allow_unused=True)[0])
    assert torch.equal(*penalties)


@pytest.mark.parametrize("norm", [BatchNorm, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_norm_is_refused(norm):
    with pytest.raises(UserError, match=rf"^1\.0\.1 of a reversible stack is a {norm.__name__}: .* GroupNorm$"):
        ReversibleSequence([(nn.Identity(), nn.Identity()), (nn.Sequential(nn.Identity(), norm(8)), nn.Identity())])
    ReversibleSequence([(nn.GroupNorm(2, 8), nn.InstanceNorm2d(8))])


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
def test_buffers_that_move_are_refused(norm):
    made, plain = stack()
    for network in (made, plain):
        torch.manual_seed(0)
        norm(network.blocks[1][0].first)
    with pytest.raises(UserError, match=r"blocks\.1\.0\.first.* changes in its forward.*gander\.layers"):
        made(*inputs())
    plain.load_state_dict(made.state_dict())
    assert_same(results(made.eval(), inputs()), results(plain.eval(), inputs()))


def test_writing_into_the_input_is_refused():
    made = ReversibleSequence([(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(WIDTH, WIDTH, 1)).double(), nn.Identity())])
    with pytest.raises(UserError, match="a Sequential in a reversible stack writes into its input; take inplace=False"):
        made(inputs()[0])


def test_weights_that_are_not_those_of_the_forward_are_noticed():
    made, _ = stack()
    y = made(*inputs()).sum()
    with torch.no_grad():
        next(made.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
    other = {name: p.detach().clone().requires_grad_() for name, p in made.named_parameters()}
    y = torch.func.functional_call(made, other, tuple(inputs())).sum()
    with pytest.raises(RuntimeError, match="other weights in backward"):
        y.backward()


def test_bad_input():
    made, _ = stack()
    x, style = inputs()
    with pytest.raises(UserError, match="cuts axis 1 in halves, and it came with an odd 15; take 16"):
        made(x[:, 1:], style)
    with pytest.raises(TypeError, match="each an argument of its own"):
        made(x, [style])


def test_without_memory():
    """On the meta device, where `gander show` counts."""
    with torch.device("meta"):
        made = ReversibleSequence([(Convolution(), Convolution())])
        x = torch.empty(2, 2 * WIDTH, 4, 4, requires_grad=True)
        y = made(x)
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_channels_last_stays():
    made, _ = stack()
    x = inputs()[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = made(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert F.mse_loss(y, made(x.contiguous())) < 1e-20
