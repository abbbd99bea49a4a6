"""Attention layers: (b, c, h, w) -> (b, c, h, w), born as the identity.

    from gander.attention import SelfAttention
    layer = SelfAttention(256)      # y = layer(x), maps = layer.weights(x)

`ATTENTION` names them for recipes and the command line.
"""

from collections.abc import Callable

from torch import nn

from gander.attention.axial import AxialAttention
from gander.attention.feature import FeatureAttention
from gander.attention.gate import SpatialSoftmaxGate
from gander.attention.l2 import L2Attention
from gander.attention.linear import LinearAttention
from gander.attention.lsh import LSHAttention
from gander.attention.multi_head import MultiHeadAttention
from gander.attention.residual import Residual
from gander.attention.self_attention import SelfAttention
from gander.attention.simple import SimpleSelfAttention
from gander.attention.window import WindowAttention
from gander.errors import unknown

__all__ = [
    "ATTENTION",
    "AxialAttention",
    "FeatureAttention",
    "L2Attention",
    "LSHAttention",
    "LinearAttention",
    "MultiHeadAttention",
    "Residual",
    "SelfAttention",
    "SimpleSelfAttention",
    "SpatialSoftmaxGate",
    "WindowAttention",
    "build",
]

# Called as ATTENTION[key](channels, size=(h, w)); layers that any size fits do not ask for it.
ATTENTION: dict[str, Callable[..., nn.Module]] = {
    "none": lambda channels, size=None: nn.Identity(),
    "self": lambda channels, size=None: SelfAttention(channels),
    "full": lambda channels, size=None: SelfAttention(channels, value_ratio=1, pool=False, project=False),
    "article": lambda channels, size=None: SelfAttention(channels, value_ratio=1, pool=False, project=False, bias=True),
    "simple": lambda channels, size=None: SimpleSelfAttention(channels),
    "simple_symmetric": lambda channels, size=None: SimpleSelfAttention(channels, symmetric=True),
    "feature": lambda channels, size=None: FeatureAttention(channels, size=size),
    "gate": lambda channels, size=None: SpatialSoftmaxGate(channels),
    "residual": lambda channels, size=None: Residual(channels),
    "multi_head": lambda channels, size=None: MultiHeadAttention(channels),
    "window": lambda channels, size=None: WindowAttention(channels),
    "axial": lambda channels, size=None: AxialAttention(channels),
    "linear": lambda channels, size=None: LinearAttention(channels),
    "lsh": lambda channels, size=None: LSHAttention(channels),
    "l2": lambda channels, size=None: L2Attention(channels),
}


def build(keys: str, channels: int, size: tuple[int, int] | None = None) -> nn.Module:
    """The layer called `keys`, or for several, as "self+feature", one after the other in that order."""
    names = [name.strip() for name in keys.split("+")]
    for name in names:
        if name not in ATTENTION:
            raise unknown("attention", name, ATTENTION)
    layers = [ATTENTION[name](channels, size=size) for name in names]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
