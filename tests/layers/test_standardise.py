"""Images in [-1, 1] as ImageNet's classifiers take them."""

import torch

from gander.layers import Standardise


def test_each_channel_is_standardised_as_the_source_does():
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert torch.allclose(Standardise().double()(images * 2 - 1), expected, atol=1e-6)


def test_one_channel_has_the_means():
    images = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Standardise(1)(images * 2 - 1), (images - 0.449) / 0.226, atol=1e-5)


def test_it_holds_nothing_that_is_learned_or_saved():
    assert not list(Standardise().parameters())
    assert not Standardise().state_dict()
