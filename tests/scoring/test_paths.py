"""The path length of a generator that has w: its closed form, which latents it takes, and that it is in float64."""

import pytest
import torch
from torch import nn

from gander.metrics.features import Features, features
from gander.models.all_attention import skinny
from gander.models.dcgan import Generator
from gander.scoring import paths
from gander.train.samples import latents_of


class Linear(nn.Module):
    """images = A w, w = M z + e of the label."""

    latent_dim, num_classes = 6, 3

    def __init__(self):
        super().__init__()
        self.m, self.a, self.e = nn.Linear(6, 5), nn.Linear(5, 3 * 4 * 4), nn.Embedding(3, 5)

    def mapping(self, latent, labels):
        return (self.m(latent) + self.e(labels))[:, None]

    def synthesis(self, w):
        return self.a(w[:, 0]).view(-1, 3, 4, 4)


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Linear(48, 7)

    def forward(self, images):
        return self.b(images.flatten(1) / 127.5), None


@torch.no_grad()
def test_of_a_linear_generator_it_is_the_closed_form():
    torch.manual_seed(0)
    generator, flat = Linear(), Flat()
    before = [p.clone() for p in (*generator.parameters(), *flat.parameters())]
    (score,) = paths.length(generator, Features("flat", "", 7, "none", flat), 40, 5)
    first, _ = latents_of(generator, 5, range(40))
    second, _ = latents_of(generator, 5, range(40, 80))
    map_ = flat.b.weight.double() @ generator.a.weight.double() @ generator.m.weight.double()
    lengths = ((second - first).double() @ map_.T).square().sum(1)  # the label is the same at both ends
    assert score.value == pytest.approx(float(lengths.mean()), rel=1e-6)
    assert score.error == pytest.approx(float(lengths.std() / 40**0.5), rel=1e-6)
    assert (score.name, score.better) == ("PPL[flat]", "lower")
    assert all(torch.equal(a, b) for a, b in zip(before, (*generator.parameters(), *flat.parameters()), strict=True))


@pytest.mark.parametrize("mapping", ["attention", "connected"])
def test_it_is_the_slope_of_the_network(mapping):
    """With smaller steps the same, but for what is not straight: to a hundredth."""
    torch.manual_seed(0)
    more = {"latent_dim": 16, "style": 16, "mapping_tokens": 4, "mapping_depth": 2, "pixels": "window"}
    generator = skinny.Generator(16, width=48, depth=1, tokens=4, **more)
    for name, p in generator.named_parameters():
        if "modulation.weight" in name or name.endswith("alpha"):
            nn.init.normal_(p, std=0.2)
    found = paths.length(generator, features("random-conv"), 6, 0)[0].value
    assert found > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "EPSILON", 1e-6)
        assert paths.length(generator, features("random-conv"), 6, 0)[0].value == pytest.approx(found, rel=1e-2)


def test_nothing_where_there_is_no_w():
    assert paths.length(Generator(16, width=4), features("random-conv"), 6, 0) == []
