"""Random generators that depend on names, never on history.

A draw is a function of its key alone: the same step draws the same latents whether the run was stopped before it or
not, and however many processes share the work. Generators live on the CPU so that every device sees the same numbers.
"""

import hashlib
from collections.abc import Callable

import torch

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
