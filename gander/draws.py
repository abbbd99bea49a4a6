"""Random generators that depend on names, never on history.

A draw is a function of its key alone: the same step draws the same latents whether the run was stopped before it or
not, and however many processes share the work. Generators live on the CPU so that every device sees the same numbers.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Draws = Callable[[str], torch.Generator]


def key_seed(*key: str | int) -> int:
    """63 bits of the sha256 of the key: equal on every machine, unlike `hash`. (torch's CPU generator uses 32 of them.)"""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*key: str | int) -> torch.Generator:
    """A new CPU generator for this key."""
    return torch.Generator().manual_seed(key_seed(*key))


def at_step(seed: int, step: int) -> Draws:
    """`draws(purpose)`: a new generator for one purpose of one step, for the *global* batch."""
    return lambda purpose: generator("step", seed, step, purpose)


def of_sample(seed: int, index: int) -> torch.Generator:
    """The generator of sample `index`: its latent and label do not depend on the batch it is drawn in."""
    return generator("sample", seed, index)


def noise(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """Uniform numbers in [0, 1), float32 (n, *shape), each a function of its image's key (n,) int64 and its place.

    Made on the device of the keys, by the finaliser of SplitMix64 (Steele et al. 2014): numbers for every pixel of a batch
    would take longer to draw on the CPU and to send than a small network's step.
    """
    place = torch.arange(math.prod(shape), device=keys.device)
    z = keys[:, None] + place * -0x61C8864680B583EB
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return (z >> 40 & (1 << 24) - 1).float().mul_(2.0**-24).view(len(keys), *shape)


def normal(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """The same of the standard normal law, by the transform of Box and Muller 1958."""
    radius, turn = noise(keys, (2, *shape)).unbind(1)
    return (-2 * torch.log1p(-radius)).sqrt() * (2 * math.pi * turn).cos()
