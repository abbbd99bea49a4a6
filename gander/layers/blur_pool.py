from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class BlurPool2d(nn.Module):
    """Blur by [1, 2, 1]ᵀ [1, 2, 1] / 16, then every second position: halving without aliasing.

    Zhang 2019, "Making Convolutional Networks Shift-Invariant Again", https://arxiv.org/abs/1904.11486, his Triangle-3.

    Shapes: (b, c, h, w) -> (b, c, ⌈h/2⌉, ⌈w/2⌉), any h and w. No parameters. Cost: O(c h w).

    What differs: borders are replicated instead of reflected, so that a side of 1 has a border too. Computed as two means of 2×2,
    [1, 2, 1] = [1, 1] ∗ [1, 1], which every device has quick and deterministic; a padding's backward on CUDA is not the latter.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        between = F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)  # one more than x has, on each axis
        return F.avg_pool2d(between, 2)
