"""Where attention on tokens looks: `weights` are what `forward` multiplies values with, and `gander.look` finds them."""

import pytest
import torch

from gander import figures, look
from gander.errors import UserError
from gander.models.all_attention import classifier, pyramid, skinny, swap, unet_detr, vit
from gander.models.all_attention.tokens import KINDS, Attention
from gander.train.learner import attention

double = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def made(kind, **more):
    layer = Attention(12, 3, kind=kind, window=2, bucket=4, rounds=2, **more).to(double).eval()
    if layer.gains is not None:
        layer.gains.data.uniform_(0.5, 3)
    return layer


def multiplied(layer, x):
    """(o, v): what the heads make, before `output`, and of what."""
    found = []
    layer.output.register_forward_pre_hook(lambda module, given: found.append(given[0]))
    layer(x)
    return [t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in (found[0], layer.value(x))]


@pytest.mark.parametrize("how", [{"size": (5, 3)}, {"size": (4, 4)}, {"prefix": 0}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_what_values_are_multiplied_with(kind, how):
    if kind == "window" and "size" not in how:
        pytest.skip("windows need the size")
    layer, (h, w) = made(kind, **how), how.get("size", (4, 4))
    x = torch.randn(2, h * w, 12, dtype=double)
    o, v = multiplied(layer, x)
    seen = layer.weights(x)
    assert seen.shape == (2, 3, h * w, h, w)
    assert layer.grid(x) == (h, w)
    torch.testing.assert_close(seen.sum((-2, -1)), torch.ones(2, 3, h * w, dtype=double))
    torch.testing.assert_close(seen.flatten(3) @ v, o)
    torch.testing.assert_close(layer.weights(x, [7, 0]), seen[:, :, [7, 0]])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "window"])
def test_what_goes_to_a_score_token_is_missing_from_the_maps(kind):
    layer, x = made(kind, prefix=1), torch.randn(2, 10, 12, dtype=double)
    o, v = multiplied(layer, x)
    seen = layer.weights(x).flatten(3)
    assert seen.shape == (2, 3, 9, 9)
    torch.testing.assert_close(seen @ v[:, :, 1:] + (1 - seen.sum(-1, keepdim=True)) * v[:, :, :1], o[:, :, 1:])
    torch.testing.assert_close(layer.weights(x, [8, 3]).flatten(3), seen[:, :, [8, 3]])


def test_buckets_are_those_of_the_pixels():
    layer, x = made("lsh", prefix=2), torch.randn(2, 18, 12, dtype=double)
    found = layer.buckets(x)
    assert found.shape == (2, 3, 2, 4, 4)
    whole = made("lsh", prefix=0)
    whole.load_state_dict(layer.state_dict())
    assert torch.equal(found.flatten(3)[:, :, 0], whole.operands(x)[0].new_tensor(hashes(whole, x))[:, :, 2:].long())
    assert made("l2", prefix=0).buckets(x) is None


def hashes(layer, x):
    """The buckets of the first round, of 18 tokens in chunks of at most 4: the largest of ±q R for six buckets."""
    q = layer.operands(x)[0]
    directions = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(double)
    along = q @ directions
    return torch.cat([along, -along], -1).argmax(-1).tolist()


def test_tokens_that_are_no_image_are_passed_over():
    assert made("product").map_kind is None
    assert made("product", context=5, size=(4, 4)).map_kind is None
    with pytest.raises(UserError, match="15 tokens are no square image"):
        made("l2", prefix=1).weights(torch.randn(1, 16, 12, dtype=double))
    blind = torch.nn.Sequential(Attention(8), Attention(8))
    assert not look.layers(blind)


latents, images = torch.randn(2, 16), torch.rand(2, 3, 16, 16) * 2 - 1
small = {"latent_dim": 16, "style": 16, "mapping_tokens": 4, "mapping_depth": 1}
NETWORKS = {
    "skinny": (lambda: skinny.Generator(16, width=48, depth=1, tokens=4, **small), latents, [(8, 8)] * 2 + [(16, 16)] * 2),
    "pyramid": (lambda: pyramid.Generator(16, width=64, depth=(1,), **small), latents, [(8, 8), (16, 16)]),
    "swap": (lambda: swap.Generator(16, width=8, **small), latents, [(4, 4)] * 2 + [(8, 8)] * 2 + [(16, 16)] * 2),
    "vit": (lambda: vit.Discriminator(16, width=16, heads=2, depth=2), images, [(8, 8)] * 2),
    "vit, mean": (lambda: vit.Discriminator(16, width=16, heads=2, depth=1, pool="mean", attention="lsh"), images, [(8, 8)]),
    "unet": (lambda: unet_detr.Discriminator(16, width=32, depth=1), images, [(8, 8), (4, 4), (2, 2)]),
    "classifier": (lambda: classifier.Classifier(width=16, depth=2, patch=4), images, [(4, 4)] * 2),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_look_finds_the_pixels_and_patches_of_every_network(name):
    build, given, sizes = NETWORKS[name]
    model = build().train()
    seen = look.maps(model, given, [(0, 0), (5, 11)])
    assert [layer.size for layer in seen.layers] == sizes
    for layer in seen.layers:
        (h, w), inner = layer.size, model.get_submodule(layer.name)
        assert layer.maps.shape == (2, inner.heads, 2, h, w)
        assert layer.queries.tolist() == [[0, 5 * h // 16 * w + 11 * w // 16]] * 2
        assert (layer.buckets is None) == (inner.kind != "lsh")
        assert ((layer.entropy >= 0) & (layer.entropy <= 1.0001)).all()
    assert figures.attention(seen, name).size[0] > 100
    told = attention(model, (given,), 16)
    heads = sum(model.get_submodule(layer.name).heads for layer in seen.layers)
    assert len(told) == 2 * heads
    assert all(value.isfinite() for value in told.values())


def test_maps_are_of_what_the_layer_got():
    model = vit.Discriminator(16, width=16, heads=2, depth=2).eval()
    seen = look.maps(model, images, [(0, 0), (15, 15)])
    with torch.no_grad():
        tokens = torch.cat([model.score.expand(2, -1, -1), model.patches(images)], 1)
        wanted = model.blocks[0].attention.inner.weights(model.blocks[0].attention.norm(tokens), [0, 63])
    torch.testing.assert_close(seen.layers[0].maps, wanted)
