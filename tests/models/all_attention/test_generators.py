"""Generators without convolution: what runs, what reaches what, what is born, and what a resolution decides."""

import pytest
import torch
from operators import Operators
from torch import nn

from gander.errors import UserError
from gander.estimate import _Meter
from gander.models.all_attention import pyramid, skinny, swap
from gander.models.all_attention.pixels import HEADS, UPSAMPLES, PatchHead, Upsample, places
from gander.models.all_attention.styles import MAPPINGS, Mapping, mixed, truncated
from gander.models.all_attention.tokens import ModulatedNorm, Stack

SMALL = {"latent_dim": 32, "style": 32, "mapping_depth": 2, "mapping_tokens": 4}
SKINNY = {**SMALL, "width": 48, "depth": 3, "tokens": 8}
GENERATORS = {
    "skinny": lambda resolution=16, **more: skinny.Generator(resolution, **{**SKINNY, **more}),
    "skinny, connected": lambda resolution=16, **more: skinny.Generator(resolution, **{**SKINNY, "mapping": "connected", **more}),
    "single pass": lambda resolution=16, **more: skinny.Generator(resolution, **{**SKINNY, "single_pass": True, **more}),
    "pyramid": lambda resolution=16, **more: pyramid.Generator(resolution, **{**SMALL, "width": 64, "depth": (2, 1), **more}),
    "swap": lambda resolution=16, **more: swap.Generator(resolution, **{**SMALL, "width": 8, **more}),
}
every = pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
reversibles = pytest.mark.parametrize("make", list(GENERATORS.values())[:4], ids=list(GENERATORS)[:4])


def born(make, *args, seed=0, **more):
    torch.manual_seed(seed)
    return make(*args, **more)


def on_meta(make, *args, **more):
    with torch.device("meta"):
        return make(*args, **more)


@every
@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256, 512])
def test_shapes_at_every_resolution(make, resolution):
    generator = on_meta(make, resolution, channels=1, num_classes=5)
    images = generator(torch.empty(2, 32, device="meta"), torch.empty(2, dtype=torch.long, device="meta"))
    assert images.shape == (2, 1, resolution, resolution)
    assert (generator.resolution, generator.latent_dim, generator.num_classes) == (resolution, 32, 5)


def trained(generator):
    with Operators() as operators:
        generator(torch.randn(2, generator.latent_dim)).square().mean().backward()
    return operators


def test_the_law_of_no_convolution_sees_one():
    conv = nn.Sequential(nn.Unflatten(1, (8, 2, 2)), nn.Conv2d(8, 3, 1))
    conv.latent_dim = 32
    assert trained(conv).convolutions >= {"aten::convolution", "aten::convolution_backward"}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in GENERATORS),
        *((name, {"head": "fourier", "patch": 2}) for name in ("skinny", "pyramid")),
        ("skinny", {"pixels": "l2+product"}),
        ("pyramid", {"upsample": "nearest", "mapping": "attention"}),
        ("swap", {"upsample": "shuffle"}),
    ],
    ids=str,
)
def test_no_convolution_runs(name, more):
    operators = trained(born(GENERATORS[name], **more))
    assert operators.seen & {"aten::mm", "aten::addmm"}
    assert not operators.convolutions


