"""Augmentations do what they say, to each image alone, and let the gradient through."""

import numpy as np
import pytest
import torch

from gander.data.augment import AUGMENTATIONS, Augment, horizontal_flip
from gander.draws import generator
from gander.errors import UserError

ALL = Augment("color,translation,cutout")


def images(b=8, c=3, h=16, w=24, dtype=torch.float32):
    return torch.rand(b, c, h, w, generator=generator("images"), dtype=dtype) * 1.8 - 0.9


def numbers(augment, b=8):
    return augment.draw(generator("augment"), b)


def original(x, numbers):
    """`DiffAugment_pytorch.py` of Zhao et al. line by line, with its draws replaced by `numbers`."""
    u = numbers.unbind(1)
    x = x + (u[0].view(-1, 1, 1, 1) - 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * (u[1].view(-1, 1, 1, 1) * 2) + mean
    mean = x.mean(dim=[1, 2, 3], keepdim=True)
    x = (x - mean) * (u[2].view(-1, 1, 1, 1) + 0.5) + mean

    b, _, h, w = x.shape
    shift_x, shift_y = int(h * 0.125 + 0.5), int(w * 0.125 + 0.5)
    translation_x = -((u[3] * (2 * shift_x + 1)).long() - shift_x).view(b, 1, 1)  # its sign is that of where to read
    translation_y = -((u[4] * (2 * shift_y + 1)).long() - shift_y).view(b, 1, 1)
    grid_batch, grid_x, grid_y = torch.meshgrid(torch.arange(b), torch.arange(h), torch.arange(w), indexing="ij")
    grid_x = torch.clamp(grid_x + translation_x + 1, 0, h + 1)
    grid_y = torch.clamp(grid_y + translation_y + 1, 0, w + 1)
    padded = torch.nn.functional.pad(x, [1, 1, 1, 1, 0, 0, 0, 0])
    x = padded.permute(0, 2, 3, 1).contiguous()[grid_batch, grid_x, grid_y].permute(0, 3, 1, 2)

    size = int(h * 0.5 + 0.5), int(w * 0.5 + 0.5)
    offset_x = (u[5] * (h + (1 - size[0] % 2))).long().view(b, 1, 1)
    offset_y = (u[6] * (w + (1 - size[1] % 2))).long().view(b, 1, 1)
    grid_batch, grid_x, grid_y = torch.meshgrid(torch.arange(b), torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    grid_x = torch.clamp(grid_x + offset_x - size[0] // 2, min=0, max=h - 1)
    grid_y = torch.clamp(grid_y + offset_y - size[1] // 2, min=0, max=w - 1)
    mask = torch.ones(b, h, w, dtype=x.dtype)
    mask[grid_batch, grid_x, grid_y] = 0
    return x * mask.unsqueeze(1)


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 13, 22), (1, 32, 20), (3, 6, 5)])
def test_equals_the_original_code(shape):
    x, u = images(200, *shape), numbers(ALL, 200)
    u[0], u[1] = 0, 1 - 2**-24  # the ends of the range
    torch.testing.assert_close(ALL.apply(x, u), original(x, u))


@pytest.mark.parametrize("policy", [*AUGMENTATIONS, "color,translation,cutout"])
def test_each_image_is_on_its_own(policy):
    augment = Augment(policy)
    x, u = images(), numbers(augment)
    whole = augment.apply(x, u)
    assert torch.equal(augment.apply(x[4:], u[4:]), whole[4:])
    assert torch.equal(augment.apply(x, u), whole)
    assert whole.shape == x.shape
    assert not torch.equal(whole, x)


@pytest.mark.parametrize("policy", [*AUGMENTATIONS, "color,translation,cutout"])
def test_gradients_pass_twice(policy):
    augment = Augment(policy)
    x, u = images(2, 2, 4, 5, torch.float64).requires_grad_(), numbers(augment, 2)
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, u), x)
    assert torch.autograd.gradgradcheck(lambda x: augment.apply(x, u).square(), x)


def test_translation_moves_whole_pixels():
    augment = Augment("translation")
    x, u = images(300), numbers(augment, 300)
    moved = augment.apply(x, u)
    seen = set()
    for before, after, (down, right) in zip(x, moved, (u * torch.tensor([5, 7])).long() - torch.tensor([2, 3]), strict=True):
        down, right = int(down), int(right)
        seen.add((down, right))
        rolled = before.roll((down, right), (1, 2))
        h, w = before.shape[1:]
        inside = slice(max(down, 0), h + min(down, 0)), slice(max(right, 0), w + min(right, 0))
        expected = torch.zeros_like(before)
        expected[:, inside[0], inside[1]] = rolled[:, inside[0], inside[1]]
        assert torch.equal(after, expected)
    assert len(seen) == 5 * 7


