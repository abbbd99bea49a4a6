"""What holds a discriminator back by what it has said so far: adaptive augmentation and LeCam. Their state is the checkpoint's.

Both look at its logits of the global batch, after each of its updates, on the device: nothing waits for the host.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gander.data.augment import Augment
from gander.distributed import all_reduce, processes
from gander.errors import UserError

Logits = Float[Tensor, " b"]
EVERY = 4  # updates between two moves of p, as in ADA


class Adaptive(nn.Module):
    """ADA: each operation of a policy is done to an image with probability p, which moves so that r_t approaches its target:

        r_t = mean sign(D(x)) over the real images of 4 updates,   p ← p + sign(r_t - target) · (their number) / images,

    from 0, within [0, 1]. Karras et al. 2020, https://arxiv.org/abs/2006.06676: target 0.6, 500,000 images from 0 to 1. Used as
    `gander.data.augment.Augment` is, whose operations it has in the place of the paper's 18. Zero must part real from fake
    logits: in the games hinge and logistic it does.

    Raises:
        UserError: for an unknown operation, none at all, a target that is not between -1 and 1, and less than one image.
    """

    p: Tensor
    signs: Tensor
    seen: Tensor
    updates: Tensor

    def __init__(self, policy: str, *, target: float = 0.6, images: int = 500_000) -> None:
        super().__init__()
        self.policy, self.target, self.images = Augment(policy), target, images
        if not self.policy.width:
            raise UserError("adaptive augmentation has nothing to adapt; take --augment color,translation,cutout")
        if not (-1 < target < 1 and images >= 1):
            raise UserError(f"adaptive augmentation got target={target:g}, images={images}; 0.6 and 500,000 are the source's")
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def draw(self, generator: torch.Generator, n: int) -> Float[Tensor, "n k"]:
        """The policy's numbers of n images, and a coin for each of its operations."""
        return torch.rand(n, self.policy.width + len(self.policy.widths), generator=generator)

    def apply(  # type: ignore[override]
        self, images: Float[Tensor, "b c h w"], numbers: Float[Tensor, "b k"]
    ) -> Float[Tensor, "b c h w"]:
        """The images, each operation done to those whose coin is below p."""
        *parts, coins = numbers.split([*self.policy.widths, len(self.policy.widths)], 1)
        for operation, part, coin in zip(self.policy.operations, parts, coins.unbind(1), strict=True):
            images = torch.where((coin < self.p)[:, None, None, None], operation(images, part), images)
        return images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def see(self, real: Logits) -> None:
        """The logits of an update's real images, this process's share; the same on every process afterwards."""
        self.signs += all_reduce(real.sign().sum().to(self.signs.dtype))
        self.seen += len(real) * processes()
        self.updates += 1
        due = self.updates == EVERY
        moved = self.p + (self.signs / self.seen - self.target).sign() * self.seen / self.images
        self.p.copy_(torch.where(due, moved.clamp(0, 1), self.p))
        for kept in (self.signs, self.seen, self.updates):
            kept.mul_(~due)


class LeCam(nn.Module):
    """LeCam regularisation: mean (D(x) - a_F)² + mean (D(G(z)) - a_R)². What is said of an image stays near what was said.

    a_R and a_F are averages of the mean logits of real and of fake images: a ← decay · a + (1 - decay) · mean. Tseng et al. 2021,
    https://arxiv.org/abs/2104.03310. As in the authors' code, until step `start` a is the last mean and the term is off: means of a
    discriminator that knows nothing are no anchors. Otherwise: their code counts differences above zero alone.

    Args:
        weight: λ, which the game multiplies it by.
        decay: of the anchors.
        start: the first step that has the term.

    Raises:
        UserError: for a weight that is not above 0 or not finite, and a decay outside [0, 1).
    """

    real: Tensor
    fake: Tensor

    def __init__(self, weight: float, *, decay: float = 0.99, start: int = 1000) -> None:
        super().__init__()
        if not (0 < weight < math.inf and 0 <= decay < 1):
            raise UserError(f"LeCam got weight={weight:g}, decay={decay:g}; 0.1 to 0.5 and 0.99 are usual")
        self.weight, self.decay, self.start = weight, decay, start
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, real: Logits, fake: Logits) -> Float[Tensor, ""]:
        """The term, without its weight; a mean over images, as the anchors stand still within an update."""
        return (real - self.fake).square().mean() + (fake - self.real).square().mean()

    @torch.no_grad()
    def see(self, real: Logits, fake: Logits, step: int) -> None:
        """Move the anchors by an update's logits, this process's share; the same on every process afterwards."""
        decay = self.decay if step >= self.start else 0.0
        means = all_reduce(torch.stack([real.mean(), fake.mean()])) / processes()
        for anchor, mean in zip((self.real, self.fake), means.to(self.real.dtype), strict=True):
            anchor.mul_(decay).add_(mean, alpha=1 - decay)


def load(name: str, part: nn.Module, saved: Any) -> None:
    """Copy a part's state from a checkpoint. UserError where it is not one of such a part, or not finite."""
    mine = part.state_dict()
    fits = isinstance(saved, Mapping) and saved.keys() == mine.keys()
    for key, tensor in mine.items() if fits else ():
        value = saved[key]
        fits = fits and isinstance(value, Tensor) and value.shape == tensor.shape and value.dtype == tensor.dtype
        fits = fits and bool(value.isfinite().all())
    if not fits:
        raise UserError(f"the checkpoint's state of {name} is not one; delete that checkpoint to take the one before it")
    part.load_state_dict(saved)