@every
def test_gradients_reach_every_parameter(make):
    generator = born(make, num_classes=3)
    generator(torch.randn(4, 32), torch.tensor([0, 1, 2, 0])).square().mean().backward()
    assert not [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(p.grad.isfinite().all() for p in generator.parameters())
    assert sum(isinstance(layer, ModulatedNorm) for layer in generator.modules()) >= generator.layers - 1


@every
def test_born_finite_and_varied(make):
    generator = born(make, 32).eval()
    images = generator(torch.randn(6, 32))
    assert images.isfinite().all()
    assert images.abs().max() < 1
    assert 0.05 < images.std() < 0.7
    assert images.std(0).mean() > 0.02  # the latent has a say
    assert images.std((2, 3)).mean() > 0.05  # places too


@every
def test_images_do_not_depend_on_companions(make):
    generator = born(make).eval()
    latents = torch.randn(5, 32)
    with torch.no_grad():
        torch.testing.assert_close(generator(latents)[2:3], generator(latents[2:3]), rtol=0, atol=1e-5)


@every
def test_labels(make):
    generator, latents = born(make, num_classes=3).eval(), torch.randn(2, 32)
    first, second = (generator(latents, torch.full((2,), label)) for label in (0, 2))
    assert (first - second).abs().max() > 1e-3
    with pytest.raises(ValueError, match="3 classes"):
        generator(latents)


@reversibles
def test_reversible_is_plain(make):
    generator = born(make).double()
    for name, p in generator.named_parameters():  # born, blocks hardly count and norms are deaf
        if "alpha" in name or "modulation.weight" in name:
            nn.init.normal_(p, std=0.3)
    latents, found = torch.randn(2, 32, dtype=torch.float64), []
    for reversible in (True, False):
        for stack in (part for part in generator.modules() if isinstance(part, Stack)):
            stack.sequence.reversible = reversible
        torch.manual_seed(1)
        images = generator(latents)
        found.append([images, *torch.autograd.grad(images.square().sum(), list(generator.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * max(1, b.abs().max().item()))


def test_large_pictures_fit():
    """What the shapes need at the sizes that it is meant for, trunk and mapping cut short: 256 px in training, 512 px in use."""
    sizes = {"width": 512, "depth": 1, "mapping_depth": 1, "tokens": 256, "single_pass": True}
    for resolution, trains in (256, True), (512, False):
        generator = on_meta(skinny.Generator, resolution, **sizes)
        with torch.set_grad_enabled(trains), _Meter() as meter:
            images = generator(torch.empty(1, 512, device="meta"))
            if trains:
                images.square().mean().backward()
        assert meter.most < (1.5e9 if trains else 3e9)


@pytest.mark.parametrize("kind", MAPPINGS)
def test_styles_are_truncated_and_mixed(kind):
    generator = born(GENERATORS["skinny"], mapping=kind).eval()
    latents = torch.randn(6, 32)
    with torch.no_grad():
        w = generator.mapping(latents)
        assert w.shape == (6, {"attention": 4, "connected": 1, "none": 1}[kind], 32)
        torch.testing.assert_close(generator.synthesis(w), generator(latents))
        mean = w.mean(0, keepdim=True)
        torch.testing.assert_close(truncated(w, mean, 0.0), mean.expand_as(w))
        torch.testing.assert_close(truncated(w, mean, 1.0), w)
        torch.testing.assert_close(truncated(w, mean, 0.5) - mean, (w - mean) / 2)
        for crossover, same in (0, w[3:]), (generator.layers, w[:3]):
            torch.testing.assert_close(
                generator.synthesis(mixed(w[:3], w[3:], generator.layers, crossover)), generator.synthesis(same)
            )


@every
def test_every_layer_listens_to_its_own_style(make):
    generator = born(make).eval()
    for name, p in generator.named_parameters():
        if "modulation.weight" in name:
            nn.init.normal_(p, std=0.1)
    w = mixed(*generator.mapping(torch.randn(2, 32)).detach().split(1), generator.layers, 2).requires_grad_()
    generator.synthesis(w).square().mean().backward()
    assert w.grad.abs().sum((0, 2, 3)).all()


def test_images_have_second_derivatives_in_w_by_a_plain_stack():
    generator = born(GENERATORS["skinny"], pixels="window", reversible=False).double()
    w = generator.mapping(torch.randn(1, 32, dtype=torch.float64)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(generator.synthesis(w).square().sum(), w, create_graph=True)
    slope.square().sum().backward()
    assert w.grad.isfinite().all()
    assert w.grad.any()


@pytest.mark.parametrize("tokens", [1, 4])
def test_pieces_of_the_latent_are_tokens(tokens):
    mapping = born(Mapping, 8, 6, depth=0, tokens=tokens)
    z = torch.randn(3, 8)
    pieces = (z / z.square().mean(1, keepdim=True).sqrt()).view(3, tokens, -1)
    wanted = [pieces[:, i] @ mapping.pieces[i] + mapping.tokens[i] for i in range(tokens)]
    torch.testing.assert_close(mapping(z), torch.stack(wanted, 1))


@pytest.mark.parametrize("kind", MAPPINGS)
def test_a_style_follows_the_latent_in_all_its_directions(kind):
    generator = born(pyramid.Generator, 16, latent_dim=32, style=32, width=8, depth=(1,), mapping=kind, mapping_depth=2)
    styles = generator.styles(generator.mapping(torch.randn(512, 32)))[:, 0]
    spread = torch.linalg.svdvals((styles - styles.mean(0)).double()).square()
    assert spread.sum() / 512 > 0.5 * 32  # as large as the latent
    assert spread.sum() ** 2 / spread.square().sum() > 8  # one layer for all pieces of 2 numbers left 2 directions


@pytest.mark.parametrize("name", ["skinny", "skinny, connected", "single pass", "pyramid"])
def test_at_birth_the_latent_decides_what_is_drawn(name):
    """Of what differs between the places of images, much is not the same in all, and it goes many ways."""
    generator = born(GENERATORS[name], 32).eval()
    with torch.no_grad():
        images = generator(torch.randn(256, 32))
    images = images - images.mean((2, 3), keepdim=True)
    same = images.mean(0).square().mean()
    differing = images - images.mean(0)
    assert differing.square().mean() > same * (0.5 if name == "pyramid" else 1.5)
    spread = torch.linalg.svdvals(differing.flatten(1)).square()
    assert spread.sum() ** 2 / spread.square().sum() > 20


def test_connected_layers_keep_the_size_of_a_latent():
    w = born(Mapping, 128, 128, kind="connected")(torch.randn(64, 128))
    assert 0.5 < w.square().mean().sqrt() < 2
    assert sum(isinstance(layer, nn.Linear) for layer in born(Mapping, 128, 128, kind="connected").modules()) == 8


@pytest.mark.parametrize("kind", UPSAMPLES)
def test_upsampling_is_that_of_images(kind):
    layer, h = born(Upsample, 6, 4, 3, kind=kind), torch.randn(2, 9, 6)
    nn.init.normal_(layer.linear.weight)  # a shuffle is born with equal pixels, which tell no order
    image = layer.linear(h).mT.unflatten(2, (3, 3))
    if kind == "nearest":
        wanted = nn.functional.interpolate(image, scale_factor=2)
    else:  # torch's shuffle has the factor's axes after the channels
        wanted = nn.functional.pixel_shuffle(image.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2), 2)
    torch.testing.assert_close(layer(h).mT.unflatten(2, (6, 6)), wanted)


@pytest.mark.parametrize("kind", UPSAMPLES)
def test_upsampling_is_born_repeating_pixels(kind):
    fine = born(Upsample, 16, 8, 3, kind=kind)(torch.randn(2, 9, 16)).mT.unflatten(2, (6, 6))
    torch.testing.assert_close(fine, nn.functional.interpolate(fine[..., ::2, ::2], scale_factor=2))
    assert 0.5 < fine.std() < 2


@pytest.mark.parametrize("side", [4, 32])
def test_places_are_waves_that_a_picture_can_show(side):
    found = places(12, side, torch.zeros((), dtype=torch.float64)).view(side, side, 12)
    row, column = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    lengths = [4, (4 * 2 * side) ** 0.5, 2 * side]
    wanted = [f(2 * torch.pi * axis / length) for axis in (row, column) for f in (torch.sin, torch.cos) for length in lengths]
    torch.testing.assert_close(found, torch.stack(wanted, -1))


@pytest.mark.parametrize("kind", HEADS)
def test_a_patch_comes_of_its_token_alone(kind):
    head = born(PatchHead, 8, 3, style=5, channels=2, patch=4, kind=kind)
    h, w = torch.randn(1, 9, 8), torch.randn(1, 5)
    images = head(h, w)
    assert images.shape == (1, 2, 12, 12)
    h[0, 5] = torch.randn(8)  # the second row's last
    rows, columns = (images != head(h, w)).any(1)[0].nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 8, 11)
    assert images[..., :4, :4].std() > 0.02  # and its pixels differ


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (lambda: GENERATORS["skinny"](48), "48 is not one of 16, 32"),
        (lambda: GENERATORS["pyramid"](1024), "1024 is not one of 16, 32"),
        (lambda: GENERATORS["swap"](8), "8 is not one of 16, 32"),
        (lambda: GENERATORS["pyramid"](32, patch=3), "patches of 3 .* take one of 1, 2, 4"),
        (lambda: GENERATORS["skinny"](32, patch=8), "patches of 8 .* take one of 1, 2, 4"),
        (lambda: GENERATORS["skinny"](depth=0), "depth=0"),
        (lambda: GENERATORS["pyramid"](depth=()), "1 or more blocks"),
        (lambda: GENERATORS["swap"](window=0), "window=0"),
        (lambda: GENERATORS["skinny"](mapping="atention"), "did you mean 'attention'"),
        (lambda: GENERATORS["skinny"](mapping_tokens=5), "32 numbers cannot be cut into 5"),
        (lambda: GENERATORS["pyramid"](mapping="none", style=16), "make them equal"),
        (lambda: GENERATORS["skinny"](pixels="window+hash"), "no attention of pixels called 'hash'"),
        (lambda: GENERATORS["pyramid"](upsample="bilinear"), "no upsampling called"),
        (lambda: GENERATORS["skinny"](upsample="bilinear"), "no upsampling called"),
        (lambda: GENERATORS["skinny"](head="fourrier", patch=2), "did you mean 'fourier'"),
        (lambda: GENERATORS["skinny"](head="fourier"), "patch 2 or more"),
        (lambda: mixed(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), 3, 4), "take 0 to 3"),
    ],
)
def test_mistakes_get_one_line(made, line):
    with pytest.raises(UserError, match=line) as error:
        made()
    assert "\n" not in str(error.value)
