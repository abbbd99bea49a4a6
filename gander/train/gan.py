"""The game: a generator and a discriminator that learn from each other. A learner neither logs nor saves; `fit` does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gander import distributed, draws, look
from gander.consistency import CHANGE, Consistency
from gander.data.augment import Augment
from gander.errors import UserError
from gander.layers.norms import has_batch_statistics
from gander.layers.spectral_norm import by_step, refresh
from gander.losses import Adversarial
from gander.train.belief import load_optimizer
from gander.train.ema import EMA, ready
from gander.train.learner import SEEN, attention, gammas_and_sigmas
from gander.train.precision import Precision
from gander.train.samples import Generator, columns_of, latents_of, sample, standing_inputs
from gander.train.shares import Batch, Shares

Penalty = Callable[..., Tensor]
PLAYERS = ("generator", "discriminator")


class Gan:
    """One step: `n_dis` updates of the discriminator, one of the generator.

    Args:
        generator, discriminator: by the contract of `gander.models`; made channels_last, spectral norms switched to by-step.
        generator_optimizer, discriminator_optimizer: over their parameters.
        loss: a pair from `gander.losses`.
        penalties: (function of `gander.penalties`, weight) pairs, added to the discriminator's loss.
        consistency: terms of `gander.consistency`; their images go through the discriminator with the others.
        n_dis: discriminator updates a step; each takes its own batch.
        accumulate: micro-batches of one batch whose gradients are averaged. A network with batch norm sees each apart.
        simultaneous: both gradients from the same weights, as the article has it; else the discriminator moves first.
        ema: decay of the average of the generator's weights.
        augment: DiffAugment, on real and fake images alike.
        flip: mirror half of the real images.
        dequantize: real images get U(0, 1/128) on top, so that no value is exactly one of 256.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: nn.Module,
        *,
        generator_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        loss: Adversarial,
        penalties: Sequence[tuple[Penalty, float]] = (),
        consistency: Consistency | None = None,
        n_dis: int = 1,
        accumulate: int = 1,
        simultaneous: bool = False,
        ema: float = 0.999,
        augment: Augment | None = None,
        flip: bool = False,
        dequantize: bool = False,
    ):
        self.generator: Generator = by_step(generator)
        self.discriminator = by_step(discriminator)
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.loss, self.penalties, self.consistency = loss, list(penalties), consistency or Consistency()
        self.draws_per_step, self.accumulate, self.simultaneous = n_dis, accumulate, simultaneous
        self.augment, self.change, self.flip, self.dequantize = augment, Augment(CHANGE), flip, dequantize
        self.ema = EMA(generator, ema)
        # Statistics of a batch must not mix real and fake images; without them one pass over both is the same and cheaper.
        self.apart = has_batch_statistics(discriminator)
        self.precision = Precision("fp32", torch.device("cpu"), PLAYERS)
        self.shown: dict[str, Tensor] = {}  # real and fake images of the last micro-batch, for `details`

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "generator_ema": self.ema.network}

    def to(self, device: torch.device, precision: str = "fp32") -> "Gan":
        for network in self.networks.values():
            network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = Precision(precision, device, PLAYERS)
        return self

    def step(self, step: int, batches: list[Batch], draw: draws.Draws) -> dict[str, Tensor]:
        """Take one step on this process's share of the global batches. All values returned stay on the device."""
        self.generator.train()
        self.discriminator.train()
        log: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            together = self.simultaneous and i == len(batches) - 1
            refresh(self.discriminator)
            if together:
                refresh(self.generator)
            log |= self._discriminator_gradients(batch, draw, i)
            if not together:
                log |= self._descend("discriminator", self.discriminator, self.discriminator_optimizer)
        if not self.simultaneous:
            refresh(self.generator)
        log |= self._generator_gradients(batches[-1], draw)
        if self.simultaneous:
            log |= self._descend("discriminator", self.discriminator, self.discriminator_optimizer)
        log |= self._descend("generator", self.generator, self.generator_optimizer)
        self.ema.update(self.generator, step)
        return log

    def _discriminator_gradients(self, batch: Batch, draw: draws.Draws, i: int) -> dict[str, Tensor]:
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        shares, consistency = self._shares(batch, draw), self.consistency
        latents, labels = shares.latents(self.generator, f"discriminator {i}")
        near = shares.near(latents, f"discriminator {i}", consistency.sigma) if consistency.zcr else None
        reals = shares.reals(f"{i}", flip=self.flip, dequantize=self.dequantize)
        real_looks, fake_looks = (shares.looks(self.augment, f"augment {kind} {i}") for kind in ("real", "fake"))
        change_real = shares.looks(self.change if consistency.of_real else None, f"change real {i}")
        change_fake = shares.looks(self.change if consistency.bcr else None, f"change fake {i}")
        epsilons = shares.uniform(f"penalty {i}") if self.penalties else None
        sums: dict[str, Tensor] = {}
        for m, (_, real_labels) in enumerate(batch):
            with torch.no_grad(), self.precision.autocast():
                fake = self.generator(latents[m], labels[m])
                near_fake = self.generator(near[m], labels[m]) if near else None
            self.shown = {"real": reals[m], "fake": _full(fake)}
            real, fake = (looks(self.shown[kind], m) for kind, looks in (("real", real_looks), ("fake", fake_looks)))
            shown = {"real": (real, real_labels), "fake": (fake, labels[m])}
            if consistency.of_real:
                shown["changed real"] = change_real(real, m), real_labels
            if consistency.bcr:
                shown["changed fake"] = change_fake(fake, m), labels[m]
            if near_fake is not None:
                shown["near fake"] = fake_looks(_full(near_fake), m), labels[m]
            with self.precision.autocast():
                logits = self._judge(shown)
            loss = self.loss.discriminator(logits["real"], logits["fake"])
            values = {"discriminator_loss": loss, "real_logit": logits["real"].mean(), "fake_logit": logits["fake"].mean()}
            for name, (value, weight) in consistency.discriminator(logits).items():
                values[name] = value
                loss = loss + weight * value
            for penalty, weight in self.penalties:
                assert epsilons is not None
                value = penalty(self.discriminator, real, real_labels, fake, labels[m], epsilons[m])
                values[penalty.__name__] = value
                loss = loss + weight * value
            self.precision.backward("discriminator", loss / self.accumulate)
            _add(sums, values, 1 / self.accumulate)
        return sums

    def _generator_gradients(self, batch: Batch, draw: draws.Draws) -> dict[str, Tensor]:
        self.generator_optimizer.zero_grad(set_to_none=True)
        # The simultaneous form differentiates both losses at the same fakes.
        role = f"discriminator {self.draws_per_step - 1}" if self.simultaneous else "generator"
        shares = self._shares(batch, draw)
        latents, labels = shares.latents(self.generator, role)
        near = shares.near(latents, role, self.consistency.sigma) if self.consistency.zcr else None
        reals = shares.reals("generator", flip=self.flip, dequantize=self.dequantize) if self.loss.paired else None
        real_looks, fake_looks = (shares.looks(self.augment, f"augment {kind} generator") for kind in ("real", "fake"))
        sums: dict[str, Tensor] = {}
        learning = [p for p in self.discriminator.parameters() if p.requires_grad]  # not what a user has frozen
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            for m, (_, real_labels) in enumerate(batch):
                with self.precision.autocast():
                    fake = _full(self.generator(latents[m], labels[m]))
                    near_fake = _full(self.generator(near[m], labels[m])) if near else None
                shown = fake_looks(fake, m)
                with self.precision.autocast():
                    fake_logits = _full(self.discriminator(shown, labels[m]))
                    real_logits = None
                    if reals is not None:
                        with torch.no_grad():
                            real_logits = _full(self.discriminator(real_looks(reals[m], m), real_labels))
                loss = self.loss.generator(real_logits, fake_logits)
                values = {"generator_loss": loss}
                if near_fake is not None:
                    values["zcr_generator"], weight = self.consistency.generator(fake, near_fake)
                    loss = loss + weight * values["zcr_generator"]
                self.precision.backward("generator", loss / self.accumulate)
                _add(sums, values, 1 / self.accumulate)
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
        return sums

    def _judge(self, shown: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        if self.apart:
            return {name: _full(self.discriminator(images, labels)) for name, (images, labels) in shown.items()}
        images, labels = (torch.cat(parts) for parts in zip(*shown.values(), strict=True))
        logits = _full(self.discriminator(images, labels)).split([len(images) for images, _ in shown.values()])
        return dict(zip(shown, logits, strict=True))

    def _descend(self, name: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        parameters = list(network.parameters())
        distributed.average_gradients(parameters)
        norm = self.precision.step(name, optimizer, parameters)
        return {f"{name}_gradient": norm}

    def _shares(self, batch: Batch, draw: draws.Draws) -> Shares:
        return Shares(batch, draw, next(self.generator.parameters()).dtype, self.precision.device)

    def details(self) -> dict[str, Tensor]:
        """What is worth a line in the log beside the losses.

        γ, entropy and distance of each attention layer, the discriminator's at samples; σ of each normalised weight; how much the
        images of the last micro-batch vary.
        """
        self.precision.check()
        found = {f"variety/{kind}": _variety(images) for kind, images in self.shown.items()}
        found |= {f"variety/{kind}_colour": _variety(images.mean((2, 3))) for kind, images in self.shown.items()}
        for name, network in (("generator", self.generator), ("discriminator", self.discriminator)):
            found |= gammas_and_sigmas(network, f"{name}.")
        return found | self._attention()

    @torch.no_grad()
    def _attention(self) -> dict[str, Tensor]:
        if not any(look.layers(network) for network in (self.generator, self.discriminator)):
            return {}
        device = self.precision.device
        latents, labels = latents_of(self.generator, 0, range(SEEN))
        inputs = (latents.to(device, next(self.generator.parameters()).dtype), labels.to(device))
        images = ready(self.generator)(*inputs)
        found = attention(self.generator, inputs, images.shape[-1], "generator.")
        return found | attention(self.discriminator, (images, inputs[1]), images.shape[-1], "discriminator.")

    @property
    def columns(self) -> int:
        """Of a grid of samples: one a class where that fits a page."""
        return columns_of(self.generator)

    def samples(self, seed: int, count: int | None = None) -> Tensor:
        """The first `count` samples of the averaged generator, eight rows of them by default; labels go round the classes."""
        return sample(self.sampler(), seed, range(count or 8 * self.columns), device=self.precision.device)

    def sampler(self) -> Generator:
        """The averaged generator, ready to sample from, with standing statistics."""
        return ready(self.ema.network, standing_inputs(self.ema.network, device=self.precision.device))

    def slow_down(self, factor: float) -> None:
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] *= factor

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "precision": self.precision.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if missing := sorted({"generator_optimizer", "discriminator_optimizer", "precision"} - state.keys()):
            raise UserError(f"the checkpoint's state has no {missing[0]}; delete that checkpoint to take the one before it")
        load_optimizer(self.generator_optimizer, state["generator_optimizer"])
        load_optimizer(self.discriminator_optimizer, state["discriminator_optimizer"])
        self.precision.load_state_dict(state["precision"])


def _full(x: Tensor) -> Tensor:
    """fp32 where a forward ran in less: losses and penalties are made of it. float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def _variety(x: Tensor) -> Tensor:
    """√ of the mean over all but the first axis of the variance over the first, that of all processes: 0 where all are one."""
    n = len(x) * distributed.processes()
    mean = distributed.all_reduce(x.sum(0)) / n
    return (distributed.all_reduce((x - mean).square().sum(0)) / n).mean().sqrt()


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor], weight: float) -> None:
    for name, value in values.items():
        value = value.detach() * weight
        sums[name] = sums[name] + value if name in sums else value
