"""Attention layers: (b, c, h, w) -> (b, c, h, w), born as the identity.

    from gander.attention import SelfAttention
    layer = SelfAttention(256)      # y = layer(x), maps = layer.weights(x)

`ATTENTION` names them for recipes and the command line.
"""

from collections.abc import Callable

from torch import nn

from gander.attention.feature import FeatureAttention
from gander.attention.gate import SpatialSoftmaxGate
from gander.attention.residual import Residual
from gander.attention.self_attention import SelfAttention
from gander.attention.simple import SimpleSelfAttention
from gander.errors import unknown

__all__ = ["ATTENTION", "FeatureAttention", "Residual", "SelfAttention", "SimpleSelfAttention", "SpatialSoftmaxGate", "build"]

# Called as ATTENTION[key](channels, size=(h, w)); layers that any size fits do not ask for it.
ATTENTION: dict[str, Callable[..., nn.Module]] = {
    "none": lambda channels, size=None: nn.Identity(),
    "self": lambda channels, size=None: SelfAttention(channels),
    "full": lambda channels, size=None: SelfAttention(channels, value_ratio=1, pool=False, project=False),
    "article": lambda channels, size=None: SelfAttention(channels, value_ratio=1, pool=False, project=False, bias=True),
    "simple": lambda channels, size=None: SimpleSelfAttention(channels),
    "feature": lambda channels, size=None: FeatureAttention(channels, size=size),
    "gate": lambda channels, size=None: SpatialSoftmaxGate(channels),
    "residual": lambda channels, size=None: Residual(channels),
}


def build(keys: str, channels: int, size: tuple[int, int] | None = None) -> nn.Module:
    """The layer called `keys`, or for several, as "self+feature", one after the other in that order."""
    names = [name.strip() for name in keys.split("+")]
    for name in names:
        if name not in ATTENTION:
            raise unknown("attention", name, ATTENTION)
    layers = [ATTENTION[name](channels, size=size) for name in names]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
