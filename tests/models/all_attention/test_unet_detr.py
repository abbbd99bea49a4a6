"""The discriminator that says where: its pixels are the image's pixels, each head can be off, it learns to find what is fake."""

import pytest
import torch
from test_vit import convolutions, images

from gander.cutmix import CutMix, Verdicts, composite
from gander.draws import generator
from gander.errors import UserError
from gander.layers import spectral_norm
from gander.models.all_attention.unet_detr import Discriminator, merged, parted
from gander.penalties import r1

LABELS = torch.tensor([0, 1, 2, 0])


def small(**options):
    torch.manual_seed(0)
    few = {"resolution": 16, "width": 8, "depth": 1, "queries": 3, "layers": 1}
    return Discriminator(**(few | options))


def test_no_convolution_runs():
    network, x = spectral_norm(small(num_classes=3), scale="initial"), images()
    assert not convolutions(lambda: sum(said.sum() for said in network.verdicts(x, LABELS)))
    windowed = small(resolution=32, patch=1, scales=2)
    assert not convolutions(lambda: windowed.verdicts(images(side=32)).pixels.sum())


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_at_every_resolution(resolution, channels):
    with torch.device("meta"):
        network, x = small(resolution=resolution, channels=channels), torch.empty(2, channels, resolution, resolution)
        assert network(x).shape == (2,)
        said = network.verdicts(x)
    assert [tuple(t.shape) for t in said] == [(2,), (2, 1, resolution, resolution), (2, 3, 4), (2, 3)]


@pytest.mark.parametrize("options", [{}, {"num_classes": 3, "attention": "product"}, {"resolution": 32, "patch": 1, "scales": 2}])
def test_gradients_reach_every_parameter(options):
    network = small(**options)
    said = network.verdicts(images(side=network.resolution), LABELS)
    sum(part.square().sum() for part in said).backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert 0 < p.grad.norm() < torch.inf, name


def test_r1_reaches_the_encoder_and_no_decoder():
    network, x = spectral_norm(small(), scale="initial"), images()
    r1(network, x, None, x, None, x[:, 0, 0, 0]).backward()
    reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.norm() > 0}
    assert reached == {"patches", "down", "merge", "norm", "image"}


def test_second_derivatives_of_every_head():
    network, x = small().double(), images(2, dtype=torch.float64).requires_grad_()
    for head in network.verdicts(x):
        (slope,) = torch.autograd.grad(head.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), x, retain_graph=True)
        assert second.isfinite().all()
        assert second.norm() > 0


def test_tokens_are_merged_with_their_neighbours():
    tokens = torch.arange(2.0 * 36 * 3).view(2, 36, 3)
    for k in (2, 3):
        of_image = merged(tokens, k)
        assert torch.equal(parted(of_image, k), tokens)
        side = 6 // k
        for row in range(side):
            for column in range(side):
                square = tokens.view(2, 6, 6, 3)[:, row * k : row * k + k, column * k : column * k + k]
                assert torch.equal(of_image[:, row * side + column], square.flatten(1))


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("attention", ["l2", "product"])
def test_pixels_line_up_with_the_image(overlap, attention):
    """Without places the network knows no corner: of what is moved, by a token of the deepest scale, the same is said there.

    Round it the image is zero, as what overlapping patches see outside.
    """
    network = small(overlap=overlap, queries=0, scales=2).double()
    for name, p in network.named_parameters():
        if name == "patches.places":
            torch.nn.init.zeros_(p)
    for layer in network.modules():
        if hasattr(layer, "size"):
            layer.size = None  # no rotation of queries and keys
    x = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    x[:, :, 4:8, 4:8] = images(2, 4, dtype=torch.float64)
    moved = x.roll((4, 4), (2, 3))
    said, said_of_moved = network.verdicts(x), network.verdicts(moved)
    torch.testing.assert_close(said_of_moved.pixels, said.pixels.roll((4, 4), (2, 3)))
    assert (said.pixels - said.pixels.roll(2, 3)).abs().max() > 0.01
    torch.testing.assert_close(said_of_moved.image, said.image)


