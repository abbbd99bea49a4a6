"""The games: what discriminator and generator are paid for, as pairs of plain functions of the logits.

Every term is a mean over images, so micro-batches and processes of equal size average to the whole. Logits should be
float32 or wider: autocast leaves relu and mean in the logits' own type.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

Logits = Float[Tensor, "_"]
Loss = Float[Tensor, ""]


class Adversarial(NamedTuple):
    """A game. Both losses are functions of (real, fake), logits of shapes (b,) and (b',), and are to be made small.

    Where `paired` is false, the generator's loss does not look at the real logits, which may then be None, and b and b'
    may differ. Where it is true, logit i of the one is set against logit i of the other, and b = b'. `signed`: a logit's sign is
    a verdict, real above zero.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Any, Tensor], Tensor]
    paired: bool
    signed: bool = False


def hinge_discriminator(real: Logits, fake: Logits) -> Loss:
    """mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))): Lim & Ye 2017, Geometric GAN; SAGAN's."""
    return (1 - real).relu().mean() + (1 + fake).relu().mean()


def hinge_generator(real: Logits | None, fake: Logits) -> Loss:
    """-mean D(G(z)): linear, so that it never saturates. LocAtE's code has relu(1 - D(G(z))), whose gradient dies above 1."""
    return -fake.mean()


def logistic_discriminator(real: Logits, fake: Logits) -> Loss:
    """mean softplus(-D(x)) + mean softplus(D(G(z))), the cross-entropy of Goodfellow et al. 2014."""
    return softplus(-real).mean() + softplus(fake).mean()


def logistic_generator(real: Logits | None, fake: Logits) -> Loss:
    """mean softplus(-D(G(z))), the non-saturating form of Goodfellow et al. 2014."""
    return softplus(-fake).mean()


def least_squares_discriminator(real: Logits, fake: Logits) -> Loss:
    """½ mean (D(x) - 1)² + ½ mean D(G(z))²: Mao et al. 2017, LSGAN, equation 9 (labels 0 and 1)."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_generator(real: Logits | None, fake: Logits) -> Loss:
    """½ mean (D(G(z)) - 1)²: Mao et al. 2017, equation 9."""
    return (fake - 1).square().mean() / 2


def wasserstein_discriminator(real: Logits, fake: Logits) -> Loss:
    """mean D(G(z)) - mean D(x): Arjovsky et al. 2017. It needs a discriminator held Lipschitz: by `wgan_gp`, say."""
    return fake.mean() - real.mean()


def wasserstein_generator(real: Logits | None, fake: Logits) -> Loss:
    """-mean D(G(z)): Arjovsky et al. 2017."""
    return -fake.mean()


def relativistic_discriminator(real: Logits, fake: Logits) -> Loss:
    """mean softplus(-(D(x_i) - D(G(z_i)))): Jolicoeur-Martineau 2018, paired; R3GAN's (Huang et al. 2025) with R1 and R2."""
    return softplus(fake - real).mean()


def relativistic_generator(real: Logits, fake: Logits) -> Loss:
    """mean softplus(-(D(G(z_i)) - D(x_i))): the same pairs with the roles exchanged."""
    return softplus(real - fake).mean()


LOSSES: dict[str, Adversarial] = {
    "hinge": Adversarial(hinge_discriminator, hinge_generator, paired=False, signed=True),
    "logistic": Adversarial(logistic_discriminator, logistic_generator, paired=False, signed=True),
    "least_squares": Adversarial(least_squares_discriminator, least_squares_generator, paired=False),
    "wasserstein": Adversarial(wasserstein_discriminator, wasserstein_generator, paired=False),
    "relativistic": Adversarial(relativistic_discriminator, relativistic_generator, paired=True),
}
