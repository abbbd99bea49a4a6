"""3×3 convolutions between two resolutions, and their exact foldings into one 4×4 convolution of stride 2.

    mean of 2×2 (w ∗ x)           =  k ∗ x, stride 2, padding 1:             k = Σ of each 2×2 window of w, zeros around it, / 4
    w ∗ (x, each pixel 2×2)       =  k ∗ x transposed, stride 2, padding 1:  k = Σ of each 2×2 window of w turned by 180°

On one axis, with w = (a, b, c): k = (a, a+b, b+c, c) / 2 and (c, b+c, a+b, a). Both hold at the zero-padded borders also.
The second is the sub-pixel form of resize convolution (Shi et al. 2016, https://arxiv.org/abs/1609.07009; Aitken et al. 2017,
https://arxiv.org/abs/1707.02937), the first its mirror image; ProGAN's and StyleGAN's code fuse so.

Each is a plain `nn.Conv2d` to whoever looks at its parameters: the same names, shapes, initialisation and spectral norm, which
is that of the 3×3 kernel. Multiplications at c -> d channels and h·w of the smaller map: 16·c·d·h·w folded, 36·c·d·h·w
plain, forward and backward alike; the kernel itself costs 16·c·d additions.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class _Resampling(nn.Conv2d):
    """`folded` may be switched at any time; results then differ by rounding alone."""

    def __init__(self, in_channels: int, out_channels: int, *, folded: bool = False, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)
        self.folded = folded

    def extra_repr(self) -> str:
        return super().extra_repr() + f", folded={self.folded}"


class UpConv2d(_Resampling):
    """Nearest ×2, then convolution 3×3: (b, c, h, w) -> (b, d, 2h, 2w), any h and w."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        weight = self.weight  # read once: a parametrised weight is computed at each reading
        if not self.folded:
            return F.conv2d(F.interpolate(x, scale_factor=2.0), weight, self.bias, padding=1)
        return F.conv_transpose2d(x, _windows(weight.transpose(0, 1).flip(2, 3), 1), self.bias, stride=2, padding=1)


class DownConv2d(_Resampling):
    """Convolution 3×3, then mean of 2×2: (b, c, h, w) -> (b, d, h // 2, w // 2), an odd last row dropped as AvgPool2d does."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        weight = self.weight
        if not self.folded:
            return F.avg_pool2d(F.conv2d(x, weight, self.bias, padding=1), 2)
        return F.conv2d(x, _windows(weight, 4), self.bias, stride=2, padding=1)


def _windows(weight: Float[Tensor, "d c 3 3"], divisor: int) -> Float[Tensor, "d c 4 4"]:
    """Sums over 2×2 windows, zeros around. In channels_last pooling is a tenth of the time of slices or einsum on a CPU."""
    return F.avg_pool2d(weight.contiguous(memory_format=torch.channels_last), 2, 1, padding=1, divisor_override=divisor)
