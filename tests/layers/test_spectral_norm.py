import copy
import io

import pytest
import torch
from processes import run
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from gander.errors import UserError
from gander.layers import by_step, fold, refresh, sigmas, spectral_norm
from gander.layers.spectral_norm import SpectralNorm, _matrix, _out_first

KINDS = {
    "linear": (lambda: nn.Linear(24, 16), (3, 24)),
    "embedding": (lambda: nn.Embedding(20, 12), None),
    "conv 1d": (lambda: nn.Conv1d(8, 12, 3), (2, 8, 9)),
    "conv 2d": (lambda: nn.Conv2d(8, 12, 3, padding=1), (2, 8, 6, 6)),
    "conv 3d": (lambda: nn.Conv3d(4, 6, 2), (2, 4, 3, 3, 3)),
    "grouped conv": (lambda: nn.Conv2d(8, 12, 3, groups=4), (2, 8, 6, 6)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(8, 12, 4, 2), (2, 8, 5)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(8, 12, 4, 2, 1), (2, 8, 5, 5)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 6, 2), (2, 4, 3, 3, 3)),
    "grouped transposed": (lambda: nn.ConvTranspose2d(8, 12, 4, 2, 1, groups=4), (2, 8, 5, 5)),
}
LIKE_TORCH = [kind for kind in KINDS if kind != "grouped transposed"]  # theirs is no matrix of (out, all the rest)
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make(kind: str) -> tuple[nn.Module, torch.Tensor]:
    build, shape = KINDS[kind]
    return build(), torch.randint(20, (7,)) if shape is None else torch.randn(shape)


def norm_of(layer: nn.Module, place: int = 0) -> SpectralNorm:
    return layer.parametrizations.weight[place]


def original(layer: nn.Module) -> torch.Tensor:
    return layer.parametrizations.weight.original


def matrix(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """The matrix (out, everything else), written by hand: out channel by out channel."""
    if not isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return torch.stack([row.flatten() for row in weight])
    into, out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    rows = [weight[g * into : (g + 1) * into, o].flatten() for g in range(layer.groups) for o in range(out)]
    return torch.stack(rows)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(256, 1)
    )


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# What σ is


@kinds
def test_sigma_is_the_largest_singular_value(kind):
    layer, x = make(kind)
    true = torch.linalg.svdvals(matrix(layer, layer.weight.detach()))[0]
    spectral_norm(layer)
    nn.init.normal_(norm_of(layer).u)  # forget the 15 iterations at birth
    nn.init.normal_(norm_of(layer).v)
    for updates, tolerance in ((50, 0.02), (250, 0.005)):
        for _ in range(updates):
            layer(x)
        torch.testing.assert_close(sigmas(layer)[""], true, rtol=tolerance, atol=0)
    torch.testing.assert_close(layer.eval().weight, original(layer) / sigmas(layer)[""])


def test_the_matrix_of_a_transposed_convolution_is_not_scrambled():
    layer = nn.ConvTranspose2d(6, 5, 4)
    weight = layer.weight.detach()
    true, scrambled = torch.linalg.svdvals(weight.transpose(0, 1).flatten(1))[0], torch.linalg.svdvals(weight.reshape(5, -1))[0]
    refresh(spectral_norm(layer), 300)
    torch.testing.assert_close(sigmas(layer)[""], true)
    assert (true - scrambled).abs() > 0.01 * true


@pytest.mark.parametrize("kind", [kind for kind, (_, shape) in KINDS.items() if len(shape or ()) > 3])
def test_memory_layout_changes_nothing(kind):
    layer, x = make(kind)
    spectral_norm(layer)
    twin = copy.deepcopy(layer)
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    twin.to(memory_format=layout)
    assert original(twin).is_contiguous(memory_format=layout)
    for _ in range(3):
        torch.testing.assert_close(twin(x), layer(x))
    for key, value in state(layer).items():
        torch.testing.assert_close(state(twin)[key], value)


@pytest.mark.parametrize("kind", ["linear", "conv 2d", "transposed 2d"])
def test_channels_last_weights_are_not_copied(kind):
    layer, _ = make(kind)
    layer = spectral_norm(layer).to(memory_format=torch.channels_last)
    norm = norm_of(layer)
    columns, _ = _matrix(_out_first(original(layer), norm.transposed, norm.groups), norm.v)
    assert columns.data_ptr() == original(layer).data_ptr()