@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 9, 5), (2, 3, 2)])
def test_shift_is_a_crop_of_the_image_padded_by_reflection(shape):
    """(2, 3, 2): too small to be moved."""
    augment, (_, h, w) = Augment("shift"), shape
    x, u = images(300, *shape), numbers(augment, 300)
    u[0], u[1] = 0, 1 - 2**-24
    p, q = round(h / 8), round(w / 8)
    moved, seen = augment.apply(x, u), set()
    for before, after, (down, right) in zip(x, moved, (u * torch.tensor([2 * p + 1, 2 * q + 1])).long().tolist(), strict=True):
        seen.add((down, right))
        padded = np.pad(before.numpy(), ((0, 0), (p, p), (q, q)), mode="reflect")
        expected = padded[:, 2 * p - down : 2 * p - down + h, 2 * q - right : 2 * q - right + w]
        assert np.array_equal(after.numpy(), expected)
    assert len(seen) == (2 * p + 1) * (2 * q + 1)


def test_flip_mirrors_half():
    augment = Augment("flip")
    x, u = images(100), numbers(augment, 100)
    mirrored = (augment.apply(x, u) == x.flip(3)).all(-1).all(-1).all(-1)
    assert torch.equal(mirrored, u[:, 0] < 0.5)
    assert 30 < mirrored.sum() < 70


def test_cutout_leaves_a_quarter_of_zeros_at_most():
    augment = Augment("cutout")
    x = torch.ones(400, 3, 16, 24)
    u = numbers(augment, 400)
    u[0] = 0
    cut = augment.apply(x, u)
    assert set(cut.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(cut[:, :1].expand_as(cut), cut)
    share = (cut == 0).float().mean((1, 2, 3))
    assert share.max() == 0.25
    assert share.min() == 0.25 / 4  # centred on a corner


def test_color_in_closed_form():
    x = images()
    identity = torch.tensor([0.5, 0.5, 0.5]).expand(8, 3)
    augment = Augment("color")
    torch.testing.assert_close(augment.apply(x, identity), x)
    torch.testing.assert_close(augment.apply(x, torch.tensor([1.0, 0.5, 0.5]).expand(8, 3)), x + 0.5)
    grey = augment.apply(x, torch.tensor([0.5, 0.0, 0.5]).expand(8, 3))
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))
    flat = augment.apply(x, torch.tensor([0.5, 0.5, 0.0]).expand(8, 3))
    torch.testing.assert_close(flat.std((1, 2, 3)), x.std((1, 2, 3)) / 2)
    torch.testing.assert_close(flat.mean((1, 2, 3)), x.mean((1, 2, 3)))
    one = images(c=1)
    torch.testing.assert_close(augment.apply(one, torch.tensor([0.5, 0.9, 0.5]).expand(8, 3)), one)


def test_the_draw_depends_on_its_generator_alone():
    assert torch.equal(numbers(ALL), numbers(ALL))
    assert numbers(ALL).shape == (8, ALL.width) == (8, 7)
    assert numbers(ALL).dtype == torch.float32
    assert not torch.equal(numbers(ALL), ALL.draw(generator("other"), 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_keeps_the_type(dtype):
    x, u = images(), numbers(ALL)
    low = ALL.apply(x.to(dtype), u)
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), ALL.apply(x, u), rtol=0, atol=0.04)


def test_takes_channels_last():
    x = images().to(memory_format=torch.channels_last)
    torch.testing.assert_close(ALL.apply(x, numbers(ALL)), ALL.apply(x.contiguous(), numbers(ALL)))


def test_the_order_is_that_of_the_policy():
    turned = Augment("cutout, translation,color")
    assert turned.policy == "cutout,translation,color"
    assert turned.operations == ALL.operations[::-1]


@pytest.mark.parametrize("policy", ["", "none"])
def test_no_policy_does_nothing(policy):
    augment = Augment(policy)
    x = images()
    assert augment.draw(generator("augment"), 8).shape == (8, 0)
    assert torch.equal(augment.apply(x, numbers(augment)), x)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"no augmentation called 'colour'; did you mean 'color'\?"):
        Augment("colour,cutout")


def test_flip_mirrors_where_the_coin_says():
    x = images()
    coin = torch.tensor([True, False] * 4)
    flipped = horizontal_flip(x, coin)
    assert torch.equal(flipped[1::2], x[1::2])
    assert torch.equal(flipped[::2, :, :, 0], x[::2, :, :, -1])
    assert torch.equal(horizontal_flip(flipped, coin), x)
    assert horizontal_flip((x * 100).to(torch.uint8), coin).dtype == torch.uint8
