"""A few functions over torch.distributed. One process is the common case and costs nothing.

Start several with `torchrun --standalone --nproc-per-node N -m gander -- train ...`.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gander.distributed.pulse import Pulse, with_advice
from gander.errors import UserError

T = TypeVar("T")
_pulse: Pulse | None = None


class Lost(UserError):
    """Another process is gone."""


@contextlib.contextmanager
def session(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, for as long as the block runs; nothing where it started none.

    It ends with a barrier, so that no process leaves while another still writes, then destroys the group. A process that
    dies, fails or hangs (`GANDER_PATIENCE`, in seconds) ends the others with a line that names it and its step.
    """
    global _pulse
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    cuda = device.type == "cuda"
    # the others wait while the first prepares the images, which may take long
    waiting = timedelta(hours=2)
    store, rank, size = next(dist.rendezvous("env://", timeout=waiting))
    where = device if cuda else None
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=waiting, device_id=where)
    _pulse, last_words = Pulse(store, rank, size), ""
    try:
        yield
        barrier()
    except Lost:  # another's end, of which all have heard
        raise
    except BaseException as error:
        line = (str(error).splitlines() or [""])[0]
        last_words = line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
        raise
    finally:
        _pulse.stop(last_words)
        _pulse = None
        dist.destroy_process_group()


def at(step: int) -> None:
    """Say which step this process is in, for the line that the others end with should it be lost."""
    if _pulse:
        _pulse.step = step


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Around a collective. UserError where another process is gone."""
    if _pulse is None:
        yield
        return
    _pulse.entered += 1
    try:
        yield
    except RuntimeError as error:
        raise Lost(with_advice(_pulse.missing(error))) from error


def device(asked: str | None) -> torch.device:
    """The device this process computes on: as asked, else the best there is. UserError where it is not there."""
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(asked or best)
    except RuntimeError:
        raise UserError(f"no device called {asked!r}; there are: cpu, cuda, cuda:1, mps") from None
    if found.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device {asked} is not tried with gander; take cpu, cuda or mps")
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {asked}, but torch sees no CUDA GPU here; take --device {best}, or ask `gander doctor`")
        found = torch.device("cuda", local_rank() if found.index is None else found.index)
        if found.index >= torch.cuda.device_count():
            raise UserError(f"--device {found}, but torch sees {torch.cuda.device_count()} GPUs here, counted from 0")
        torch.cuda.set_device(found)
    elif found.type == "mps" and best != "mps":
        raise UserError(f"--device mps, but torch sees no Apple GPU here; take --device {best}")
    return found


def send(x: Tensor, to: torch.device) -> Tensor:
    """A tensor of the CPU on its way to the device. The host waits, but for CUDA: elsewhere it might be freed too soon."""
    return x.pin_memory().to(to, non_blocking=True) if to.type == "cuda" else x.to(to)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process on its own machine: which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


class _AllReduce(torch.autograd.Function):
    """Sum over processes. Each process's loss sees the sum, so the gradient of the sum of losses is summed back."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)  # the layout may differ between processes; messages know none
        with _together():
            dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _AllReduce.apply(gradient)  # through apply, so that it can be differentiated again


def all_reduce(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, differentiable (twice too)."""
    return x if processes() == 1 else _AllReduce.apply(x)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the processes: one flattened all_reduce."""
    if processes() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    with _together():
        dist.all_reduce(flat)
    flat /= processes()
    parts = flat.split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


def agree(value: int, device: torch.device | None = None) -> int:
    """The largest `value` of all processes: a stop that one has heard of is a stop for all."""
    if processes() == 1:
        return value
    if device is None:
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    shared = torch.tensor(value, device=device)
    with _together():
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)


def by_chief(function: Callable[[], T]) -> T | None:
    """The first process runs it while the others wait; None on these. UserError on all where it fails on the first."""
    if rank() == 0:
        try:
            result = function()
        except BaseException:
            agree(1)
            raise
        agree(0)
        return result
    if agree(0):
        raise Lost("the first process has stopped; its own line says why")
    return None


def chief_says(function: Callable[[], int]) -> int:
    """The number (-1 or more) that the first process finds, on all: what each found for itself might differ."""
    found = by_chief(function)
    return agree(-1 if found is None else found)


def chief_first(function: Callable[[], T]) -> T:
    """Its result on every process: the first runs it, then the others do. UserError on all where it fails on the first."""
    result = by_chief(function)
    return result if rank() == 0 else function()  # type: ignore[return-value]


def barrier() -> None:
    if processes() > 1:
        with _together():
            dist.barrier()


def check_batch(batch: int, accumulate: int) -> None:
    """UserError unless the global batch can be cut evenly."""
    if batch < 1 or accumulate < 1:
        raise UserError(f"a batch of {batch} in {accumulate} micro-batches is none; both are whole numbers from 1 on")
    if batch % (processes() * accumulate):
        raise UserError(
            f"a batch of {batch} cannot be cut into {accumulate} micro-batches over {processes()} processes; "
            f"take a multiple of {processes() * accumulate}"
        )


def shares(x: Tensor, accumulate: int = 1) -> list[Tensor]:
    """Cut a global batch into contiguous micro-batches first, each into contiguous shares by rank: this rank's shares."""
    n = len(x) // (accumulate * processes())
    starts = [(i * processes() + rank()) * n for i in range(accumulate)]
    return [x[start : start + n] for start in starts]