# The same as torch's, in a loop that knows nothing of gander


@pytest.mark.parametrize("kind", LIKE_TORCH)
def test_a_foreign_loop_sees_what_torch_does(kind):
    layer, x = make(kind)
    ours, theirs = spectral_norm(copy.deepcopy(layer)), parametrizations.spectral_norm(copy.deepcopy(layer))
    norm_of(ours).u.copy_(norm_of(theirs)._u)
    norm_of(ours).v.copy_(norm_of(theirs)._v)
    optimisers = [torch.optim.SGD(both.parameters(), lr=0.1) for both in (ours, theirs)]
    for training in (True, True, True, False):
        seen = []
        for both, optimiser in zip((ours, theirs), optimisers, strict=True):
            both.train(training)
            optimiser.zero_grad()
            y = both(x)
            (y.square().mean() + both(x).mean()).backward()
            seen.append([y, *(p.grad.clone() for p in both.parameters()), *both.buffers()])
            optimiser.step()
        for mine, other in zip(*seen, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_gradients_flow_through_sigma_but_not_through_u_and_v():
    layer = spectral_norm(nn.Conv2d(2, 3, 2).double()).eval()
    norm = norm_of(layer)

    def normalised(weight):
        return norm(weight)

    weight = original(layer).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(normalised, weight)
    assert torch.autograd.gradgradcheck(normalised, weight)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap, whose addcmul_ is slow but right
def test_gradients_of_each_image():
    layer, x = by_step(spectral_norm(nn.ConvTranspose2d(4, 6, 4, groups=2))), torch.randn(5, 4, 3, 3)

    def loss(parameters, image):
        return torch.func.functional_call(layer, parameters, (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(layer.named_parameters()), x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)


def test_a_gradient_penalty_can_be_had():
    net = spectral_norm(network())
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert all(p.grad.isfinite().all() for name, p in net.named_parameters() if "bias" not in name)


# When u and v move


def test_two_forwards_before_one_backward():
    net, x, y = spectral_norm(network()), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    (net(x) - net(y)).square().mean().backward()
    by_step(net)
    (net(x) - net(y)).square().mean().backward()


def test_replaced_never_written():
    net = spectral_norm(network())
    held = list(net.buffers())
    values = [buffer.clone() for buffer in held]
    net(torch.randn(2, 3, 8, 8))
    refresh(net)
    for buffer, value, now in zip(held, values, net.buffers(), strict=True):
        assert torch.equal(buffer, value)
        assert now is not buffer


def test_a_write_between_forward_and_backward_is_survived():
    """As DistributedDataParallel does before each forward."""
    net, x = spectral_norm(network()), torch.randn(2, 3, 8, 8)
    loss = net(x).mean()
    for buffer in net.buffers():
        buffer.copy_(buffer.clone())
    (loss + net(x).mean()).backward()


def test_by_step_only_refresh_moves_them():
    net, x = spectral_norm(network()), torch.randn(2, 3, 8, 8)
    assert by_step(net) is net
    before = state(net)
    net(x)
    net.eval()(x)
    assert same(state(net), before)
    expected = {}
    for name, norm in net.named_modules():
        if isinstance(norm, SpectralNorm):
            layer = net.get_submodule(name.removesuffix(".parametrizations.weight.0"))
            weight = matrix(layer, original(layer).detach())
            expected[f"{name}.u"] = u = nn.functional.normalize(weight @ norm.v, dim=0)
            expected[f"{name}.v"] = nn.functional.normalize(weight.T @ u, dim=0)
    refresh(net)
    assert expected.keys() == before.keys()
    for key, value in state(net).items():
        torch.testing.assert_close(value, expected[key])
        assert not value.requires_grad


def test_eval_moves_nothing():
    net = spectral_norm(network()).eval()
    before = state(net)
    net(torch.randn(2, 3, 8, 8))
    sigmas(net)
    assert same(state(net), before)


def test_one_iteration_a_forward_and_cached():
    layer = spectral_norm(nn.Linear(5, 4))
    twin = copy.deepcopy(layer)
    layer(torch.randn(2, 5))
    refresh(twin)
    assert same(state(layer), state(twin))
    with parametrize.cached():
        layer(torch.randn(2, 5))
        layer(torch.randn(2, 5))
    refresh(twin)
    assert same(state(layer), state(twin))


def test_inference_mode_leaves_nothing_that_training_cannot_use():
    net, x = spectral_norm(network()), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        net(x)
        refresh(net)
    net(x).mean().backward()


# Where it goes


def test_takes_every_layer_that_has_a_matrix_and_no_other():
    layers = {kind.replace(" ", "_"): build() for kind, (build, _) in KINDS.items()}
    net = nn.ModuleDict({**layers, "norm": nn.BatchNorm2d(4), "act": nn.PReLU(), "deep": nn.Sequential(nn.Linear(2, 2))})
    assert spectral_norm(net) is net
    assert sigmas(net).keys() == {*layers, "deep.0"}


def test_where_chooses():
    net = spectral_norm(network(), where=lambda name, layer: isinstance(layer, nn.Linear) or name == "0")
    assert sigmas(net).keys() == {"0", "5"}


def test_twice_is_once():
    net = spectral_norm(network())
    before, keys = state(net), list(net.state_dict())
    spectral_norm(net)
    assert same(state(net), before)
    assert list(net.state_dict()) == keys


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("theirs", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_passes_over_what_torch_has_normed(theirs):
    layer = theirs(nn.Linear(4, 3))
    keys = list(layer.state_dict())
    assert list(spectral_norm(layer).state_dict()) == keys


def test_optimisers_keep_their_parameters():
    net = network()
    parameters = {id(p) for p in net.parameters()}
    spectral_norm(net)
    assert {id(p) for p in net.parameters()} == parameters
    assert {id(p) for p in fold(net).parameters()} == parameters


def test_on_top_of_another_parametrisation():
    class Symmetric(nn.Module):
        def forward(self, weight):
            return (weight + weight.T) / 2

    layer = nn.Linear(5, 5)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    refresh(spectral_norm(layer), 1000)
    true = torch.linalg.svdvals((original(layer) + original(layer).T).detach() / 2)[0]
    torch.testing.assert_close(sigmas(layer)[""], true)
    by_step(layer)
    expected = layer.weight.detach()
    torch.testing.assert_close(expected, expected.T)
    torch.testing.assert_close(fold(layer).weight.detach(), expected)


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_lazy_layer_is_refused_by_name():
    net = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="0 has no shape yet"):
        spectral_norm(net)


def test_on_the_meta_device():
    with torch.device("meta"):
        net, x = spectral_norm(network()), torch.randn(2, 3, 8, 8)
    assert net(x).is_meta
    refresh(net)
    assert all(value.is_meta for value in sigmas(net).values())


# The initial scale


@kinds
def test_at_birth_the_initial_scale_changes_nothing_and_then_holds_the_largest_singular_value(kind):
    layer, x = make(kind)
    weight, before = layer.weight.detach().clone(), layer(x)
    true = torch.linalg.svdvals(matrix(layer, weight))[0]
    by_step(spectral_norm(layer, scale="initial"))
    torch.testing.assert_close(layer(x), before)
    with torch.no_grad():
        original(layer).mul_(3).add_(0.1 * torch.randn(weight.shape))
    refresh(layer, 300)
    torch.testing.assert_close(layer.weight, norm_of(layer).initial * original(layer) / sigmas(layer)[""])
    torch.testing.assert_close(torch.linalg.svdvals(matrix(layer, layer.weight.detach()))[0], true, rtol=0.05, atol=0)


def test_the_initial_scale_is_saved_folded_and_has_second_derivatives():
    layer, x = spectral_norm(nn.Linear(5, 4), scale="initial").eval(), torch.randn(2, 5)
    with torch.no_grad():
        original(layer).mul_(2)
    refresh(layer)
    twin = spectral_norm(nn.Linear(5, 4), scale="initial").eval()
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x))
    torch.testing.assert_close(fold(copy.deepcopy(layer))(x), layer(x))
    assert "initial" not in str(spectral_norm(nn.Linear(5, 4)).state_dict().keys())
    norm = norm_of(layer).double()
    assert torch.autograd.gradgradcheck(norm, original(layer).detach().double().requires_grad_())