def test_a_pixel_s_logit_sees_its_own_pixel_when_nothing_attends():
    """The way through patches, scales and skips alone: what is said of a pixel hangs on the deepest token over it, and no other."""
    network, x = small(overlap=0, scales=2, queries=0), images(1).requires_grad_()
    for name, p in network.named_parameters():
        if name.endswith("attention.alpha"):
            torch.nn.init.zeros_(p)
    for row, column in ((0, 0), (6, 13), (15, 8)):
        (slope,) = torch.autograd.grad(network.verdicts(x).pixels[0, 0, row, column], x)
        top, left = row // 4 * 4, column // 4 * 4
        seen = torch.zeros(16, 16, dtype=torch.bool)
        seen[top : top + 4, left : left + 4] = True
        assert torch.equal((slope[0] != 0).any(0), seen)


def test_each_head_can_be_off():
    x = images()
    said = small(image=False).verdicts(x)
    assert said.image is None
    torch.testing.assert_close(small(image=False)(x), said.pixels.mean((1, 2, 3)))
    assert small(pixels=False).verdicts(x).pixels is None
    assert not [name for name, _ in small(pixels=False).named_parameters() if name.startswith(("up", "part", "join", "pixels"))]
    none = small(queries=0).verdicts(x)
    assert none.boxes is none.scores is None
    torch.testing.assert_close(small().verdicts(x).image, small()(x))


def test_classes_count_for_image_and_pixels():
    network, x = small(num_classes=3), images()
    one, other = (network.verdicts(x, labels) for labels in (LABELS, LABELS.flip(0)))
    differ = [a != b for a, b in zip(LABELS.tolist(), LABELS.flip(0).tolist(), strict=True)]
    assert (one.image != other.image).tolist() == differ
    assert (one.pixels != other.pixels).flatten(1).all(1).tolist() == differ
    with pytest.raises(ValueError, match="needs labels"):
        network(x)


def test_learns_where_composites_are_fake():
    """Light images against dark ones."""
    network, game = small(stddev=False, scales=2, attention="product"), CutMix(boxes=1.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for step in range(30):
        noise = torch.rand(16, 3, 16, 16, generator=generator("noise", step))
        real, fake = noise[:8] - 0.2, noise[8:] - 0.8
        regions = game.cut(game.draw(generator("cut", step), 8), (16, 16))
        shown = network.verdicts(torch.cat([real, fake, composite(real, fake, regions)]))
        said = [Verdicts(*parts) for parts in zip(*(part.split(8) for part in shown), strict=True)]
        terms = game.discriminator(*said, regions)
        losses.append({name: value.item() for name, (value, _) in terms.items()})
        optimizer.zero_grad()
        sum(weight * value for value, weight in terms.values()).backward()
        optimizer.step()
    for name in ("pixels", "boxes", "cutmix_pixels"):
        first, last = (sum(of_step[name] for of_step in part) / 5 for part in (losses[:5], losses[-5:]))
        assert last < 0.75 * first, name
    assert ((said[2].pixels > 0) == regions.real).float().mean() > 0.8


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"resolution": 48, "patch": 4, "scales": 4}, "4 scales of 12×12 tokens .* that can: 1, 2, 3$"),
        ({"resolution": 36, "patch": 4, "scales": 3}, "3 scales of 9×9 tokens .resolution 36, patch 4. .* that can: 1$"),
        ({"resolution": 20, "patch": 3}, "patch 3 does not divide the resolution 20"),
        ({"width": 10}, "width 10 is no multiple of 4.*; take 12$"),
        ({"scales": 0}, "0 scales of 8×8 tokens .*: 1, 2, 3, 4$"),
        ({"image": False, "pixels": False}, "boxes alone has no logit"),
        ({"attention": "windows"}, "did you mean 'window'"),
    ],
)
def test_mistakes_are_one_line(options, line):
    with pytest.raises(UserError, match=line) as error:
        small(**options)
    assert "\n" not in str(error.value)
