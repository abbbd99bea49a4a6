"""What an update of the game draws: for the global batch, cut as the batch is, so that processes and devices change nothing."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gander import distributed, draws
from gander.data.augment import horizontal_flip
from gander.train.samples import Generator

Batch = list[tuple[Tensor, Tensor]]


@runtime_checkable
class Change(Protocol):
    """What is done to images before they are judged, as `gander.data.augment.Augment` does it."""

    def draw(self, generator: torch.Generator, n: int) -> Tensor: ...
    def apply(self, images: Tensor, numbers: Tensor) -> Tensor: ...


class Shares:
    """The draws of one update: of each, this process's share of each micro-batch of `batch`. Floats in the type of `like`."""

    def __init__(self, batch: Batch, draw: draws.Draws, like: torch.dtype, device: torch.device) -> None:
        self.batch, self.draw, self.like, self.device = batch, draw, like, device
        self.size = sum(len(images) for images, _ in batch) * distributed.processes()

    def cut(self, drawn: Tensor) -> list[Tensor]:
        if drawn.is_floating_point():
            drawn = drawn.to(self.like)
        return [distributed.send(share, self.device) for share in distributed.shares(drawn, len(self.batch))]

    def uniform(self, purpose: str) -> list[Tensor]:
        """A number in [0, 1) for each image."""
        return self.cut(torch.rand(self.size, generator=self.draw(purpose)))

    def latents(self, generator: Generator, role: str) -> tuple[list[Tensor], list[Tensor]]:
        """Latents and labels."""
        latents = torch.randn(self.size, generator.latent_dim, generator=self.draw(f"latent {role}"))
        labels = torch.randint(max(1, generator.num_classes), (self.size,), generator=self.draw(f"label {role}"))
        return self.cut(latents), self.cut(labels)

    def near(self, latents: list[Tensor], role: str, sigma: float) -> list[Tensor]:
        """The latents moved by σ ε, for zCR."""
        noise = self.cut(torch.randn(self.size, latents[0].shape[1], generator=self.draw(f"near {role}")))
        return [latent + sigma * epsilon for latent, epsilon in zip(latents, noise, strict=True)]

    def reals(self, name: str, *, flip: bool, dequantize: bool) -> list[Tensor]:
        """The real images, half of them mirrored, with U(0, 1/128) on top."""
        images = [images for images, _ in self.batch]
        if flip:
            coins = self.uniform(f"flip {name}")
            images = [horizontal_flip(x, coin < 0.5) for x, coin in zip(images, coins, strict=True)]
        if dequantize:
            keys = self.cut(torch.randint(1 << 62, (self.size,), generator=self.draw(f"dequantize {name}")))
            images = [x + draws.noise(key, x.shape[1:]).to(x.dtype) / 128 for x, key in zip(images, keys, strict=True)]
        return images

    def looks(self, change: Change | None, purpose: str) -> Callable[[Tensor, int], Tensor]:
        """What the discriminator is shown of micro-batch m: the changed images, or the images."""
        if change is None:
            return lambda images, m: images
        numbers = self.cut(change.draw(self.draw(purpose), self.size))
        return lambda images, m: change.apply(images, numbers[m])
