"""What a recipe is given and what it hands back."""

from dataclasses import dataclass, field

from torch import nn

from gander.train.fit import Learner


@dataclass(frozen=True)
class Facts:
    """What the data says of itself (`gander show` takes it from flags)."""

    num_images: int
    num_classes: int
    channels: int


@dataclass
class Experiment:
    """A learner ready to be fitted. `notes` are lines worth saying once, before the first step."""

    learner: Learner
    batch: int
    steps: int
    resolution: int
    notes: list[str] = field(default_factory=list)
    growing: bool = True  # no schedule depends on `steps`: a run may be given more of them

    @property
    def networks(self) -> dict[str, nn.Module]:
        return self.learner.networks


def notes(facts: Facts, augment: str, unconditional: str = "") -> list[str]:
    """What is worth saying of this data: labels that `unconditional`, a recipe's name, does not use; images that are few."""
    said = []
    if unconditional and facts.num_classes:
        said.append(
            f"the labels ({facts.num_classes} classes) are not used: {unconditional} is unconditional; sagan_official uses them"
        )
    if augment == "none" and facts.num_images < 10_000:
        said.append(
            f"{facts.num_images:,} images are few; --augment color,translation,cutout keeps them from being learned by heart"
        )
    return said
