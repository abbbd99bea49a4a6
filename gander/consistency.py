"""Consistency regularisation: where an image hardly changes, what the discriminator says of it should not change either.

    cr        λ mean_i (D(x_i) - D(T x_i))²                      real images              λ = 10
    bcr       the same, and λ mean_i (D(G(z_i)) - D(T G(z_i)))²  real and fake images     λ = 10
    zcr       λ mean_i (D(G(z_i)) - D(G(z_i + σ ε_i)))²          latents, ε ~ N(0, I)     λ = 5, σ = 0.03
              and for the generator -λ/10 mean (G(z_i) - G(z_i + σ ε_i))², so that it does not answer by ignoring z
    batch_cr  γ (mean_i D(x_i) - mean_i D(T x_i))²               real images, LocAtE's    γ = 100

CR: Zhang et al. 2020, https://arxiv.org/abs/1910.12027; CIFAR-10, conditional: FID 14.73 -> 11.48. bCR and zCR, together ICR:
Zhao et al. 2020, https://arxiv.org/abs/2002.04724; 11.48 -> 9.21. The generator's mean is over images and their numbers, as in
ports of that paper (for BigGAN one takes λ = 20, λ/40 and σ = 0.05).

T mirrors an image with probability ½ and shifts it by whole pixels, up to 1/8 of its side each way (4 of 32), by reflection at
the border. Its draws are made for the global batch. It acts on what the discriminator is shown: where DiffAugment is on, on
augmented images, so that the images of a pair differ by T alone; those of a zCR pair are augmented alike.

LocAtE's form compares two numbers a batch: what D says of an image may change as long as the mean does not. It is here to be
compared with. What differs from its code: there the two means were of different images, which adds 2 Var(D(x)) / batch to the
square even where T changes nothing, and T was a crop, a flip and a jitter of colours. Its means are those of the global batch (of
a micro-batch over all processes). All other terms are means over images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gander.distributed import all_reduce, processes
from gander.errors import UserError

Logits = Float[Tensor, " b"]
CHANGE = "flip,shift"  # T, a policy of `gander.data.augment.Augment`


def paired(logits: Logits, changed: Logits) -> Float[Tensor, ""]:
    """mean_i (a_i - b_i)². The gradient flows into both, as in the papers."""
    return (logits - changed).square().mean()


def of_batch_means(logits: Logits, changed: Logits) -> Float[Tensor, ""]:
    """(mean a - mean b)², means over the shares of all processes, which are equal in size."""
    return (all_reduce((logits - changed).mean()) / processes()).square()


@dataclass(frozen=True)
class Consistency:
    """The terms that are on, by their weights; 0 is off.

    Args:
        cr: λ of real images.
        bcr: λ of real and fake images; on real ones it adds to `cr`.
        zcr: λ of fakes whose latents are σ ε apart; the generator's own term has a tenth of it.
        batch_cr: γ of LocAtE's form.
        sigma: of zCR's ε.

    Raises:
        UserError: for a weight or σ that is negative or not finite.
    """

    cr: float = 0.0
    bcr: float = 0.0
    zcr: float = 0.0
    batch_cr: float = 0.0
    sigma: float = 0.03

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise UserError(f"{name} {value} is nothing that consistency regularisation takes; 0 is off, 10.0 a usual weight")

    @property
    def of_real(self) -> bool:
        """Whether a term asks for D(T x)."""
        return bool(self.cr or self.bcr or self.batch_cr)

    def discriminator(self, logits: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, float]]:
        """(value, weight) of each term that is on, from the logits of `real`, `fake` and, where a term asks for them, of
        `changed real` (T x), `changed fake` (T G(z)) and `near fake` (G(z + σ ε)). float32 or wider.
        """
        terms: dict[str, tuple[Tensor, float]] = {}
        if self.cr or self.bcr:
            terms["cr"] = paired(logits["real"], logits["changed real"]), self.cr + self.bcr
        if self.bcr:
            terms["bcr"] = paired(logits["fake"], logits["changed fake"]), self.bcr
        if self.zcr:
            terms["zcr"] = paired(logits["fake"], logits["near fake"]), self.zcr
        if self.batch_cr:
            terms["batch_cr"] = of_batch_means(logits["real"], logits["changed real"]), self.batch_cr
        return terms

    def generator(self, fake: Float[Tensor, "b c h w"], near: Float[Tensor, "b c h w"]) -> tuple[Tensor, float]:
        """(value, weight) of zCR's term of the generator: the weight is negative. float32 or wider."""
        return (fake - near).square().mean(), -self.zcr / 10
