"""A small fixed convolutional network that nobody trained: a smoke alarm that needs nothing, not a measure of quality.

Means and standard deviations of random filters' answers at four scales tell noise, blur, wrong colours and missing kinds of
images from the real ones. They know nothing of objects: two sets of equal colours and texture are one to it.
"""

import hashlib

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from gander.draws import key_seed, noise

SCALES, WIDTH = 4, 32
VERSION = 1  # of what this file makes of an image: other weights, another hash


class RandomConv(nn.Module):
    """images uint8 (b, 3, h, w) of any size -> (b, 512): mean and standard deviation of 2 × 32 channels at 4 scales.

    At each scale, each of half the side: a 5×5 convolution, ReLU, a 3×3 convolution of stride 2, ReLU. The filters of a layer are
    the same at all scales; half of those of the first have no mean: they see texture alone.
    """

    dimensions = SCALES * 2 * 2 * WIDTH

    def __init__(self) -> None:
        super().__init__()
        first = _weights("first", (WIDTH, 3, 5, 5))
        first[1::2] -= first[1::2].mean((1, 2, 3), keepdim=True)
        self.first = nn.Buffer(first)
        self.second = nn.Buffer(_weights("second", (WIDTH, WIDTH, 3, 3)))

    def forward(self, images: Num[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 512"], None]:
        x = images.to(torch.promote_types(images.dtype, torch.float32))
        x = x.sub(127.5).div_(127.5).contiguous(memory_format=torch.channels_last)
        found = []
        for scale in range(SCALES):
            if scale:
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            y = F.conv2d(x, self.first, padding=2).relu_()
            z = F.conv2d(y, self.second, stride=2, padding=1).relu_()
            for answers in (y, z):
                mean = answers.mean((2, 3), keepdim=True)
                found += [mean.flatten(1), (answers - mean).square_().mean((2, 3)).sqrt_()]
        return torch.cat(found, 1), None

    def hash(self) -> str:
        digest = hashlib.sha256(f"random-conv {VERSION}".encode())
        for weights in (self.first, self.second):
            digest.update(weights.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _weights(layer: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform with variance 2/inputs (He et al. 2015), from hashed integers: the same bits on every machine and any torch."""
    inputs = shape[1] * shape[2] * shape[3]
    uniform = noise(torch.tensor([key_seed("random-conv", VERSION, layer)]), shape)[0]
    return (uniform * 2 - 1) * (6 / inputs) ** 0.5
