"""The auto-encoder: DCGAN's halves, and attention at any side of both."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gander.attention import ATTENTION
from gander.errors import UserError
from gander.models import dcgan
from gander.models.autoencoder import Autoencoder


def count(network):
    return sum(p.numel() for p in network.parameters())


def on_meta(*args, **options):
    with torch.device("meta"):
        return Autoencoder(*args, **options)


def small(**options):
    torch.manual_seed(0)
    return Autoencoder(16, **({"width": 8, "latent_dim": 12} | options))


def test_is_dcgan():
    """PyTorch's tutorial network has 3,576,704 and 2,765,568; the code takes the place of the logit."""
    network = on_meta(64)
    assert count(network.decoder) == 3_576_704
    assert count(network.encoder) == 2_765_568 - 512 * 16 + 512 * 16 * 100
    assert isinstance(network.decoder, dcgan.Generator)


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_at_every_resolution(resolution, channels):
    network = on_meta(resolution, channels=channels, width=8, latent_dim=7)
    x = torch.empty(2, channels, resolution, resolution, device="meta")
    assert network.encode(x).shape == (2, 7)
    assert network.decode(network.encode(x)).shape == network(x).shape == x.shape
    assert (network.resolution, network.latent_dim, network.num_classes) == (resolution, 7, 0)


def test_forward_decodes_what_is_encoded():
    network, x = small().eval(), torch.randn(3, 3, 16, 16)
    assert torch.equal(network(x), network.decode(network.encode(x)))
    assert (network(20 * x).abs() <= 1).all()


def test_births():
    weight = Autoencoder(16, width=8, latent_dim=100).encoder[-1].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("key", [key for key in [*ATTENTION, "self+feature"] if key != "none"])
@pytest.mark.parametrize("at", [(4,), (4, 8)], ids=str)
def test_any_attention_at_any_side_of_both_halves(key, at):
    """Born as the identity, and learning."""
    plain, looking = small().eval(), small(attention=key, attention_at=at).eval()
    layers = [layer for layer in looking.modules() if hasattr(layer, "gamma")]
    assert len(layers) == 2 * len(at) * len(key.split("+"))
    inside = {id(p) for layer in layers for p in layer.parameters()}
    ours = [p for p in looking.parameters() if id(p) not in inside]
    for mine, theirs in zip(ours, plain.parameters(), strict=True):
        mine.data.copy_(theirs)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(looking(x), plain(x))
    looking.train()
    F.mse_loss(looking(x), x).backward()
    assert all(layer.gamma.grad != 0 for layer in layers)


def test_learns_to_reconstruct():
    torch.manual_seed(0)
    network = small(attention="simple", attention_at=(8,), width=16)
    x = F.interpolate(torch.rand(8, 3, 2, 2), size=16) * 2 - 1
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        losses.append(F.mse_loss(network(x), x))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.2 * losses[0].item()


def test_both_memory_formats():
    network, x = small(attention="full").double(), torch.randn(2, 3, 16, 16).double()
    for layer in network.modules():
        if hasattr(layer, "gamma"):
            nn.init.ones_(layer.gamma)
    y = network(x)
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)), y)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="resolution 48"):
        Autoencoder(48)
    with pytest.raises(UserError, match="attention at 16"):
        small(attention="simple", attention_at=(16,))
    with pytest.raises(UserError, match="did you mean 'simple'"):
        small(attention="simpel")
