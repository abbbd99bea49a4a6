"""The lesson: a classifier learns labels. A learner neither logs nor saves; `fit` does."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gander import distributed, draws
from gander.data.crops import centre_crop, draw_boxes, resized_crop
from gander.errors import UserError
from gander.layers.spectral_norm import by_step, refresh
from gander.train.belief import load_optimizer
from gander.train.learner import SEEN, attention, gammas_and_sigmas
from gander.train.precision import Precision

RISE, FIRST, LAST = 0.3, 1 / 10, 1e-5  # share of the steps in which the rate rises; its first and last values, in its highest
HIGH, LOW = 0.95, 0.85  # β₁ where the rate is low, and where it is highest


def one_cycle(step: int, steps: int) -> tuple[float, float]:
    """(rate as a share of the highest, β₁) of a step, counted from 0: Smith 2018 as fastai has it, cosines up and down.

    Rate 1/10 -> 1 over the first 30 % of the steps, then -> 1e-5; β₁ 0.95 -> 0.85 -> 0.95 meanwhile.
    """
    done = step / steps
    if done < RISE:
        return _cosine(FIRST, 1.0, done / RISE), _cosine(HIGH, LOW, done / RISE)
    falling = (done - RISE) / (1 - RISE)
    return _cosine(1.0, LAST, falling), _cosine(LOW, HIGH, falling)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def mixup_weights(alpha: float, n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """max(l, 1 - l) for n draws l ~ Beta(alpha, alpha), float64: by the inverse of its distribution function from ½ on."""
    from scipy.special import betaincinv

    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    return torch.from_numpy(betaincinv(alpha, alpha, (0.5 + uniform / 2).numpy())).clamp(0.5, 1)


class Lesson:
    """One step: one update of the classifier, by the mean over a batch of crops of

        λ · CE(logits, label) + (1 - λ) · CE(logits, partner's label),   logits = classifier(λ · image + (1 - λ) · partner)

    with CE = (1 - smoothing) · cross entropy + smoothing · its mean over all classes; λ = max(l, 1 - l), l ~ Beta(mixup, mixup) for
    each image (Zhang et al. 2018, as fastai has it; λ = 1 without mixup); partners by a permutation of the micro-batch.

    Batches hold squares larger than `resolution`: see `gander.data.crops`. Rate and β₁ follow `one_cycle` and are functions of the
    step alone.

    Args:
        classifier: images (b, c, h, w) in [-1, 1] -> logits (b, k); made channels_last, spectral norms switched to by-step.
        optimizer: over its parameters; its rate is the highest of the cycle, its first beta that of the cycle.
        steps: of the whole cycle.
        resolution: side of the images; held-out ones are the middle of their squares.
        smoothing: of the labels.
        mixup: α of the Beta law; 0 is none.
        flip: mirror half of the images.
        accumulate: micro-batches of one batch whose gradients are averaged.
        progressive: sides that training begins with, equal shares of the steps for each and for `resolution`, which is the last.

    Raises:
        UserError: for smoothing outside [0, 1), and a first side that is not below the resolution.
    """

    draws_per_step = 1
    columns = 0

    def __init__(
        self,
        classifier: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        steps: int,
        resolution: int,
        smoothing: float = 0.1,
        mixup: float = 0.0,
        flip: bool = True,
        accumulate: int = 1,
        progressive: Sequence[int] = (),
    ):
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing {smoothing} is not from 0 up to, and without, 1; 0.1 is the usual one")
        for side in progressive:
            if not 0 < side < resolution:
                raise UserError(f"progressive {side} is no side below the resolution {resolution}, which comes last by itself")
        self.classifier = by_step(classifier)
        self.optimizer, self.steps, self.resolution = optimizer, steps, resolution
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.smoothing, self.mixup, self.flip, self.accumulate = smoothing, mixup, flip, accumulate
        self.sides = (*progressive, resolution)
        self.slowed = 1.0
        self.precision = Precision("fp32", torch.device("cpu"), ["classifier"])
        self.shown: Tensor | None = None  # of the last step, for `details`
        self.confusion: Int[Tensor, "k k"] | None = None  # of the last exam: how many images of each class (row) were called what

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"classifier": self.classifier}

    def to(self, device: torch.device, precision: str = "fp32") -> "Lesson":
        self.classifier.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = Precision(precision, device, ["classifier"])
        return self

    def step(self, step: int, batches: list, draw: draws.Draws) -> dict[str, Tensor]:
        """Take one step on this process's share of the global batch. All values returned stay on the device."""
        self.classifier.train()
        self._schedule(step)
        refresh(self.classifier)
        self.optimizer.zero_grad(set_to_none=True)
        (batch,) = batches
        images = self._crops(step, batch, draw)
        self.shown = images[-1][:SEEN]
        weights = self._cut(mixup_weights(self.mixup, self._size(batch), draw("mixup"))) if self.mixup else []
        total = torch.zeros((), device=self.precision.device)
        for m, (_, labels) in enumerate(batch):
            shown, theirs = self._mixed(images[m], labels, weights[m], draw(f"partner {m}")) if self.mixup else (images[m], labels)
            logits = self._logits(shown)
            loss = self._cross_entropy(logits, labels)
            if self.mixup:
                loss = torch.lerp(self._cross_entropy(logits, theirs), loss, weights[m])
            loss = loss.mean()
            self.precision.backward("classifier", loss / self.accumulate)
            total = total + loss.detach() / self.accumulate
        parameters = list(self.classifier.parameters())
        distributed.average_gradients(parameters)
        return {"loss": total, "gradient": self.precision.step("classifier", self.optimizer, parameters)}

    def _schedule(self, step: int) -> None:
        rate, momentum = one_cycle(step, self.steps)
        for group, highest in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"], group["betas"] = self.slowed * highest * rate, (momentum, group["betas"][1])

    def _size(self, batch: list) -> int:
        return sum(len(squares) for squares, _ in batch) * distributed.processes()

    def _cut(self, drawn: Tensor) -> list[Tensor]:
        """What was drawn for the global batch, as the batch is cut."""
        drawn = drawn.to(next(self.classifier.parameters()).dtype)
        return [distributed.send(share, self.precision.device) for share in distributed.shares(drawn, self.accumulate)]

    def _crops(self, step: int, batch: list, draw: draws.Draws) -> list[Tensor]:
        """The images of each micro-batch."""
        n = self._size(batch)
        boxes = self._cut(draw_boxes(draw("crop"), n))
        coins = self._cut(torch.rand(n, generator=draw("flip")) if self.flip else torch.ones(n))
        crops = [
            resized_crop(squares, box, self.resolution, coin < 0.5)
            for (squares, _), box, coin in zip(batch, boxes, coins, strict=True)
        ]
        side = self.sides[step * len(self.sides) // self.steps]
        if side == self.resolution:
            return crops
        return [F.interpolate(x, (side, side), mode="bilinear", antialias=True) for x in crops]

    def _mixed(self, images: Tensor, labels: Tensor, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images mixed with others of their micro-batch, that of all processes; and the labels of these."""
        n = len(images)
        mine, whole = slice(distributed.rank() * n, (distributed.rank() + 1) * n), n * distributed.processes()
        partners = distributed.send(torch.randperm(whole, generator=generator)[mine], images.device)
        others, theirs = (_of_all(x, mine, whole)[partners] for x in (images, labels))
        return torch.lerp(others, images, weight[:, None, None, None]), theirs

    def _logits(self, images: Tensor) -> Tensor:
        """In float32 at least, whatever the forward ran in."""
        with self.precision.autocast():
            logits = self.classifier(images)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction="none")

    @torch.no_grad()
    def examine(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Over held-out squares, of which the middle is shown: accuracy and cross entropy, means over images.

        Top-5 where there are more than 5 classes. `confusion` counts them.
        """
        self.classifier.eval()
        rows, pairs = [], []
        for squares, labels in batches:
            logits = self._logits(centre_crop(squares, self.resolution))
            k = logits.shape[1]
            called = logits.topk(min(5, k), 1).indices
            right = called == labels[:, None]
            rows.append(torch.stack([right[:, 0], right.any(1), F.cross_entropy(logits, labels, reduction="none")], 1))
            pairs.append(labels * k + called[:, 0])
        first, five, loss = torch.cat(rows).cpu().double().mean(0).tolist()
        self.confusion = torch.bincount(torch.cat(pairs).cpu(), minlength=k * k).view(k, k)
        found = {"exam/top-1 accuracy": first, "exam/top-5 accuracy": five, "exam/loss": loss}
        return {name: value for name, value in found.items() if k > 5 or "top-5" not in name}

    def details(self) -> dict[str, Tensor]:
        """The rate and β₁ of the last step; γ, entropy and distance of each attention layer, and σ of each normalised weight."""
        self.precision.check()
        group = self.optimizer.param_groups[0]
        found = {"learning_rate": torch.tensor(group["lr"]), "beta1": torch.tensor(group["betas"][0])}
        found |= gammas_and_sigmas(self.classifier)
        return found if self.shown is None else found | attention(self.classifier, [self.shown], self.shown.shape[-1])

    def samples(self, seed: int, count: int | None = None) -> Tensor:
        raise UserError("a classifier makes no images")

    def slow_down(self, factor: float) -> None:
        self.slowed *= factor

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "precision": self.precision.state_dict(), "slowed": self.slowed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if missing := sorted({"optimizer", "precision", "slowed"} - state.keys()):
            raise UserError(f"the checkpoint's state has no {missing[0]}; delete that checkpoint to take the one before it")
        if not (isinstance(state["slowed"], float) and 0 < state["slowed"] <= 1):
            raise UserError(
                f"the checkpoint's rates are {state['slowed']!r} of what they were; delete it to take the one before it"
            )
        load_optimizer(self.optimizer, state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        self.slowed = state["slowed"]


def _of_all(x: Tensor, mine: slice, whole: int) -> Tensor:
    """The micro-batch of all processes, of which this one has the rows `mine`."""
    if distributed.processes() == 1:
        return x
    padded = x.new_zeros(whole, *x.shape[1:])
    padded[mine] = x
    return distributed.all_reduce(padded)
