"""Networks: the sources' parameter counts, shapes at every resolution, and what they may not do."""

import pytest
import torch
from torch import nn

from gander.attention import ATTENTION
from gander.errors import UserError
from gander.layers import spectral_norm
from gander.layers.norms import has_batch_statistics
from gander.models import dcgan, sagan, sagan_article

MODELS = [dcgan, sagan_article, sagan]
names = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__.rsplit(".")[-1])


def count(network):
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def on_meta(kind, *args, **options):
    with torch.device("meta"):
        return kind(*args, **options)


def test_parameter_counts_of_the_official_sagan():
    assert count(on_meta(sagan.Generator, 128, num_classes=1000)) == 42_078_852
    assert count(on_meta(sagan.Discriminator, 128, num_classes=1000)) == 39_463_618
    assert count(on_meta(sagan.Generator, 128, num_classes=1000, attention="none")) == 41_996_931
    assert count(on_meta(sagan.Discriminator, 128, num_classes=1000, attention="none")) == 39_443_137
    conditional, plain = on_meta(sagan.Generator, 128, num_classes=1000), on_meta(sagan.Generator, 128)
    assert count(conditional) - count(plain) == 9_856_000 - 2 * 4928  # the tables, against one gamma and beta each


def test_parameter_counts_of_the_article():
    assert count(on_meta(sagan_article.Generator, 128)) == 3_856_372
    assert count(on_meta(sagan_article.Discriminator, 128)) == 2_801_202


def test_parameter_counts_of_dcgan():
    """The widely known 64-pixel DCGAN of PyTorch's tutorial has 3,576,704 and 2,765,568."""
    assert count(on_meta(dcgan.Generator, 64)) == 3_576_704
    assert count(on_meta(dcgan.Discriminator, 64)) == 2_765_568


