"""LocAtE's networks, mended and faithful: counts of the source, what is born how, what the resolution decides."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from gander import draws, recipes
from gander.attention import ATTENTION, FeatureAttention, SpatialSoftmaxGate
from gander.errors import UserError
from gander.layers import ReversibleSequence, ScalarNorm, by_step, spectral_norm
from gander.layers.blocks import CONVOLUTIONS
from gander.layers.norms import has_batch_statistics
from gander.models import locate, locate_faithful, sagan, sagan_article
from gander.recipes.experiment import Facts

MODELS = [locate, locate_faithful]
names = pytest.mark.parametrize("model", MODELS, ids=["mended", "faithful"])
RESOLUTIONS = [16, 32, 64, 128, 256, 512, 1024]


def count(network):
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def on_meta(kind, *args, **options):
    with torch.device("meta"):
        return kind(*args, **options)


def seeded(kind, *args, seed=0, **options):
    torch.manual_seed(seed)
    return kind(*args, **options)


def gates(network, kind=(FeatureAttention, SpatialSoftmaxGate)):
    return [layer for layer in network.modules() if isinstance(layer, kind)]


def test_parameter_counts_of_the_source():
    generator, discriminator = on_meta(locate_faithful.Generator, 128), on_meta(locate_faithful.Discriminator, 128)
    assert (count(generator), count(discriminator)) == (56_398_266, 46_846_560)
    linears = [layer for layer in generator.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.out_features, layer.in_features) for layer in linears] == [
        (128, 128), (1536, 256), (768, 1664), (384, 896), (384, 512), (384, 512), (192, 512), (96, 320), (96, 224), (96, 224),
    ]  # fmt: skip
    assert [layer.size[0] for layer in gates(generator, FeatureAttention)] == [16, 64]
    assert [layer.size[0] for layer in gates(discriminator, FeatureAttention)] == [32, 8]
    assert count(on_meta(locate_faithful.Generator, 1024)) > 3_300_000_000


@pytest.mark.parametrize(("resolution", "widths"), [(32, [384, 192, 96, 48]), (128, [1536, 768, 384, 192, 96, 48]),
                                                    (1024, [1536, 1536, 1536, 1536, 768, 384, 192, 96, 48])])  # fmt: skip
def test_widths_of_the_mended_form(resolution, widths):
    generator, discriminator = on_meta(locate.Generator, resolution), on_meta(locate.Discriminator, resolution)
    blocks = [block for block in generator.blocks if isinstance(block, locate.Block)]
    assert [generator.constant.shape[1], *(block.skip.after for block in blocks)] == widths
    assert generator.constant.shape[2:] == (4, 4)
    blocks = [block for block in discriminator.layers if isinstance(block, locate.Block)]
    assert [discriminator.layers[0].out_channels, *(block.skip.after for block in blocks)] == widths[-2::-1]


@names
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_at_every_resolution(model, resolution):
    generator = on_meta(model.Generator, resolution, width=8, channels=1, latent_dim=6)
    discriminator = on_meta(model.Discriminator, resolution, width=8, channels=1)
    images = generator(torch.empty(2, 6, device="meta"))
    assert images.shape == (2, 1, resolution, resolution)
    assert discriminator(images).shape == (2,)
    assert (generator.resolution, generator.latent_dim, generator.num_classes) == (resolution, 6, 0)


@names
@pytest.mark.parametrize(("resolution", "width"), [(16, 12), (32, 48), (64, 12), (128, 8), (256, 4), (512, 2)])
def test_activations_at_birth_are_of_order_one(model, resolution, width):
    generator = spectral_norm(seeded(model.Generator, resolution, width=width)).eval()
    discriminator = spectral_norm(model.Discriminator(resolution, width=width)).eval()
    images = generator(torch.randn(4, 128))
    assert 0.05 < images.std() < 0.9
    assert images.std(0).mean() > 0.02  # the latent has a say
    reals = nn.functional.interpolate(torch.randn(4, 3, 8, 8), size=images.shape[2:], mode="bilinear")
    logits = torch.cat([discriminator(images), discriminator(reals)])
    assert logits.abs().max() < 3
    assert logits.std() > 1e-4
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for n in (generator, discriminator) for p in n.parameters())


@pytest.mark.parametrize("residual", ["add", "mul"])
def test_a_mended_block_is_its_formula(residual):
    block = seeded(locate.Block, 6, 4, "up", residual=residual).double()
    x, scale = torch.randn(2, 6, 4, 4, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    assert block.gamma == 1
    block.gamma.data.fill_(0.7)
    branch = 0.7 * block.conv(block.norm(x, scale))
    torch.testing.assert_close(block(x, scale), block.skip(x) + branch if residual == "add" else block.skip(x) * (1 + branch))


@pytest.mark.parametrize(
    "block",
    [
        lambda: locate.Block(4, 3, "down", residual="mul"),
        lambda: locate_faithful.Block(4, 2, "up", least=3),
        lambda: locate_faithful.Block(2, 4, "down", least=0, normed=False),
        lambda: locate_faithful.Gate(4, FeatureAttention(4, size=(2, 2), rescale=False)),
    ],
    ids=["mended", "faithful up", "faithful stem", "faithful gate"],
)
def test_multiplied_residuals_have_the_gradients_of_their_formula(block):
    """The source's own backward gave g the gradient of another function."""
    layer = seeded(block).double()
    for name, p in layer.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(p, 1.3)
    channels = 2 if getattr(layer, "norm", None) is None else 4
    x = torch.randn(2, channels, 2, 2, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda *inputs: layer(inputs[0]), [x, *layer.parameters()], fast_mode=True)


