"""Random resized crops against naive loops: where the boxes lie, what a box holds, what a middle is."""

import math

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from gander.data.crops import AREA, RATIO, centre_crop, draw_boxes, resized_crop


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def squares(n=5, side=20, channels=3, dtype=torch.float64):
    return torch.rand(n, channels, side, side, generator=seeded(), dtype=dtype) * 2 - 1


def naive(image, box, side, mirrored):
    """Output pixel by output pixel: the four pixels around its place, by their nearness; outside are those of the edge."""
    top, left, height, width = box
    size, out = image.shape[-1], torch.empty(image.shape[0], side, side, dtype=image.dtype)
    for i in range(side):
        for j in range(side):
            across = side - 1 - j if mirrored else j
            y = min(max((top + height * (i + 0.5) / side) * size - 0.5, 0), size - 1)
            x = min(max((left + width * (across + 0.5) / side) * size - 0.5, 0), size - 1)
            a, b = min(int(y), size - 2), min(int(x), size - 2)
            v, u = y - a, x - b
            rows = image[:, a : a + 2, b : b + 2]
            weights = torch.tensor([[(1 - v) * (1 - u), (1 - v) * u], [v * (1 - u), v * u]], dtype=image.dtype)
            out[:, i, j] = (rows * weights).sum((1, 2))
    return out


@pytest.mark.parametrize("side", [7, 20, 23])
def test_a_crop_is_what_a_loop_finds(side):
    images, boxes = squares(), draw_boxes(seeded(1), 5).double()
    mirrored = torch.tensor([True, False, True, False, True])
    found = resized_crop(images, boxes, side, mirrored)
    for image, box, mirror, crop in zip(images, boxes.tolist(), mirrored.tolist(), found, strict=True):
        assert torch.allclose(crop, naive(image, box, side, mirror), atol=1e-12)


def test_a_box_on_whole_pixels_is_cut_and_resized_as_torch_does_within_it():
    """Away from the box's own edge, beyond which a crop still sees its image."""
    image = squares(1, 32)
    box = torch.tensor([[8 / 32, 4 / 32, 16 / 32, 20 / 32]], dtype=torch.float64)
    cut = F.interpolate(image[:, :, 8:24, 4:24], (16, 16), mode="bilinear", align_corners=False)
    assert torch.allclose(resized_crop(image, box, 16, torch.tensor([False]))[..., 1:-1], cut[..., 1:-1], atol=1e-12)


def test_the_whole_image_at_its_own_side_is_itself_or_its_mirror_image():
    images = squares(2)
    whole = torch.tensor([[0.0, 0, 1, 1]] * 2, dtype=torch.float64)
    found = resized_crop(images, whole, 20, torch.tensor([False, True]))
    assert torch.allclose(found[0], images[0], atol=1e-12)
    assert torch.allclose(found[1], images[1].flip(-1), atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_an_images_crop_does_not_depend_on_the_others():
    images, boxes = squares(dtype=torch.float32), draw_boxes(seeded(1), 5)
    mirrored = torch.zeros(5, dtype=torch.bool)
    together = resized_crop(images, boxes, 12, mirrored)
    for i in range(5):
        one = slice(i, i + 1)
        assert torch.equal(together[one], resized_crop(images[one], boxes[one], 12, mirrored[one]))


def test_boxes_lie_inside_and_have_the_areas_and_ratios_that_are_asked():
    boxes = draw_boxes(seeded(), 20_000).double()
    top, left, height, width = boxes.unbind(1)
    for start, length in ((top, height), (left, width)):
        assert (start >= 0).all()
        assert (start + length <= 1 + 1e-6).all()
    area, ratio = height * width, width / height
    assert AREA[0] - 1e-6 <= area.min() < AREA[0] + 0.01
    assert area.max() > AREA[1] - 0.01
    assert RATIO[0] - 1e-6 <= ratio.min() < RATIO[0] + 0.01
    assert RATIO[1] - 0.01 < ratio.max() <= RATIO[1] + 1e-6


def test_boxes_follow_the_law_of_trying_again():
    """Area uniform and log ratio uniform, given that both sides fit, as a naive loop draws them; places are uniform."""
    generator = seeded(7)

    def one():
        while True:
            area, log = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            area = AREA[0] + (AREA[1] - AREA[0]) * area
            ratio = math.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * log)
            if max(area * ratio, area / ratio) <= 1:
                return area, ratio

    loop = torch.tensor([one() for _ in range(4000)])
    top, left, height, width = draw_boxes(seeded(), 4000).double().unbind(1)
    assert stats.ks_2samp(loop[:, 0], height * width).pvalue > 0.01
    assert stats.ks_2samp(loop[:, 1], width / height).pvalue > 0.01
    for start, length in ((top, height), (left, width)):
        room = length < 0.99
        assert stats.kstest((start / (1 - length))[room], "uniform").pvalue > 0.01


def test_the_middle():
    images = squares(1, 12)
    assert torch.equal(centre_crop(images, 8), images[:, :, 2:10, 2:10])
    assert torch.equal(centre_crop(images, 12), images)
