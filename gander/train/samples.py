"""Samples of a generator: each from a latent and a label of its own, keyed (seed, index), whatever batch it is drawn in."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gander import draws

Generator = Any  # an nn.Module with .latent_dim and .num_classes, called as generator(latents, labels)
STANDING = 8


def standing_inputs(
    generator: Generator, batches: int = STANDING, device: torch.device | str = "cpu"
) -> list[tuple[Tensor, Tensor]]:
    """Latents and labels of so many batches of 64 samples of seed 0, for `ready`: batch norm's statistics of these very weights.

    The running ones are of other weights (they trail the trained, not the averaged network) and, with the small momentum of
    the official recipe, for thousands of steps mostly of no network at all.
    """
    inputs = (latents_of(generator, 0, range(i * 64, i * 64 + 64)) for i in range(batches))
    return [(latents.to(device), labels.to(device)) for latents, labels in inputs]


def columns_of(generator: Generator) -> int:
    return generator.num_classes if 4 <= generator.num_classes <= 12 else 8


def latents_of(
    generator: Generator, seed: int, indices: Sequence[int], *, label: int | None = None, truncation: float | None = None
) -> tuple[Tensor, Tensor]:
    """Latents (n, d) and labels (n,) of these samples: each from a generator of its own, keyed (seed, index).

    Labels go round through the classes by index unless `label` names one. `truncation` t draws each number from the
    normal law cut to [-t, t]: less variety, more typical images.
    """
    d = generator.latent_dim
    if truncation is None:
        rows = [torch.randn(d, generator=draws.of_sample(seed, i)) for i in indices]
    else:
        # the inverse of the normal distribution function, of a uniform number between its values at -t and t
        low, high = torch.special.ndtr(torch.tensor([-truncation, truncation], dtype=torch.float64))
        uniform = [torch.rand(d, generator=draws.of_sample(seed, i), dtype=torch.float64) for i in indices]
        rows = [torch.special.ndtri(low + (high - low) * u).float() for u in uniform]
    labels = [label if label is not None else i % max(1, generator.num_classes) for i in indices]
    return torch.stack(rows), torch.tensor(labels)


def sample(
    generator: Generator,
    seed: int,
    indices: Sequence[int],
    *,
    label: int | None = None,
    truncation: float | None = None,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Images (n, c, h, w) in [-1, 1] of these samples, on the CPU. `generator` is one that is `ready`."""
    latents, labels = latents_of(generator, seed, indices, label=label, truncation=truncation)
    return images_of(generator, latents, labels, batch, device)


@torch.no_grad()
def images_of(generator: Generator, latents: Tensor, labels: Tensor, batch: int = 64, device: torch.device | str = "cpu") -> Tensor:
    """Images of these latents and labels, `batch` at a time, on the CPU."""
    parts = zip(latents.split(batch), labels.split(batch), strict=True)
    return torch.cat([generator(z.to(device), y.to(device)).float().cpu() for z, y in parts])
