"""Random resized crops for classifiers: from squares somewhat larger than the network's images, in batches, on their device.

    boxes = draw_boxes(draws("crop"), batch)                 # on the CPU, for the global batch; cut as the batch is
    images = resized_crop(squares, boxes, 128, coins < 0.5)  # some of them mirrored

Szegedy et al. 2014, as torchvision draws it and SimpleSelfAttention's experiments took it: 35 to 100 % of the area, sides in a
ratio from 3:4 to 4:3. What differs: these are crops of a prepared square (resolution + 32), the middle of the photograph, where the
source crops the whole rectangle; a box lies anywhere, not on whole pixels; and nothing is smoothed before a box is reduced (by
(resolution + 32) / resolution at most), where the source's library widens its bilinear filter by as much. That filter, as two
products of matrices, took two to three times as long on a CPU.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

MARGIN = 32  # of a prepared square over the images that are cut from it
AREA, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)
TRIES = 10

Images = Float[Tensor, "b c h w"]


def draw_boxes(generator: torch.Generator, n: int) -> Float[Tensor, "n 4"]:
    """(top, left, height, width) of n boxes, in sides of the square.

    The area is uniform, the logarithm of width / height too; of ten tries the first that fits is taken, else the whole square.
    """
    u = torch.rand(n, 2 * TRIES + 2, generator=generator)
    area = AREA[0] + (AREA[1] - AREA[0]) * u[:, :TRIES]
    ratio = torch.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * u[:, TRIES : 2 * TRIES])
    height, width = (area / ratio).sqrt(), (area * ratio).sqrt()
    fits = (height <= 1) & (width <= 1)
    first = (fits * torch.arange(TRIES, 0, -1)).argmax(1, keepdim=True)
    sides = torch.where(fits.any(1, keepdim=True), torch.cat([height.gather(1, first), width.gather(1, first)], 1), 1.0)
    return torch.cat([u[:, -2:] * (1 - sides), sides], 1)


def resized_crop(
    images: Images, boxes: Float[Tensor, "b 4"], side: int, mirrored: Bool[Tensor, " b"]
) -> Float[Tensor, "b c {side} {side}"]:
    """Each image's box as `side`×`side`, bilinear, mirrored left to right where that is true; channels_last. No host sync.

    Output pixel i is the image at top + height · (i + ½) / side: the whole image at its own side is itself. At the edge of the
    image its last pixels go on.
    """
    top, left, height, width = boxes.to(images.dtype)[:, :, None].unbind(1)
    at = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5) / side
    y = top + height * at
    x = left + width * torch.where(mirrored[:, None], 1 - at, at)
    shape = (len(images), side, side)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], -1)
    crops = F.grid_sample(images, 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False)
    return crops.contiguous(memory_format=torch.channels_last)


def centre_crop(images: Images, side: int) -> Float[Tensor, "b c {side} {side}"]:
    """The middle `side`×`side` pixels, as they are."""
    top, left = ((length - side) // 2 for length in images.shape[2:])
    return images[:, :, top : top + side, left : left + side]
