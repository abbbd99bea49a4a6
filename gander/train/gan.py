"""The game: a generator and a discriminator that learn from each other. A learner neither logs nor saves; `fit` does."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gander import draws, look
from gander.consistency import CHANGE, Consistency
from gander.cutmix import CutMix, composite
from gander.data.augment import Augment
from gander.errors import UserError
from gander.layers.spectral_norm import by_step, refresh
from gander.losses import Adversarial
from gander.train.balance import Adaptive, LeCam, load
from gander.train.descent import Descent
from gander.train.ema import EMA, ready
from gander.train.judge import Judge, Penalty, logit
from gander.train.learner import SEEN, add, attention, gammas_and_sigmas, variety
from gander.train.precision import Precision, full
from gander.train.samples import Generator, columns_of, latents_of, sample, standing_inputs
from gander.train.shares import Batch, Shares

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
        cutmix: the discriminator, one with `verdicts`, is also paid for what it says of pixels and boxes, of composites too: in an
            update that has them, `cutmix.chance(step)` of all, fakes bear the labels of the real images.
        lecam: its term, added to the discriminator's loss.
        warm_up: steps over which both rates rise, linearly, to those of the optimisers.
        clip: the largest norm that the gradient of a network has in an update; 0 is any.
        augment: DiffAugment, or its adaptive form, on real and fake images alike.
        flip: mirror half of the real images.
        dequantize: real images get U(0, 1/128) on top, so that no value is exactly one of 256.

    Raises:
        UserError: as `Judge` and `Descent`; for CutMix without `verdicts`, adaptive augmentation where a logit's sign says nothing.
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
        cutmix: CutMix | None = None,
        lecam: LeCam | None = None,
        warm_up: int = 0,
        clip: float = 0.0,
        augment: Augment | Adaptive | None = None,
        flip: bool = False,
        dequantize: bool = False,
    ):
        self.generator: Generator = by_step(generator)
        self.discriminator = by_step(discriminator)
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.loss, self.consistency, self.judge = loss, consistency or Consistency(), Judge(discriminator, penalties)
        players = {"generator": generator, "discriminator": discriminator}
        optimizers = {"generator": generator_optimizer, "discriminator": discriminator_optimizer}
        self.descent = Descent(players, optimizers, warm_up=warm_up, clip=clip)
        self.draws_per_step, self.accumulate, self.simultaneous = n_dis, accumulate, simultaneous
        self.cutmix, self.lecam = cutmix, lecam
        self.augment, self.change, self.flip, self.dequantize = augment, Augment(CHANGE), flip, dequantize
        if cutmix and not hasattr(discriminator, "verdicts"):
            raise UserError("CutMix asks for a verdict on each pixel, and this discriminator has none; take pixel_discriminator's")
        if isinstance(augment, Adaptive) and not loss.signed:
            raise UserError("adaptive augmentation goes by the sign of D(x), which says nothing here; take hinge or logistic")
        self.ema = EMA(generator, ema)
        self.precision = Precision("fp32", torch.device("cpu"), PLAYERS)
        self.shown: dict[str, Tensor] = {}  # real and fake images of the last micro-batch, for `details`

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "generator_ema": self.ema.network}

    def to(self, device: torch.device, precision: str = "fp32") -> "Gan":
        for network in self.networks.values():
            network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for part in self._balance.values():
            part.to(device)
        self.precision = Precision(precision, device, PLAYERS)
        return self

    @property
    def _balance(self) -> dict[str, nn.Module]:
        """The parts whose state is the checkpoint's, but for networks and optimisers."""
        parts = {"adaptive": self.augment, "lecam": self.lecam}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

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
            log |= self._discriminator_gradients(batch, draw, i, step)
            if not together:
                log |= self.descent.step("discriminator", step, self.precision)
        if not self.simultaneous:
            refresh(self.generator)
        log |= self._generator_gradients(batches[-1], draw)
        if self.simultaneous:
            log |= self.descent.step("discriminator", step, self.precision)
        log |= self.descent.step("generator", step, self.precision)
        self.ema.update(self.generator, step)
        return log

    def _discriminator_gradients(self, batch: Batch, draw: draws.Draws, i: int, step: int) -> dict[str, Tensor]:
        self.descent.begin("discriminator")
        shares, consistency = self._shares(batch, draw), self.consistency
        latents, labels = shares.latents(self.generator, f"discriminator {i}")
        near = shares.near(latents, f"discriminator {i}", consistency.sigma) if consistency.zcr else None
        reals = shares.reals(f"{i}", flip=self.flip, dequantize=self.dequantize)
        real_looks, fake_looks = (shares.looks(self.augment, f"augment {kind} {i}") for kind in ("real", "fake"))
        change_real = shares.looks(self.change if consistency.of_real else None, f"change real {i}")
        change_fake = shares.looks(self.change if consistency.bcr else None, f"change fake {i}")
        epsilons = shares.uniform(f"penalty {i}") if self.judge.penalties else None
        cuts = self._cuts(shares, i, step)
        sums: dict[str, Tensor] = {}
        said: dict[str, list[Tensor]] = {"real": [], "fake": []}
        for m, (_, real_labels) in enumerate(batch):
            fake_labels = real_labels if cuts else labels[m]  # a composite has one label
            with torch.no_grad(), self.precision.autocast():
                fake = self.generator(latents[m], fake_labels)
                near_fake = self.generator(near[m], fake_labels) if near else None
            self.shown = {"real": reals[m], "fake": full(fake)}
            real, fake = (looks(self.shown[kind], m) for kind, looks in (("real", real_looks), ("fake", fake_looks)))
            shown = {"real": (real, real_labels), "fake": (fake, fake_labels)}
            if consistency.of_real:
                shown["changed real"] = change_real(real, m), real_labels
            if consistency.bcr:
                shown["changed fake"] = change_fake(fake, m), fake_labels
            if near_fake is not None:
                shown["near fake"] = fake_looks(full(near_fake), m), fake_labels
            regions = self.cutmix.cut(cuts[m], real.shape[2:]) if self.cutmix and cuts else None
            with self.precision.autocast():
                verdicts = {name: self.judge.verdicts(*shown.pop(name)) for name in ("real", "fake") if self.cutmix}
                mixed = self.judge.verdicts(composite(real, fake, regions), real_labels) if regions else None
                logits = {name: logit(verdict) for name, verdict in verdicts.items()} | self.judge.logits(shown)
            loss = self.loss.discriminator(logits["real"], logits["fake"])
            values = {"discriminator_loss": loss, "real_logit": logits["real"].mean(), "fake_logit": logits["fake"].mean()}
            terms = consistency.discriminator(logits)
            if self.cutmix:
                terms |= self.cutmix.discriminator(verdicts["real"], verdicts["fake"], mixed, regions)
            if self.lecam and step >= self.lecam.start:
                terms["lecam"] = self.lecam(logits["real"], logits["fake"]), self.lecam.weight
            if epsilons:
                terms |= self.judge.penalised(real, real_labels, fake, fake_labels, epsilons[m])
            for name, (value, weight) in terms.items():
                values[name] = value
                loss = loss + weight * value
            self.precision.backward("discriminator", loss / self.accumulate)
            add(sums, values, 1 / self.accumulate)
            for name, of_all in said.items():
                of_all.append(logits[name].detach())
        return sums | self._seen(said, step)

    def _cuts(self, shares: Shares, i: int, step: int) -> list[Tensor] | None:
        """The numbers of composites, where this update has them: one coin for the global batch."""
        if not self.cutmix or torch.rand((), generator=shares.draw(f"cutmix coin {i}")).item() >= self.cutmix.chance(step):
            return None
        return shares.cut(self.cutmix.draw(shares.draw(f"cutmix {i}"), shares.size))

    def _seen(self, said: Mapping[str, list[Tensor]], step: int) -> dict[str, Tensor]:
        """Tell the parts that go by the discriminator's logits, where there are any; with a line for the log."""
        if not self._balance:
            return {}
        real, fake = torch.cat(said["real"]), torch.cat(said["fake"])
        if self.lecam:
            self.lecam.see(real, fake, step)
        if not isinstance(self.augment, Adaptive):
            return {}
        self.augment.see(real)
        return {"augment_p": self.augment.p.clone()}

    def _generator_gradients(self, batch: Batch, draw: draws.Draws) -> dict[str, Tensor]:
        self.descent.begin("generator")
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
                    fake = full(self.generator(latents[m], labels[m]))
                    near_fake = full(self.generator(near[m], labels[m])) if near else None
                shown = fake_looks(fake, m)
                terms: dict[str, tuple[Tensor, float]] = {}
                with self.precision.autocast():
                    if self.cutmix:
                        verdicts = self.judge.verdicts(shown, labels[m])
                        fake_logits, terms = logit(verdicts), self.cutmix.generator(verdicts)
                    else:
                        fake_logits = full(self.discriminator(shown, labels[m]))
                    real_logits = None
                    if reals is not None:
                        with torch.no_grad():
                            real_logits = full(self.discriminator(real_looks(reals[m], m), real_labels))
                loss = self.loss.generator(real_logits, fake_logits)
                values = {"generator_loss": loss}
                if near_fake is not None:
                    terms["zcr_generator"] = self.consistency.generator(fake, near_fake)
                for name, (value, weight) in terms.items():
                    values[name] = value
                    loss = loss + weight * value
                self.precision.backward("generator", loss / self.accumulate)
                add(sums, values, 1 / self.accumulate)
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
        return sums

    def _shares(self, batch: Batch, draw: draws.Draws) -> Shares:
        return Shares(batch, draw, next(self.generator.parameters()).dtype, self.precision.device)

    def details(self) -> dict[str, Tensor]:
        """What is worth a line in the log beside the losses.

        γ, entropy and distance of each attention layer, the discriminator's at samples; σ of each normalised weight; how much the
        images of the last micro-batch vary.
        """
        self.precision.check()
        found = {f"variety/{kind}": variety(images) for kind, images in self.shown.items()}
        found |= {f"variety/{kind}_colour": variety(images.mean((2, 3))) for kind, images in self.shown.items()}
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
        self.descent.slow_down(factor)

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.descent.state_dict(),
            "precision": self.precision.state_dict(),
            **{name: part.state_dict() for name, part in self._balance.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if missing := sorted({"generator_optimizer", "discriminator_optimizer", "precision", *self._balance} - state.keys()):
            raise UserError(f"the checkpoint's state has no {missing[0]}; delete that checkpoint to take the one before it")
        self.descent.load_state_dict(state)
        self.precision.load_state_dict(state["precision"])
        for name, part in self._balance.items():
            load(name, part, state[name])