@names
@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_at_every_resolution(model, resolution, channels):
    generator = on_meta(model.Generator, resolution, channels=channels, width=8)
    discriminator = on_meta(model.Discriminator, resolution, channels=channels, width=8)
    images = generator(torch.empty(2, generator.latent_dim, device="meta"))
    assert images.shape == (2, channels, resolution, resolution)
    assert generator.resolution == resolution
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize(
    ("resolution", "widths"),
    [(16, [512, 256, 128]), (128, [512, 256, 128, 64, 32, 16]), (256, [512, 256, 128, 64, 32, 16, 16])],
)
def test_widths_of_the_article(resolution, widths):
    generator = on_meta(sagan_article.Generator, resolution)
    transposed = [layer.in_channels for layer in generator.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert transposed == widths[:-1]
    discriminator = on_meta(sagan_article.Discriminator, resolution, attention="none")
    assert [layer.out_channels for layer in discriminator.modules() if isinstance(layer, nn.Conv2d)] == widths[-2::-1]


def test_widths_of_the_official_sagan_are_capped():
    generator = on_meta(sagan.Generator, 256)
    assert [block.conv1.out_channels for block in generator.blocks if isinstance(block, sagan.UpBlock)] == [
        1024, 1024, 512, 256, 128, 64,
    ]  # fmt: skip
    assert on_meta(sagan.Generator, 256).linear.out_features == 16 * 1024


@names
def test_images_lie_between_minus_one_and_one(model):
    generator = model.Generator(16, width=8).eval()
    images = generator(10 * torch.randn(4, generator.latent_dim))
    assert images.abs().max() <= 1


@names
@pytest.mark.parametrize("key", [key for key in ATTENTION if key != "none"])
def test_attention_is_the_identity_at_birth(model, key):
    """gamma = 0: the network with attention is the network without it, in every activation (the article's own claim)."""
    plain = model.Discriminator(16, width=8, attention="none").eval()
    looking = model.Discriminator(16, width=8, attention=key, attention_at=(8,)).eval()
    layer = next(layer for layer in looking.modules() if hasattr(layer, "gamma"))
    inside = {id(tensor) for tensor in layer.parameters()}
    assert inside
    ours = [tensor for tensor in looking.parameters() if id(tensor) not in inside]
    for mine, theirs in zip(ours, plain.parameters(), strict=True):
        mine.data.copy_(theirs)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(looking(images), plain(images))


@names
def test_attention_goes_where_it_is_asked_in_both_networks(model):
    for kind in (model.Generator, model.Discriminator):
        default = on_meta(kind, 32, width=8, attention="self")
        assert sum(hasattr(layer, "gamma") for layer in default.modules()) == 1
        two = on_meta(kind, 32, width=8, attention="self+residual", attention_at=(8, 16))
        assert sum(hasattr(layer, "gamma") for layer in two.modules()) == 4


@names
def test_user_errors(model):
    with pytest.raises(UserError, match="power of two"):
        model.Generator(48)
    with pytest.raises(UserError, match="attention at 64"):
        model.Discriminator(32, attention="self", attention_at=(64,))
    with pytest.raises(UserError, match="did you mean 'self'"):
        model.Generator(32, attention="sell")
    with pytest.raises(UserError, match="attention at 64"):
        model.Generator(32, attention="none", attention_at=(64,))


def test_dcgan_has_no_feature_map_at_its_resolution():
    """Its last convolution makes the image: attention there would be nowhere, without a word."""
    with pytest.raises(UserError, match="attention at 64"):
        dcgan.Generator(64, attention="self", attention_at=(64,))


def test_projection_is_the_formula():
    """logit = w·h + b + <embedding[label], h>."""
    torch.manual_seed(0)
    discriminator = sagan.Discriminator(16, num_classes=3, width=4, attention="none").double()
    images, labels = torch.randn(5, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    h = discriminator.layers(images).sum((2, 3))
    w, b, table = discriminator.linear.weight[0], discriminator.linear.bias, discriminator.embedding.weight
    naive = torch.stack([h[i] @ w + b[0] + table[labels[i]] @ h[i] for i in range(5)])
    torch.testing.assert_close(discriminator(images, labels), naive)


def test_labels_matter_and_are_needed():
    generator = sagan.Generator(16, num_classes=3, width=4).eval()
    latent = torch.randn(1, 128).expand(2, -1)
    with torch.no_grad():  # the tables are born equal
        for table in [p for p in generator.blocks[0].norm1.parameters() if p.shape[0] == 3]:
            table.normal_()
    first, second = generator(latent, torch.tensor([0, 2]))
    assert not torch.allclose(first, second)
    with pytest.raises(ValueError, match="3 classes"):
        generator(latent)
    with pytest.raises(ValueError, match="3 classes"):
        sagan.Discriminator(16, num_classes=3, width=4)(torch.zeros(1, 3, 16, 16))


def test_blocks_are_their_formulas():
    """Upsampling after, pooling before the 1×1 convolution, resampling folded or not: exact."""
    torch.manual_seed(0)

    def convolve(layer, x):
        return nn.functional.conv2d(x, layer.weight, layer.bias, padding=layer.padding)

    up = sagan.UpBlock(6, 4, 0, "global").double().eval()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    double = nn.Upsample(scale_factor=2)
    y = up.conv2(up.norm2(convolve(up.conv1, double(up.norm1(x).relu()))).relu()) + up.shortcut(double(x))
    down = sagan.DownBlock(6, 4).double()
    z = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    pool = nn.AvgPool2d(2)
    w = pool(convolve(down.conv2, down.conv1(z.relu()).relu())) + pool(down.shortcut(z))
    for folded in (False, True):
        up.conv1.folded = down.conv2.folded = folded
        torch.testing.assert_close(up(x), y)
        torch.testing.assert_close(down(z), w)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_folded_network_is_the_plain_one(classes):
    """Forward and every gradient, through both networks, spectral norm and batch statistics; and the state that is saved."""
    found = []
    for folded in (False, True):
        torch.manual_seed(0)
        generator = sagan.Generator(32, num_classes=classes, width=4, folded=folded).double()
        discriminator = sagan.Discriminator(32, num_classes=classes, width=4, folded=folded).double()
        layers = [layer for network in (generator, discriminator) for layer in network.modules()]
        assert sum(getattr(layer, "folded", False) for layer in layers) == (6 if folded else 0)
        for layer in layers:
            if hasattr(layer, "gamma"):
                nn.init.ones_(layer.gamma)
        networks = nn.ModuleDict({"generator": spectral_norm(generator), "discriminator": spectral_norm(discriminator)})
        labels = torch.arange(4) % max(1, classes)
        latents = torch.randn(4, 128, dtype=torch.float64)
        images = generator(latents, labels)
        logits = discriminator(images, labels)
        logits.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in networks.named_parameters()}
        found.append({"images": images, "logits": logits, **gradients, **networks.state_dict()})
    assert found[0].keys() == found[1].keys()
    for name, plain in found[0].items():
        torch.testing.assert_close(found[1][name], plain, rtol=1e-9, atol=1e-9 * plain.abs().max().clamp_min(1).item(), msg=name)


def test_only_dcgan_judges_by_batch_statistics():
    assert has_batch_statistics(on_meta(dcgan.Discriminator, 32))
    assert not has_batch_statistics(on_meta(sagan.Discriminator, 32))
    assert not has_batch_statistics(on_meta(sagan_article.Discriminator, 32))
