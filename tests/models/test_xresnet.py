"""xresnet: the source's parameter counts and structure, and attention anywhere in it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gander.attention import ATTENTION, FeatureAttention, Residual, SimpleSelfAttention
from gander.errors import UserError
from gander.layers import BatchNorm, spectral_norm
from gander.models import xresnet
from gander.models.xresnet import XResNet, xresnet18, xresnet34, xresnet50, xresnet101, xresnet152

NAMED = [xresnet18, xresnet34, xresnet50, xresnet101, xresnet152]


def small(expansion=4, **options):
    torch.manual_seed(0)
    return XResNet((1, 2, 1), expansion, **({"num_classes": 5, "width": 8} | options))


def count(network):
    return sum(p.numel() for p in network.parameters())


def on_meta(kind, *args, **options):
    with torch.device("meta"):
        return kind(*args, **options)


def images(side=32, b=2, channels=3):
    return torch.randn(b, channels, side, side, generator=torch.Generator().manual_seed(side))


def alive(network, but=()):
    """No gain, bias or γ is zero: every part has a say."""
    for name, p in network.named_parameters():
        if (p == 0).all() and name.rpartition(".")[2] not in but:
            nn.init.constant_(p, 0.3)
    return network


def attended(network):
    """(stage, block) of all that attends."""
    return {(i, j): block.attention for i, stage in enumerate(network.stages) for j, block in enumerate(stage)
            if not isinstance(block.attention, nn.Identity)}  # fmt: skip


def test_parameter_counts():
    assert [count(on_meta(kind)) for kind in NAMED[:3]] == [11_228_586, 21_336_746, 23_575_466]
    for kind, simple, full in [(xresnet50, 65_537, 81_921), (xresnet18, 4_097, 5_121)]:
        plain = count(on_meta(kind))
        assert count(on_meta(kind, attention="simple")) - plain == simple
        assert count(on_meta(kind, attention="full")) - plain == full
        assert count(on_meta(kind, attention="none")) == plain


def test_depths():
    """A network is called after its convolutions on one path and its linear layer: 3 of the stem for 1, so two more."""
    for kind, layers in zip(NAMED, (18, 34, 50, 101, 152), strict=True):
        network = on_meta(kind)
        path = [m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in name]
        assert len(path) == layers + 2


@pytest.mark.parametrize("kind", NAMED)
def test_shapes(kind):
    network = on_meta(kind, 7, channels=1)
    assert network(torch.empty(2, 1, 75, 75, device="meta")).shape == (2, 7)
    assert network.linear.in_features == (512 if kind in NAMED[:2] else 2048)
    assert (network.num_classes, network.resolution) == (7, None)


def written_out(network, x, expansion):
    """The source's structure, with the parameters of `network`, in evaluation mode."""

    def layer(x, part, stride=1, act=True):
        convolution, norm = part[0], part[1]
        y = F.conv2d(x, convolution.weight, stride=stride, padding=convolution.kernel_size[0] // 2)
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()
        y = (y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
        return y.clamp_min(0) if act else y

    for part, stride in zip(network.stem, (2, 1, 1), strict=True):
        x = layer(x, part, stride)
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for i, stage in enumerate(network.stages):
        for j, block in enumerate(stage):
            stride = 2 if i > 0 and j == 0 else 1
            strides = [stride, 1] if expansion == 1 else [1, stride, 1]
            y, z = x, x
            for k, (part, s) in enumerate(zip(block.convs, strides, strict=True)):
                y = layer(y, part, s, act=k < len(strides) - 1)
            if stride == 2:
                z = F.avg_pool2d(z, 2, ceil_mode=True)
            if z.shape[1] != y.shape[1]:
                z = layer(z, block.shortcut[-1], act=False)
            x = (block.attention(y) + z).clamp_min(0)
    features = x.mean(3).mean(2)
    return features, features @ network.linear.weight.T + network.linear.bias


@pytest.mark.parametrize("expansion", [1, 4])
@pytest.mark.parametrize("side", [32, 27])
def test_is_the_structure_of_the_source(expansion, side):
    network, x = alive(small(expansion, attention="simple", stages=(0, 2))), images(side)
    network(x)  # running averages of its own
    network.double().eval()
    features, logits = written_out(network, x.double(), expansion)
    torch.testing.assert_close(network.features(x.double()), features)
    torch.testing.assert_close(network(x.double()), logits)


def test_births():
    """Kaiming-normal in fan-in mode, the classifier too; a block is born as its shortcut."""
    torch.manual_seed(0)
    network = xresnet18()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.15 if layer.weight.numel() < 6000 else 0.03)
    assert (network.linear.bias == 0).all()
    gains = {name: layer.weight for name, layer in network.named_modules() if isinstance(layer, BatchNorm)}
    born_zero = {name for name, gain in gains.items() if (gain == 0).all()}
    assert born_zero == {f"stages.{i}.{j}.convs.1.1" for i in range(4) for j in range(2)}
    assert all((gain == 1).all() for name, gain in gains.items() if name not in born_zero)
    block, x = small().stages[1][1], torch.rand(2, 64, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("where", ["branch", "after"])
@pytest.mark.parametrize("key", [*ATTENTION, "simple+feature"])
def test_any_attention_at_any_stages_is_the_identity_at_birth(key, where):
    """And of one seed the rest is born alike: arms of a study differ in attention alone."""
    plain = alive(small())
    looking = alive(small(attention=key, stages=(2, 0), where=where, resolution=32), but=("gamma",))
    assert set(attended(looking)) == (set() if key == "none" else {(0, 0), (2, 0)})
    x = images()
    assert torch.equal(looking(x), plain(x))
    looking(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in looking.parameters())
    gammas = [p.grad for name, p in looking.named_parameters() if name.endswith("gamma")]
    assert all((gamma != 0).all() for gamma in gammas)


def test_without_attention_the_seed_gives_the_same_network():
    with_, without = small(attention="simple", stages=(0, 1)).state_dict(), small().state_dict()
    assert set(with_) > set(without)
    assert all(torch.equal(with_[name], value) for name, value in without.items())


def test_where_attention_stands():
    """In the branch: f(a(convs) + shortcut); after: a(f(convs + shortcut))."""
    x = torch.randn(2, 32, 6, 6)
    for where in ("branch", "after"):
        network = alive(small(attention="residual", where=where)).eval()
        block = network.stages[0][-1]
        a, branch = block.attention, block.convs(x[:, :8])
        shortcut = block.shortcut(x[:, :8])
        expected = F.relu(a(branch) + shortcut) if where == "branch" else a(F.relu(branch + shortcut))
        torch.testing.assert_close(block(x[:, :8]), expected)
        assert not torch.allclose(expected, F.relu(branch + shortcut), atol=1e-4)


def test_the_last_block_of_a_stage_attends():
    network = on_meta(xresnet50, attention="simple", stages=(0, 2))
    assert set(attended(network)) == {(0, 2), (2, 5)}
    assert [layer.conv.in_channels for layer in attended(network).values()] == [256, 1024]
    both = attended(on_meta(xresnet18, attention="residual + simple"))[0, 1]
    assert [type(layer) for layer in both] == [Residual, SimpleSelfAttention]


@pytest.mark.parametrize("resolution", [32, 64, 75, 128])
def test_attention_for_one_size_gets_that_of_its_stage(resolution):
    network = on_meta(XResNet, (1, 1, 1, 1), 1, width=8, attention="feature", stages=range(4), resolution=resolution)
    assert all(isinstance(layer, FeatureAttention) for layer in attended(network).values())
    assert network.resolution == resolution
    network(torch.empty(2, 3, resolution, resolution, device="meta"))  # the layer refuses another size


def test_spectral_norm_on_the_attention_alone():
    network = spectral_norm(small(attention="simple"), where=lambda name, layer: ".attention" in name)
    assert [name for name in network.state_dict() if name.endswith(".u")] == [
        "stages.0.0.attention.conv.parametrizations.weight.0.u"
    ]


def test_options_of_the_leaderboard():
    network = small(blur_pool=True, activation="mish")
    kinds = {type(layer).__name__ for layer in network.modules()}
    assert {"BlurPool2d", "Mish"} < kinds
    assert "ReLU" not in kinds
    assert count(network) == count(small())
    x = images()
    sharp, blurred = (net.pool(net.stem(x)) for net in (small(activation="mish"), network))
    assert sharp.shape == blurred.shape
    local = F.max_pool2d(network.stem(x), 3, 1, 1)
    torch.testing.assert_close(
        blurred[..., 2, 3], (local[..., 3:6, 5:8] * torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]])).sum((2, 3)) / 16
    )