def test_what_the_faithful_form_is_born_with():
    found = {kind: set() for kind in ("block", "stem", "gate")}
    for seed in range(12):
        discriminator = seeded(locate_faithful.Discriminator, 32, width=6, seed=seed)
        stem, *blocks = [layer for layer in discriminator.layers if isinstance(layer, locate_faithful.Block)]
        found["stem"].add(stem.gamma.item())
        found["block"] |= {block.gamma.item() for block in blocks}
        found["gate"] |= {gate.gamma.item() for gate in gates(discriminator)}
    assert found == {"block": {3.0, 5.0}, "stem": {0.0, 2.0}, "gate": {0.0, 2.0}}
    twin = seeded(locate_faithful.Discriminator, 32, width=6, seed=11)
    torch.testing.assert_close(twin.state_dict(), discriminator.state_dict(), rtol=0, atol=0)
    norms = [layer for layer in discriminator.modules() if isinstance(layer, ScalarNorm)]
    assert all(norm.weight.min() >= 0.998 and norm.weight.max() <= 1.002 and not norm.bias.any() for norm in norms)
    assert not any(layer.rescale for layer in gates(discriminator, SpatialSoftmaxGate))


@names
def test_the_constant_is_in_the_state(model):
    first, second = seeded(model.Generator, 16, width=4, seed=0).eval(), seeded(model.Generator, 16, width=4, seed=1).eval()
    latent = torch.randn(3, 128)
    assert not torch.equal(first(latent), second(latent))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(latent), second(latent))
    assert ("constant" in dict(first.named_parameters())) == (model is locate)


def test_who_depends_on_the_batch():
    assert not has_batch_statistics(on_meta(locate.Discriminator, 32, width=4))
    assert has_batch_statistics(on_meta(locate_faithful.Discriminator, 32, width=4))
    for norm in ("scalar", "batch", "batch_last"):
        assert has_batch_statistics(on_meta(locate.Discriminator, 32, width=4, norm=norm))


