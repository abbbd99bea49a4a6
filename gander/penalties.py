"""What holds a discriminator back, as functions of one signature:

    penalty(discriminator, real, real_labels, fake, fake_labels, epsilon) -> scalar

`discriminator(images, labels) -> logits (b,)`, images (b, c, h, w), labels (b,) or None, `epsilon` (b,) uniform in [0, 1)
on the images' device: drawn for the global batch and cut as the batch is, whoever uses it. The value carries no weight;
it is a mean over images, so micro-batches and processes of equal size average to the whole, where the discriminator
treats images apart (with batch statistics, "the gradient of an image's logit" is that of the sum of all logits).

Each is computed with autocast off, in float32 or wider, and can be differentiated again down to the weights. The approximate
forms do so without a second derivative of the discriminator; the others take one.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gander import draws

SIGMA = 0.01  # of the approximate forms, as for APT's images
Images = Float[Tensor, "b c h w"]
Labels = Int[Tensor, " b"] | None
Discriminator = Callable[[Tensor, Tensor | None], Tensor]
Penalty = Callable[[Discriminator, Tensor, Tensor | None, Tensor, Tensor | None, Tensor], Tensor]


def _exactly(images: Tensor) -> AbstractContextManager:
    """Autocast off."""
    kind = images.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _wide(images: Tensor) -> Tensor:
    return images.detach().to(torch.promote_types(images.dtype, torch.float32))


def _gradients(discriminator: Discriminator, images: Tensor, labels: Tensor | None) -> Float[Tensor, "b n"]:
    """∂D/∂x of each image, flat. One backward through the sum: where images are apart, each logit reaches its own only."""
    images = _wide(images).requires_grad_()
    with _exactly(images):
        (gradients,) = torch.autograd.grad(discriminator(images, labels).sum(), images, create_graph=True)
    return gradients.flatten(1)


def _difference(discriminator: Discriminator, images: Tensor, labels: Tensor | None, epsilon: Tensor) -> Float[Tensor, ""]:
    """mean (D(x + σ n) - D(x))² / 2σ², n ~ N(0, I) a function of each image's `epsilon`, all of whose 24 bits are its key."""
    images = _wide(images)
    noise = draws.normal((epsilon * 2.0**24).long(), images.shape[1:]).to(images.dtype)
    with _exactly(images):
        difference = discriminator(images + SIGMA * noise, labels) - discriminator(images, labels)
    return difference.square().mean() / (2 * SIGMA**2)


def r1(
    discriminator: Discriminator, real: Images, real_labels: Labels, fake: Images, fake_labels: Labels, epsilon: Tensor
) -> Float[Tensor, ""]:
    """½ mean ‖∇_x D(x)‖² over real images, so that its weight is the γ of Mescheder et al. 2018: γ/2 E‖∇D‖²."""
    return _gradients(discriminator, real, real_labels).square().sum(1).mean() / 2


def r2(
    discriminator: Discriminator, real: Images, real_labels: Labels, fake: Images, fake_labels: Labels, epsilon: Tensor
) -> Float[Tensor, ""]:
    """½ mean ‖∇_x D(G(z))‖² over fake images (Mescheder et al. 2018); its weight is γ, as that of `r1`."""
    return _gradients(discriminator, fake, fake_labels).square().sum(1).mean() / 2


def wgan_gp(
    discriminator: Discriminator, real: Images, real_labels: Labels, fake: Images, fake_labels: Labels, epsilon: Tensor
) -> Float[Tensor, ""]:
    """mean (‖∇_x D(x̂)‖ - 1)² at x̂ = ε x + (1 - ε) G(z) (Gulrajani et al. 2017); its weight is their λ = 10.

    Pair i is real[i] and fake[i], and x̂ has the label of the real one. Where the gradient is zero, the norm's subgradient
    is taken as zero.
    """
    mix = epsilon.to(real)[:, None, None, None]
    mixed = mix * real.detach() + (1 - mix) * fake.detach().to(real)
    return (torch.linalg.vector_norm(_gradients(discriminator, mixed, real_labels), dim=1) - 1).square().mean()


def approximate_r1(
    discriminator: Discriminator, real: Images, real_labels: Labels, fake: Images, fake_labels: Labels, epsilon: Tensor
) -> Float[Tensor, ""]:
    """mean (D(x + σ n) - D(x))² / 2σ² over real images, n ~ N(0, I), σ = 0.01: as the expectation over n, `r1` + O(σ²).

    Lin et al. 2025, APT, https://arxiv.org/abs/2501.08316, where it has no divisor: this way its weight is the γ of `r1`. For a
    discriminator without second derivatives, or where they cost too much: two forwards, and their backward.
    """
    return _difference(discriminator, real, real_labels, epsilon)


def approximate_r2(
    discriminator: Discriminator, real: Images, real_labels: Labels, fake: Images, fake_labels: Labels, epsilon: Tensor
) -> Float[Tensor, ""]:
    """The same over fake images: `r2` + O(σ²)."""
    return _difference(discriminator, fake, fake_labels, epsilon)


SECOND_DERIVATIVE = (r1, r2, wgan_gp)  # what takes one of the discriminator
PENALTIES: dict[str, Penalty] = {
    "r1": r1,
    "r2": r2,
    "wgan_gp": wgan_gp,
    "approximate_r1": approximate_r1,
    "approximate_r2": approximate_r2,
}
