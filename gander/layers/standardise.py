"""Images in [-1, 1] as classifiers take them: each channel with mean 0 and variance 1 over ImageNet."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels in [0, 1]


class Standardise(nn.Module):
    """y = ((x + 1) / 2 - mean) / std for each channel: the first layer of a classifier, so that it takes images in [-1, 1].

    Constants that no checkpoint holds. One channel gets the mean of the three means, and of the three deviations.
    Shapes: (b, channels, h, w) -> the same.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        mean, std = (torch.tensor(values) for values in (MEAN, STD))
        if channels != len(MEAN):
            mean, std = (values.mean().expand(channels) for values in (mean, std))
        self.register_buffer("scale", (0.5 / std).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", ((0.5 - mean) / std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return images * self.scale + self.shift