@pytest.mark.parametrize("activation", list(xresnet.ACTIVATIONS))
@pytest.mark.parametrize("where", xresnet.PLACES)
def test_both_memory_formats(activation, where):
    network, x = (
        alive(small(attention="simple+full", where=where, blur_pool=True, activation=activation)).double(),
        images().double(),
    )
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network.to(memory_format=memory_format).zero_grad()
        y = network(x.contiguous(memory_format=memory_format))
        y.square().sum().backward()
        results.append([y, *(p.grad for p in network.parameters())])
    torch.testing.assert_close(*results)


def test_learns():
    """A few steps of SGD tell stripes from stripes."""
    torch.manual_seed(0)
    network = small(attention="simple", num_classes=2)
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(3, 32, 32)
    x, labels = torch.stack([stripes, stripes.mT]).repeat(4, 1, 1, 1) + 0.5 * torch.randn(8, 3, 32, 32), torch.arange(8) % 2
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for _ in range(20):
        loss = F.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert (network(x).argmax(1) == labels).all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"attention": "simpel"}, "no attention called 'simpel'; did you mean 'simple'"),
        ({"attention": "simple", "stages": (0, 3)}, "attention at stage 3, but the stages are 0 to 2"),
        ({"attention": "simple", "stages": (-1,)}, "attention at stage -1"),
        ({"attention": "simple+feature"}, "attention 'simple\\+feature' is made for one size of its input: .*resolution=128"),
        ({"where": "before"}, "no place for attention called 'before'"),
        ({"activation": "gelu"}, "no activation called 'gelu'"),
        ({"width": 7}, "width 7: .*even one, 8"),
    ],
)
def test_mistakes_are_named(options, line):
    with pytest.raises(UserError, match=line) as error:
        small(**options)
    assert "\n" not in str(error.value)
