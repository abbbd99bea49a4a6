import torch
from jaxtyping import Float
from torch import Tensor, nn


class Residual(nn.Module):
    """y = x + γ · conv1×1(relu(conv1×1(x))): the control. What the parameters of self-attention do without attention.

    No source: it answers the question whether a gain comes from looking elsewhere or from 1.25 c² more weights. The hidden
    width is 5c/8 (rounded down, at least 1), so that 8 | c gives 1.25 c² + 1 parameters, as many as `SelfAttention` has.
    γ = 0 at birth, and the weights are born as in `SelfAttention`; there are no biases and no `weights`.

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w. Cost: O(h w c²) time, O(h w c) memory.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, 5 * channels // 8)
        self.inner = nn.Conv2d(channels, hidden, 1, bias=False)
        self.outer = nn.Conv2d(hidden, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))
        nn.init.xavier_uniform_(self.inner.weight)
        nn.init.xavier_uniform_(self.outer.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.gamma * self.outer(self.inner(x).relu())
