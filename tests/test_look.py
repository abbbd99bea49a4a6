"""What `look.maps` says of a layer is what `weights` says of what the layer got, asked for the right cells, at little cost."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gander import look
from gander.attention import ATTENTION, FeatureAttention, SelfAttention, SimpleSelfAttention, SpatialSoftmaxGate, build
from gander.errors import UserError
from gander.layers.spectral_norm import spectral_norm
from gander.models import locate_faithful, sagan
from gander.models.autoencoder import Autoencoder
from gander.models.xresnet import xresnet18

WITH_WEIGHTS = [key for key in ATTENTION if key not in ("none", "residual")]


def images(b=2, c=3, h=16, w=16):
    return torch.rand(b, c, h, w, generator=torch.Generator().manual_seed(h * w)) * 2 - 1


def net(key, side=8):
    """An image of 16×16, halved, with a layer whose parameters all have a say."""
    torch.manual_seed(0)
    layer = build(key, 16, (side, side))
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    return nn.Sequential(nn.Conv2d(3, 16, 2, 2), layer, nn.Flatten(), nn.Linear(16 * side * side, 2))


def pointing(side=8):
    """Three colours as channels: red asks for what is blue, all others for nothing."""
    layer = SelfAttention(3, key_ratio=1, value_ratio=1, pool=False, project=False)
    with torch.no_grad():
        layer.key.weight.copy_(torch.eye(3)[..., None, None])
        layer.query.weight.zero_()
        layer.query.weight[2, 0] = 50.0
    return nn.Sequential(layer)


def toy(side=8):
    """Grey, but for one red pixel at (1, 2) and one blue one at (6, 5)."""
    image = torch.zeros(1, 3, side, side)
    image[0, 0, 1, 2] = image[0, 2, 6, 5] = 1.0
    return image


def test_a_map_that_is_known_by_construction():
    seen = look.maps(pointing(), toy(), [(1, 2), (4, 4)])
    (layer,) = seen.layers
    assert layer.maps.shape == (1, 1, 2, 8, 8)
    assert divmod(int(layer.maps[0, 0, 0].argmax()), 8) == (6, 5)
    assert layer.maps[0, 0, 0].max() > 0.999
    torch.testing.assert_close(layer.maps[0, 0, 1], torch.full((8, 8), 1 / 64))
    assert layer.entropy[0, 0].tolist() == pytest.approx([0, 1], abs=1e-3)
    assert float(layer.distance[0, 0, 0]) == pytest.approx(math.hypot(5, 3), abs=1e-2)


@pytest.mark.parametrize("key", WITH_WEIGHTS)
def test_maps_are_the_weights_of_what_the_layer_got(key):
    model, x, positions = net(key).eval(), images(), [(0, 0), (5, 11), (15, 15)]
    torch.manual_seed(0)
    (layer,) = look.maps(model, x, positions).layers
    torch.manual_seed(0)
    with torch.no_grad():
        whole = model[1].weights(model[0](x))
    asked = [0, 2 * 8 + 5, 63]
    torch.testing.assert_close(layer.maps, whole[:, :, asked] if whole.dim() == 5 else whole)
    assert layer.name == "1"
    assert layer.kind == model[1].map_kind
    assert layer.size == (8, 8)
    assert layer.queries.tolist() == [asked] * 2


@pytest.mark.parametrize("key", WITH_WEIGHTS)
def test_positions_may_differ_from_image_to_image(key):
    model, x, lists = net(key), images(), [[(0, 0), (5, 11)], [(9, 2), (15, 0)]]
    (both,) = look.maps(model, x, lists).layers
    for i, positions in enumerate(lists):
        (one,) = look.maps(model, x[i : i + 1], positions).layers
        for name in ("maps", "entropy", "distance"):
            a, b = getattr(both, name), getattr(one, name)
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a[i : i + 1], b)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.data())
def test_a_position_is_asked_for_in_the_cell_that_it_lies_in(h, w, height, width, data):
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    model = nn.Sequential(nn.AdaptiveAvgPool2d((h, w)), SpatialSoftmaxGate(1))
    (layer,) = look.maps(model, torch.zeros(1, 1, height, width), [(y, x)]).layers if h * w <= height * width else (None,)
    if layer:
        row, column = divmod(int(layer.queries[0, 0]), w)
        assert row * height <= y * h < (row + 1) * height
        assert column * width <= x * w < (column + 1) * width


class Largest(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, tuple | list) else [result]:
            self.numel = max(self.numel, t.numel() if isinstance(t, torch.Tensor) else 0)
        return result


@pytest.mark.parametrize("key", ["self", "full", "simple"])
@pytest.mark.parametrize("per_image", [False, True])
def test_a_large_layer_never_builds_its_map(key, per_image):
    torch.manual_seed(0)
    model, side, q = nn.Sequential(build(key, 8)), 64, 16
    x, positions = images(1, 8, side, side), [[(i, i) for i in range(q)]]
    with Largest() as meter:
        seen = look.maps(model, x, positions if per_image else positions[0])
    assert seen.layers[0].maps.shape[2] == q
    assert meter.numel <= 1 << 19  # of 2^24; forward alone makes blocks of 2 · 2^18


def test_entropy_and_distance_are_their_formulas():
    b, heads, (h, w), (k, l), (height, width) = 2, 3, (4, 6), (2, 3), (8, 24)
    shares = torch.rand(b, heads, 2, k, l, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shares[0, 0, 0, 0] = 0
    shares = shares / shares.sum((-2, -1), keepdim=True)
    queries = torch.tensor([[0, 23], [7, 12]])
    entropy, distance = look.shares_entropy(shares, 2), look.shares_distance(shares, queries, (h, w), (height, width))
    for i in range(b):
        for head in range(heads):
            for n in range(2):
                e = d = 0.0
                y, x = (int(queries[i, n]) // w + 0.5) * height / h, (int(queries[i, n]) % w + 0.5) * width / w
                for r in range(k):
                    for c in range(l):
                        p = float(shares[i, head, n, r, c])
                        e -= p * math.log(p) if p else 0.0
                        d += p * math.hypot((r + 0.5) * height / k - y, (c + 0.5) * width / l - x)
                assert float(entropy[i, head, n]) == pytest.approx(e / math.log(k * l), rel=1e-12)
                assert float(distance[i, head, n]) == pytest.approx(d, rel=1e-6)


@pytest.mark.parametrize("m", [1, 2, 7, 64])
def test_entropy_of_one_place_is_0_and_of_all_alike_1(m):
    one = torch.zeros(m)
    one[0] = 1
    assert float(look.shares_entropy(one, 1)) == 0
    assert float(look.shares_entropy(torch.full((m,), 1 / m), 1)) == pytest.approx(float(m > 1))


def test_signed_maps_keep_their_sign_and_count_by_their_size():
    torch.manual_seed(0)
    model, x = nn.Sequential(SimpleSelfAttention(3)), images()
    (layer,) = look.maps(model, x, [(3, 3)]).layers
    assert layer.kind == "signed"
    assert layer.maps.min() < 0 < layer.maps.max()
    shares = layer.maps.abs() / layer.maps.abs().sum((-2, -1), keepdim=True)
    torch.testing.assert_close(layer.entropy, look.shares_entropy(shares, 2))
    (nothing,) = look.maps(model, torch.zeros_like(x), [(3, 3)]).layers  # as in a branch that is born 0
    assert nothing.entropy.tolist() == nothing.distance.tolist() == [[[0.0]]] * 2


def test_gates_answer_for_the_whole_image():
    model = nn.Sequential(FeatureAttention(4, size=(8, 8)), SpatialSoftmaxGate(4))
    channels, positions = look.maps(model, images(2, 4, 8, 8), [(0, 0)]).layers
    assert (channels.kind, channels.maps.shape, channels.entropy.shape) == ("channels", (2, 4, 1, 1), (2,))
    assert (positions.kind, positions.maps.shape, positions.entropy.shape) == ("positions", (2, 4, 8, 8), (2, 4))
    assert channels.distance is positions.distance is None
    assert ((channels.entropy > 0) & (channels.entropy <= 1.0001)).all()


def test_a_gate_of_something_else_is_looked_at_as_that():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = SpatialSoftmaxGate(3)

        def forward(self, x):
            return self.gate(x, x.square())

    model, x = Model(), images()
    (layer,) = look.maps(model, x).layers
    torch.testing.assert_close(layer.maps, model.gate.weights(x.square()).detach())


def test_what_comes_later_may_write_into_a_layers_input():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = SelfAttention(3)

        def forward(self, x):
            x = x * 1
            y = self.layer(x)
            x.zero_()
            return y

    model, x = Model(), images()
    (layer,) = look.maps(model, x, [(0, 0)]).layers
    torch.testing.assert_close(layer.maps, model.layer.weights(x, [0]).detach())


def test_every_call_of_a_shared_layer_is_one_entry():
    layer = SelfAttention(3)
    model = nn.Sequential(layer, nn.AvgPool2d(2), layer)
    assert [(found.name, found.size) for found in look.maps(model, images()).layers] == [("0", (16, 16)), ("0", (8, 8))]


def test_nothing_of_the_model_changes():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), SelfAttention(8)).train()
    model[1].eval()
    spectral_norm(model)
    before, x = copy.deepcopy(model.state_dict()), images()
    first = look.maps(model, x).layers[0].maps
    assert [m.training for m in model] == [True, False, True, True]
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(look.maps(model, x).layers[0].maps, first)  # no dropout
    with pytest.raises(RuntimeError):
        look.maps(model, images(c=5))
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert model.training


def test_a_half_precision_model_has_maps_in_float32():
    (layer,) = look.maps(pointing().bfloat16(), toy().bfloat16(), [(1, 2)]).layers
    assert layer.maps.dtype == torch.float32


def test_networks_of_every_kind():
    latent, labels, x = torch.randn(2, 8), torch.tensor([0, 2]), images(h=32, w=32)
    small = {"resolution": 32, "width": 4, "num_classes": 3, "attention": "self+feature", "attention_at": [16]}
    generator = sagan.Generator(latent_dim=8, **small)
    seen = look.maps(generator, (latent, labels), [(31, 31)])
    assert [(found.kind, found.size, found.gamma) for found in seen.layers] == [
        ("rows", (16, 16), 0.0),
        ("channels", (16, 16), 0.0),
    ]
    assert seen.layers[0].queries.tolist() == [[255]] * 2
    with torch.no_grad():
        torch.testing.assert_close(seen.images, generator.eval()(latent, labels))
    assert len(look.maps(sagan.Discriminator(**small), (x, labels)).layers) == 2
    old = locate_faithful.Generator(resolution=32, width=4, latent_dim=8)
    assert {found.kind for found in look.maps(old, (latent, None)).layers} == {"channels", "positions"}
    (simple,) = look.maps(xresnet18(3, width=8, attention="simple"), x).layers
    assert (simple.name, simple.kind, simple.size) == ("stages.0.1.attention", "signed", (8, 8))
    both = look.maps(Autoencoder(32, width=4, latent_dim=8, attention="full", attention_at=[16]), x).layers
    assert [found.size for found in both] == [(16, 16), (16, 16)]


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (128, 128), (5, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_automatic_positions_are_the_same_apart_and_inside(size, channels):
    x = images(3, channels, *size)
    places = look.automatic(x, 4)
    assert torch.equal(places, look.automatic(x, 4))
    assert torch.equal(places[1:2], look.automatic(x[1:2], 4))
    assert torch.equal(look.pixels(places, size, 3), places)
    assert torch.equal(look.automatic(x, 6)[:, :4], places)
    for of_image in (places / torch.tensor(size)).tolist():
        assert all(math.dist(a, b) >= 1 / 6 - max(1 / side for side in size) for i, a in enumerate(of_image) for b in of_image[:i])


def test_automatic_positions_find_what_differs():
    x = torch.full((1, 3, 32, 32), -0.5)
    x[0, :, 20:24, 8:12] = 1
    first = look.automatic(x, 3)[0, 0].tolist()
    assert 20 <= first[0] < 24
    assert 8 <= first[1] < 12
    assert look.automatic(torch.zeros(2, 3, 8, 8), 40).shape == (2, 40, 2)  # more than there are places, and nothing to see


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([(16, 0)], r"position \(16, 0\) lies outside the image: y is from 0 to 15 and x from 0 to 15"),
        ([(3, 3), (0, -1)], r"position \(0, -1\) lies outside"),
        ([(float("nan"), 0)], "lies outside"),
        ([], "positions are .y, x. pairs"),
        ([3, 4], "positions are .y, x. pairs"),
        ([(1, 2, 3)], "positions are .y, x. pairs"),
        ([[(1, 2)]] * 3, "or a list of them for each of 2"),
        ([(1, 2), (3,)], "positions are .y, x. pairs"),
        ("here", "positions are .y, x. pairs"),
    ],
)
def test_positions_that_make_no_sense_get_one_line(positions, message):
    with pytest.raises(UserError, match=message) as caught:
        look.maps(net("self"), images(), positions)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_looked_at_get_one_line():
    with pytest.raises(UserError, match=r"Sequential has no attention layer .* `weights\(x, queries\)` .* `map_kind` \(rows"):
        look.maps(nn.Sequential(nn.Conv2d(3, 3, 1), nn.MultiheadAttention(4, 2)), images())
    unused = nn.Conv2d(3, 3, 1)
    unused.attention = SelfAttention(3)
    with pytest.raises(UserError, match=r"went through none of the model's attention layers \(attention\)"):
        look.maps(unused, images())

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = SelfAttention(3)

        def forward(self, x):
            return self.layer(x[..., None, None]).flatten(1)

    with pytest.raises(UserError, match="there are no positions"):
        look.maps(Words(), torch.zeros(2, 3))
    with pytest.raises(UserError, match="0 positions were asked for"):
        look.maps(net("self"), images(), count=0)
