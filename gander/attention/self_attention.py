from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.attention.kernels import attend
from gander.errors import UserError


class SelfAttention(nn.Module):
    """y = x + γ · o,   o = output(softmax(query(x) key(x)ᵀ) value(x)),   the softmax over the keys of each query.

    Zhang et al. 2018, "Self-Attention Generative Adversarial Networks" (1805.08318; ICML 2019), who write f, g, h, v for
    key, query, value and output: 1×1 convolutions to c/8, c/8 and c/2 channels and back to c. γ is a scalar, 0 at birth,
    so that a new layer is the identity. Scores are not divided by √d. As published:

    | form                            | arguments                                     | parameters           |
    |---------------------------------|-----------------------------------------------|----------------------|
    | official code, BigGAN           | the defaults: keys, values max-pooled 2×2     | 1.25 c² + 1          |
    | paper's first text, fastai      | `value_ratio=1, pool=False, project=False`    | 1.25 c² + 1          |
    | article and code of T. Silva    | the same with `bias=True`                     | 1.25 c² + 1.25 c + 1 |
    | text of the ICML paper          | `value_ratio=8, pool=False`                   | 0.5 c² + 1           |

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w. Pooling drops an odd last row or column, as the official code does,
    and leaves a side of length 1 as it is. Widths are rounded down, to at least 1.

    Cost for n = h·w queries, m keys (n, or n/4 pooled): O(n c² + n m c) time. Memory: O(n c), and the n·m map only where
    it is small or under `create_graph` (see `kernels`).

    What differs: the sources put spectral norm on every convolution; here it is applied from outside, to a finished
    network. Weights are born Glorot-uniform and biases 0, as in the official code; fastai's are Kaiming-normal.

    Raises `UserError` for ratios below 1, and when values are narrowed but not projected back to c.
    """

    map_kind = "rows"

    def __init__(
        self,
        channels: int,
        *,
        key_ratio: int = 8,
        value_ratio: int = 2,
        pool: bool = True,
        project: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if key_ratio < 1 or value_ratio < 1:
            raise UserError(f"key_ratio and value_ratio divide the channels: 1 or more, not {key_ratio} and {value_ratio}")
        if not project and value_ratio != 1:
            raise UserError(f"value_ratio={value_ratio} leaves too few channels to add to x: give value_ratio=1 or project=True")
        keys, values = max(1, channels // key_ratio), max(1, channels // value_ratio)
        self.query = nn.Conv2d(channels, keys, 1, bias=bias)
        self.key = nn.Conv2d(channels, keys, 1, bias=bias)
        self.value = nn.Conv2d(channels, values, 1, bias=bias)
        self.output = nn.Conv2d(values, channels, 1, bias=bias) if project else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(()))
        self.pool = pool
        for conv in self.children():
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        q, k, v = convolved(x, [self.query, self.key, self.value], torch.channels_last)
        o = attend(_rows(q), _rows(self._pooled(k)), _rows(self._pooled(v)), scale=1.0)  # b 1 n e
        o = o.squeeze(1).mT.unflatten(2, x.shape[2:])  # b e h w
        (o,) = convolved(o, [self.output], torch.contiguous_format if x.is_contiguous() else torch.channels_last, self.gamma)
        return x + o

    def weights(
        self, x: Float[Tensor, "b c h w"], queries: Int[Tensor, "q"] | Sequence[int] | None = None
    ) -> Float[Tensor, "b 1 q h_k w_k"]:
        """What the `queries` (flat row-major positions; all by default) attend to: maps over the keys, each of sum 1."""
        q, k = _rows(self.query(x)), self._pooled(self.key(x))
        if queries is not None:
            q = q[:, :, torch.as_tensor(queries, dtype=torch.long, device=x.device)]
        scores = q @ _rows(k).mT  # b 1 q m
        return scores.softmax(-1, dtype=None if x.dtype == torch.float64 else torch.float32).unflatten(-1, k.shape[2:])

    def _pooled(self, t: Tensor) -> Tensor:
        h, w = t.shape[2:]
        return F.max_pool2d(t, (min(2, h), min(2, w))) if self.pool else t

    def extra_repr(self) -> str:
        return f"pool={self.pool}"


def _rows(t: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h*w c"]:
    """One row a position, one head. A view of either memory format."""
    return t.flatten(2).mT[:, None]


def convolved(
    x: Float[Tensor, "b c h w"], convs: Sequence[nn.Module], to: torch.memory_format, scale: Float[Tensor, ""] | None = None
) -> list[Tensor]:
    """conv(x), times `scale`, for each 1×1 convolution; wanted in the memory format `to`.

    As one product, since they share the sums over x and those of its gradient. On a CPU a product for each image changes the
    format at no cost, where a convolution copies: with 64 channels a layer that gets NCHW takes 3/4 of the time. And a weight is
    cheaper to scale than a map. One after another where somebody has put a hook on one of them, or another module there.
    """
    if not all(type(conv).forward is nn.Conv2d.forward and not (conv._forward_hooks or conv._forward_pre_hooks) for conv in convs):
        return [conv(x) if scale is None else scale * conv(x) for conv in convs]
    weights: list[Any] = [conv.weight for conv in convs]
    biases: list[Any] = [conv.bias for conv in convs]
    weight, bias = torch.cat(weights), None if biases[0] is None else torch.cat(biases)
    if scale is not None:
        weight, bias = scale * weight, None if bias is None else scale * bias
    if x.is_contiguous(memory_format=to) or x.device.type != "cpu":
        joint = F.conv2d(x, weight, bias)
    else:
        matrix, rows = weight.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2)
        joint = torch.bmm(rows.mT, matrix.mT).mT if to == torch.channels_last else torch.bmm(matrix, rows)
        joint = joint.unflatten(2, x.shape[2:])
        joint = joint if bias is None else joint + bias[:, None, None]
    return list(joint.split([len(weight) for weight in weights], dim=1))
