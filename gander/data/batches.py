"""Prepared images -> the batches of a step. There is no loader state: a batch is a function of (seed, its number)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gander import distributed, draws
from gander.distributed import send
from gander.errors import UserError

Batch = list[tuple[Tensor, Tensor]]  # this process's micro-batches of one global batch: images in [-1, 1], labels

DEVICE_SHARE = 0.25  # of the free memory of the device: data sets up to this are kept there whole


class Batches:
    """`batches(step)`: the `per_step` global batches of a step, each as this process's micro-batches on the device.

    Every epoch is a new order, a function of (seed, epoch); what is left over at its end is dropped. Images are uint8 at
    rest (on the device where they fit) and become float in [-1, 1] there.
    Raises UserError where there are fewer images than a batch, or the batch cannot be cut evenly.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch: int,
        seed: int,
        per_step: int = 1,
        accumulate: int = 1,
        device: torch.device | str = "cpu",
    ):
        distributed.check_batch(batch, accumulate)
        if len(images) < batch:
            raise UserError(f"{len(images):,} images are fewer than a batch of {batch}; take --batch {max(1, len(images))} or less")
        self.batch, self.seed, self.per_step, self.accumulate = batch, seed, per_step, accumulate
        self.device = torch.device(device)
        self.per_epoch = len(images) // batch
        self.images, self.labels = images, torch.from_numpy(np.array(labels)).to(self.device)
        self.on_device = _to_device(images, self.device)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __call__(self, step: int) -> list[Batch]:
        return [self._at(step * self.per_step + i) for i in range(self.per_step)]

    def _at(self, number: int) -> Batch:
        chosen = torch.from_numpy(self._indices(number))
        return [self._fetch(share) for share in distributed.shares(chosen, self.accumulate)]

    def _indices(self, number: int) -> np.ndarray:
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            generator = draws.generator("order", self.seed, epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.images), generator=generator).numpy()
        return self._order[place * self.batch : (place + 1) * self.batch]

    def _fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        at = send(indices, self.device)
        if self.on_device is not None:
            images = self.on_device[at]
        else:
            order = indices.numpy().argsort()  # a memory map is read fastest in its own order
            images = torch.from_numpy(self.images[indices.numpy()[order]])[torch.from_numpy(order.argsort())]
            images = send(images, self.device)
        return _floats(images), self.labels[at]


def in_order(images: np.ndarray, labels: np.ndarray, device: torch.device, batch: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's part of all images, in their order and in batches of that size at most; the processes' parts make the whole.

    Each process gets one image at least where there are as many as processes.
    """
    batch = max(1, min(batch, len(images) // distributed.processes()))
    for start in range(distributed.rank() * batch, len(images), distributed.processes() * batch):
        part = slice(start, start + batch)
        yield (
            _floats(send(torch.from_numpy(np.array(images[part])), device)),
            send(torch.from_numpy(np.array(labels[part])), device),
        )


def _floats(images: Tensor) -> Tensor:
    """uint8 (n, h, w, c) as floats (n, c, h, w) in [-1, 1], channels_last."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _to_device(images: np.ndarray, device: torch.device) -> Tensor | None:
    """All images as one tensor on the device, if they take no more than a quarter of what is free there.

    On the CPU a memory map stays one: the system keeps in memory what is used.
    """
    if device.type == "cpu" and isinstance(images, np.memmap):
        return None
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = 4 << 30  # nobody tells what is free there
    if device.type != "cpu" and images.nbytes > DEVICE_SHARE * free:
        return None
    if device.type == "cpu" and images.flags.writeable:
        return torch.from_numpy(images)
    there = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), 4096):  # in parts: a whole copy in between might not fit
        there[start : start + 4096].copy_(torch.from_numpy(images[start : start + 4096].copy()))
    return there
