"""How a discriminator is asked about several batches of images at once."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gander.cutmix import Verdicts
from gander.errors import UserError
from gander.layers.norms import has_batch_statistics
from gander.layers.reversible import ReversibleSequence
from gander.penalties import SECOND_DERIVATIVE
from gander.train.precision import full

Penalty = Callable[..., Tensor]
Shown = Mapping[str, tuple[Tensor, Tensor]]  # images and their labels, by name


class Judge:
    """Logits, verdicts and penalties of a discriminator, all of float32 at least.

    Raises:
        UserError: for a weight that is negative or not finite, and a penalty by second derivatives of a reversible discriminator.
    """

    def __init__(self, discriminator: nn.Module, penalties: Sequence[tuple[Penalty, float]] = ()) -> None:
        self.discriminator: Any = discriminator
        self.penalties = list(penalties)
        # Statistics of a batch must not mix real and fake images; without them one pass over both is the same and cheaper.
        self.apart = has_batch_statistics(discriminator)
        reversible = any(isinstance(layer, ReversibleSequence) and layer.reversible for layer in discriminator.modules())
        for penalty, weight in self.penalties:
            if not 0 <= weight < math.inf:
                raise UserError(f"{penalty.__name__} {weight} is no weight; 0 is off")
            if reversible and penalty in SECOND_DERIVATIVE:
                raise UserError(
                    f"{penalty.__name__} takes a second derivative, and this discriminator is reversible, which has none; "
                    "take approximate_r1 or approximate_r2 in its place, or reversible=False"
                )

    def logits(self, shown: Shown) -> dict[str, Tensor]:
        if self.apart or not shown:
            return {name: full(self.discriminator(images, labels)) for name, (images, labels) in shown.items()}
        images, labels = (torch.cat(parts) for parts in zip(*shown.values(), strict=True))
        logits = full(self.discriminator(images, labels)).split([len(images) for images, _ in shown.values()])
        return dict(zip(shown, logits, strict=True))

    def verdicts(self, images: Tensor, labels: Tensor) -> Verdicts:
        return Verdicts(*(None if head is None else full(head) for head in self.discriminator.verdicts(images, labels)))

    def penalised(
        self, real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, epsilon: Tensor
    ) -> dict[str, tuple[Tensor, float]]:
        """(value, weight) of each penalty."""
        given = (real, real_labels, fake, fake_labels, epsilon)
        return {penalty.__name__: (penalty(self.discriminator, *given), weight) for penalty, weight in self.penalties}


def logit(verdicts: Verdicts) -> Tensor:
    """The image's, as the discriminator's forward has it."""
    if verdicts.image is not None:
        return verdicts.image
    assert verdicts.pixels is not None
    return verdicts.pixels.mean((1, 2, 3))