def test_the_initial_scale_in_a_foreign_loop():
    """Two forwards, a write into the buffers between forward and backward, weights of zeros."""
    net, x = spectral_norm(network(), scale="initial"), torch.randn(2, 3, 8, 8)
    loss = net(x).mean() + net(x).mean()
    for buffer in net.buffers():
        buffer.copy_(buffer.clone())
    loss.backward()
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer = spectral_norm(layer, scale="initial")
    layer(torch.ones(2, 4)).sum().backward()
    torch.testing.assert_close(original(layer).grad, torch.full((3, 4), 2.0))


def test_another_scale_is_refused_in_one_line():
    with pytest.raises(UserError, match="no scale of spectral norm called 'inital'; did you mean 'initial'"):
        spectral_norm(network(), scale="inital")


# Copies, files, precision


def test_a_deep_copy_is_independent():
    net = spectral_norm(network())
    twin, before = copy.deepcopy(net), state(net)
    twin(torch.randn(2, 3, 8, 8))
    refresh(twin)
    assert same(state(net), before)
    assert not same(state(twin), before)


def test_saved_and_loaded():
    net, x = spectral_norm(network()), torch.randn(2, 3, 8, 8)
    net(x)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    twin = spectral_norm(network())
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(twin(x), net(x))  # through a power iteration from the same u and v
    assert same(state(twin), state(net))


