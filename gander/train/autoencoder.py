"""Reconstruction: an auto-encoder learns to say an image again. A learner neither logs nor saves; `fit` does."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gander import distributed, draws
from gander.data.augment import horizontal_flip
from gander.errors import UserError
from gander.layers.spectral_norm import by_step, refresh
from gander.train.belief import load_optimizer
from gander.train.learner import SEEN, attention, gammas_and_sigmas
from gander.train.precision import Precision

LOSSES = {"l1": lambda x, y: (x - y).abs().mean(), "mse": lambda x, y: (x - y).square().mean()}
SHOWN = 32  # images of a step that a sheet shows beside their reconstructions


def psnr(x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image in decibels: 10·log10(2² / mean (x - y)²), 2 being the width of [-1, 1].

    At most 106: what differs by less than 1e-5 counts as that, so that one image without a fault is no infinity in a mean.
    """
    return 10 * torch.log10(4 / (x - y).square().mean((1, 2, 3)).clamp_min(1e-10))


class Reconstruction:
    """One step: one update of the auto-encoder, by the gradient of its loss over a batch.

    Args:
        autoencoder: images (b, c, h, w) in [-1, 1] -> the same again; made channels_last, spectral norms switched to by-step.
        optimizer: over its parameters.
        loss: l1, mean |x - y|, or mse, mean (x - y)².
        accumulate: micro-batches of one batch whose gradients are averaged.
        flip: mirror half of the images.
    """

    draws_per_step = 1

    def __init__(
        self,
        autoencoder: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        loss: Literal["l1", "mse"] = "l1",
        accumulate: int = 1,
        flip: bool = False,
    ):
        self.autoencoder = by_step(autoencoder)
        self.optimizer, self.loss, self.accumulate, self.flip = optimizer, loss, accumulate, flip
        self.precision = Precision("fp32", torch.device("cpu"), ["autoencoder"])
        self.shown: Tensor | None = None  # the images of the last micro-batch

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def to(self, device: torch.device, precision: str = "fp32") -> "Reconstruction":
        self.autoencoder.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = Precision(precision, device, ["autoencoder"])
        return self

    def step(self, step: int, batches: list, draw: draws.Draws) -> dict[str, Tensor]:
        self.autoencoder.train()
        refresh(self.autoencoder)
        self.optimizer.zero_grad(set_to_none=True)
        (batch,) = batches
        images = [images for images, _ in batch]
        if self.flip:
            coins = torch.rand(sum(map(len, images)) * distributed.processes(), generator=draw("flip"))
            shares = distributed.shares(coins, self.accumulate)
            images = [horizontal_flip(x, coin.to(x.device) < 0.5) for x, coin in zip(images, shares, strict=True)]
        total = torch.zeros((), device=images[0].device, dtype=images[0].dtype)
        for x in images:
            with self.precision.autocast():
                said = self.autoencoder(x)
            loss = LOSSES[self.loss](said.to(x.dtype), x) / self.accumulate
            self.precision.backward("autoencoder", loss)
            total = total + loss.detach()
        self.shown = images[-1]
        parameters = list(self.autoencoder.parameters())
        distributed.average_gradients(parameters)
        return {"loss": total, "gradient": self.precision.step("autoencoder", self.optimizer, parameters)}

    @torch.no_grad()
    def examine(self, batches: Iterable) -> dict[str, float]:
        """Over held-out images: PSNR in decibels, the mean over images; mean |x - y| and (x - y)², x in [-1, 1]."""
        self.autoencoder.eval()
        rows = []
        for x, _ in batches:
            with self.precision.autocast():
                said = self.autoencoder(x)
            apart = said.float() - x
            rows.append(torch.stack([psnr(said.float(), x), apart.abs().mean((1, 2, 3)), apart.square().mean((1, 2, 3))], 1))
        found = torch.cat(rows).double().mean(0).tolist()
        return dict(zip(("exam/PSNR", "exam/L1", "exam/MSE"), found, strict=True))

    def details(self) -> dict[str, Tensor]:
        """γ, entropy and distance of each attention layer, and σ of each normalised weight."""
        self.precision.check()
        found = gammas_and_sigmas(self.autoencoder)
        return found if self.shown is None else found | attention(self.autoencoder, [self.shown[:SEEN]], self.shown.shape[-1])

    @property
    def columns(self) -> int:
        return 0 if self.shown is None else min(8, len(self.shown))

    @torch.no_grad()
    def samples(self, seed: int, count: int | None = None) -> Tensor:
        """Images of the last step, in rows, and under each row what the auto-encoder makes of it."""
        assert self.shown is not None
        columns = self.columns
        images = self.shown[: min(count or SHOWN, len(self.shown)) // columns * columns]
        self.autoencoder.eval()
        with self.precision.autocast():
            said = self.autoencoder(images).float()
        both = torch.stack([images.float().unflatten(0, (-1, columns)), said.unflatten(0, (-1, columns))], 1)
        return both.flatten(0, 2).cpu()

    def slow_down(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "precision": self.precision.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if missing := sorted({"optimizer", "precision"} - state.keys()):
            raise UserError(f"the checkpoint's state has no {missing[0]}; delete that checkpoint to take the one before it")
        load_optimizer(self.optimizer, state["optimizer"])
        self.precision.load_state_dict(state["precision"])