@pytest.mark.parametrize(
    "options",
    [*({"conv": conv} for conv in CONVOLUTIONS), *({"norm": norm} for norm in locate.NORMS), {"residual": "mul"}, {"depth": 3}],
    ids=str,
)
def test_every_option_reaches_every_parameter(options):
    generator = seeded(locate.Generator, 16, width=4, attention_at=(8,), **options)
    discriminator = locate.Discriminator(16, width=4, attention_at=(8,), **options)
    for network in (generator, discriminator):
        for name, p in network.named_parameters():
            if name.endswith("gamma"):
                nn.init.constant_(p, 0.3)
    discriminator(generator(torch.randn(4, 128))).square().sum().backward()
    for network in (generator, discriminator):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def reversed_and_plain(**options):
    """Two generators of the same weights, of which the second keeps what autograd keeps."""
    first = seeded(locate.Generator, 16, **{"width": 4, "depth": 3, "attention_at": (8,), "reversible": True, **options})
    for name, p in first.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(p, 0.3)
    second = copy.deepcopy(first)
    for stack in gates(second, ReversibleSequence):
        stack.reversible = False
    return first, second


@pytest.mark.parametrize(
    ("normed", "options"),
    [
        (None, {}),
        ("foreign", {}),
        ("by step", {}),
        ("by step", {"norm": "scalar"}),
        ("by step", {"norm": "none"}),
        ("by step", {"conv": "inception3c", "depth": 2}),
    ],
    ids=str,
)
def test_reversible_gradients_are_autograds(normed, options):
    results = []
    for generator in reversed_and_plain(**options):
        generator = generator.double()
        if normed:
            torch.manual_seed(1)
            generator = spectral_norm(generator)
        if normed == "by step":
            by_step(generator)
        before = {name: b.clone() for name, b in generator.named_buffers()}
        latent = torch.randn(3, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
        images = generator(latent)
        forward = {name: b.clone() for name, b in generator.named_buffers()}
        (images * torch.linspace(-1, 2, images.numel(), dtype=torch.float64).view_as(images)).sum().backward()
        assert all(torch.equal(b, forward[name]) for name, b in generator.named_buffers())  # backward iterates nothing
        assert all(torch.equal(b, before[name]) for name, b in forward.items()) or normed == "foreign"
        results.append([images, latent.grad, forward, *(p.grad for p in generator.parameters())])
        assert all(p.grad is not None and p.grad.any() for p in generator.parameters())
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


def test_a_reversible_block_takes_its_half_of_its_scale():
    """y₁ = x₁ + γ f(norm(x₂, s₁)),   y₂ = x₂ + γ f(norm(y₁, s₂)):   x₁, x₂ and s₁, s₂ halves of channels."""
    stack = gates(reversed_and_plain()[0], ReversibleSequence)[0].double()
    x, *scales = (torch.randn(2, 8, *side, dtype=torch.float64) for side in ((4, 4), (), ()))
    first, second = x.chunk(2, 1)
    for scale, (f, g) in zip(scales, stack.blocks, strict=True):
        first = first + 0.3 * f.block.conv(f.block.norm(second, scale[:, :4]))
        second = second + 0.3 * g.block.conv(g.block.norm(first, scale[:, 4:]))
    torch.testing.assert_close(stack(x, *scales), torch.cat([first, second], 1))


def test_what_a_reversible_generator_keeps_does_not_grow_with_depth():
    def kept(depth, reversible):
        """Numbers of (b, c, h, w) that autograd keeps for backward."""
        seen = {}
        generator = on_meta(locate.Generator, 32, width=4, depth=depth, reversible=reversible)

        def keep(t):
            return seen.setdefault(t.untyped_storage()._cdata, t) if t.ndim == 4 and len(t) == 6 else t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            images = generator(torch.empty(6, 128, device="meta"))
        assert images.shape == (6, 3, 32, 32)
        return sum(t.untyped_storage().nbytes() for t in seen.values())

    assert kept(2, True) == kept(7, True) <= kept(1, False)
    assert kept(4, False) > 2 * kept(1, False)


def test_without_depth_there_is_nothing_to_reverse():
    plain, other = seeded(locate.Generator, 16, width=4), seeded(locate.Generator, 16, width=4, reversible=True)
    torch.testing.assert_close(plain.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert not gates(seeded(locate.Generator, 16, width=4, depth=3), ReversibleSequence)
    stacks = gates(seeded(locate.Generator, 32, width=4, depth=3, reversible=True), ReversibleSequence)
    assert [len(stack.blocks) for stack in stacks] == [2, 2, 2]
    assert [count(stack) for stack in stacks] == [2 * 2 * (10 * (c // 2) ** 2 + c // 2 + 1) for c in (16, 8, 4)]


def test_a_reversible_generator_learns_beside_a_penalty():
    """The penalty's second derivative is the discriminator's."""
    experiment = recipes.load("locate")(
        Facts(100, 0, 3), resolution=16, width=4, depth=3, reversible=True, r1=1.0, zcr=5.0, batch=4, accumulate=2
    )
    images = [(torch.randn(2, 3, 16, 16).clamp(-1, 1), torch.zeros(2, dtype=torch.int64)) for _ in range(2)]
    stack = gates(experiment.networks["generator"], ReversibleSequence)[0]
    for step in range(2):
        before = [p.detach().clone() for p in stack.parameters()]
        log = experiment.learner.step(step, [images], draws.at_step(0, step))
        assert all(value.isfinite() for value in log.values())
    assert not any(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))
    assert experiment.learner.samples(0, 2).isfinite().all()


@names
@pytest.mark.parametrize("key", [*ATTENTION, "self+feature"])
def test_any_attention_goes_in(model, key):
    at = {} if key == "none" else {"attention_at": (8,)}
    with torch.device("meta"):
        generator = model.Generator(16, width=8, attention=key, **at)
        discriminator = model.Discriminator(32, width=8, attention=key, **at)
        assert discriminator(torch.empty(2, 3, 32, 32)).shape == (2,)
        assert generator(torch.empty(2, 128)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("model", [sagan, sagan_article, *MODELS])
def test_self_and_feature_attention_stand_one_after_the_other(model):
    for kind in (model.Generator, model.Discriminator):
        network = kind(32, width=8, attention="self+feature", attention_at=(16,))
        assert [layer.size for layer in gates(network)] == [(16, 16)]
        inputs = torch.randn(2, 128) if kind is model.Generator else torch.randn(2, 3, 32, 32)
        assert network(inputs).isfinite().all()


def test_attention_by_default_is_at_every_second_side():
    found = {r: [layer.size[0] for layer in gates(on_meta(locate.Generator, r, width=2), FeatureAttention)] for r in RESOLUTIONS}
    assert found == {16: [8], 32: [16], 64: [16], 128: [16, 64], 256: [16, 64], 512: [16, 64, 256], 1024: [16, 64, 256]}


@names
def test_user_errors(model):
    with pytest.raises(UserError, match=r"resolution 48 cannot be reached from 4 by doubling; take one of 16, 32"):
        model.Generator(48)
    with pytest.raises(UserError, match="attention at 64"):
        model.Discriminator(32, attention="self", attention_at=(64,))
    with pytest.raises(UserError, match="did you mean 'feature'"):
        model.Generator(32, attention="featur")
    with pytest.raises(UserError, match="attention at 64"):
        model.Generator(32, attention="none", attention_at=(64,))


def test_user_errors_of_the_mended_form():
    for kind in (locate.Generator, locate.Discriminator):
        with pytest.raises(UserError, match="width 7 is odd, and channels are cut in halves; take 8, or 48"):
            kind(32, width=7)
        with pytest.raises(UserError, match="did you mean 'bottleneck'"):
            kind(32, conv="botleneck")
        with pytest.raises(UserError, match="did you mean 'sample'"):
            kind(32, norm="samples")
        with pytest.raises(UserError, match="no residual called 'plus'"):
            kind(32, residual="plus")
    with pytest.raises(UserError, match="only be undone where they add, and residual is mul; take residual add"):
        locate.Generator(32, residual="mul", reversible=True)
    for norm in ("batch", "batch_last"):
        with pytest.raises(UserError, match=f"norm {norm} would count each batch twice; take norm sample"):
            locate.Generator(32, norm=norm, reversible=True)
