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