@kinds
def test_folded(kind):
    layer, x = make(kind)
    plain = set(layer.state_dict())
    spectral_norm(layer)
    kept, before = copy.deepcopy(layer), state(layer)
    folded = fold(copy.deepcopy(layer))
    assert set(folded.state_dict()) == plain
    assert type(folded) is type(make(kind)[0])
    assert isinstance(folded.weight, nn.Parameter)
    assert same(state(layer), before)  # a copy was folded, the original was not
    torch.testing.assert_close(layer.eval()(x), kept.eval()(x))
    torch.testing.assert_close(folded(x), kept(x))


def test_a_copy_is_normed_and_its_original_not():
    """Parametrised classes are shared by deep copies."""
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "bias", nn.Identity())
    twin = spectral_norm(copy.deepcopy(layer))
    assert isinstance(layer.weight, nn.Parameter)
    assert sigmas(twin)
    assert not sigmas(layer)


def test_zero_weights_are_finite_and_come_back():
    layer = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(layer.weight)
    spectral_norm(layer)
    x = torch.randn(2, 4)
    assert torch.equal(layer(x), torch.zeros(2, 3))
    layer(x).sum().backward()
    torch.testing.assert_close(original(layer).grad, x.sum(0).expand(3, 4))
    with torch.no_grad():
        original(layer).copy_(torch.randn(3, 4))
    refresh(layer, 300)
    torch.testing.assert_close(sigmas(layer)[""], torch.linalg.svdvals(original(layer).detach())[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_reaches_neither_sigma_nor_the_iteration(dtype):
    net, x = spectral_norm(network()), torch.randn(2, 3, 8, 8)
    twin = copy.deepcopy(net)
    with torch.autocast("cpu", dtype):
        weight = net[0].weight
        low = sigmas(net)
    assert weight.dtype == torch.float32
    assert torch.equal(weight, twin[0].weight)
    assert all(torch.equal(low[name], value) for name, value in sigmas(twin).items())
    with torch.autocast("cpu", torch.bfloat16):
        net(x).mean().backward()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.bfloat16, 0.02), (torch.float16, 0.005)])
def test_networks_of_another_precision(dtype, tolerance):
    layer = spectral_norm(nn.Conv2d(4, 6, 3)).to(dtype)
    refresh(layer, 2000)
    assert {buffer.dtype for buffer in layer.buffers()} == {layer.weight.dtype} == {dtype}
    true = torch.linalg.svdvals(original(layer).detach().double().flatten(1))[0]
    torch.testing.assert_close(sigmas(layer)[""].double(), true, rtol=tolerance, atol=0)


# torch.compile


def compiled_equals_eager(backend: str) -> None:
    for mode in ("train", "eval", "by step"):
        torch._dynamo.reset()
        net, x, y = spectral_norm(network()), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
        if mode == "by step":
            by_step(net)
        net.train(mode != "eval")
        twin = copy.deepcopy(net)
        compiled = torch.compile(twin, backend=backend, fullgraph=True)
        for step in range(3):
            torch._dynamo.config.error_on_recompile = step > 0
            seen = []
            for module, forward in ((net, net), (twin, compiled)):
                module.zero_grad()
                (forward(x) - forward(y)).square().mean().backward()
                seen.append([*(p.grad for p in module.parameters()), *module.buffers()])
                refresh(module)
            for mine, other in zip(*seen, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled(backend):
    run(compiled_equals_eager, 1, backend)  # a process without the checks of shapes, which dynamo cannot read
