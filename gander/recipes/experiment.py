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
    """A learner ready to be fitted. `notes` are lines worth saying once, before the first step.

    A learner that can `examine` held-out images does so every `exam_every` steps, by default every epoch, and at the end.
    """

    learner: Learner
    batch: int
    steps: int
    resolution: int
    notes: list[str] = field(default_factory=list)
    growing: bool = True  # no schedule depends on `steps`: a run may be given more of them
    side: int | None = None  # of the prepared squares that the learner cuts its images from; None: the resolution
    labelled: bool = False  # it learns from labels: data without them are refused
    exam_every: int = 0

    @property
    def networks(self) -> dict[str, nn.Module]:
        return self.learner.networks


def notes(
    facts: Facts, augment: str, unconditional: str = "", *, attention: str = "", at: tuple[int, ...] | None = None
) -> list[str]:
    """What is worth saying: labels that `unconditional`, a recipe's name, does not use; few images; a place for no attention."""
    said = []
    if at and attention == "none":
        said.append(f"attention at {', '.join(map(str, at))} changes nothing, as attention is none; --attention self is one")
    if unconditional and facts.num_classes:
        said.append(
            f"the labels ({facts.num_classes} classes) are not used: {unconditional} is unconditional; sagan_official uses them"
        )
    if augment == "none" and facts.num_images < 10_000:
        said.append(
            f"{facts.num_images:,} images are few; --augment color,translation,cutout keeps them from being learned by heart"
        )
    return said
