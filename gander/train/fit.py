"""One loop for every learner: log, save, sample, watch, resume, stop. It knows no game.

A learner is anything that `Learner` describes.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gander import distributed, draws
from gander.errors import UserError, missing_extra
from gander.grids import enlarge, grid, save_png, to_bytes
from gander.run import Outcome, Run
from gander.signals import heard
from gander.train import checkpoint


@runtime_checkable
class Learner(Protocol):
    """What `fit` asks of a learner. A step is one optimiser step of its main network; `draws_per_step` batches go into it."""

    draws_per_step: int
    accumulate: int

    @property
    def networks(self) -> dict[str, nn.Module]: ...
    def to(self, device: torch.device, precision: str = "fp32") -> "Learner": ...
    def step(self, step: int, batches: list, draw: draws.Draws) -> dict[str, Tensor]: ...
    def details(self) -> dict[str, Tensor]: ...
    @property
    def columns(self) -> int: ...
    def samples(self, seed: int, count: int | None = None) -> Tensor: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


Watcher = tuple[int, Callable[[Learner, int], dict[str, float]]]  # every so many steps, a function of (learner, step)


def resume(learner: Learner, run: Run) -> int:
    """Put the newest whole checkpoint of the run into the learner; the step it was saved after, 0 where there is none."""
    if not checkpoint.saved(run.checkpoints):
        run.truncate_log(0) if distributed.rank() == 0 else None
        return 0
    path, complaints = checkpoint.find(run.checkpoints)
    for complaint in complaints:
        tqdm.write(f"{complaint}; the one before it is taken", file=sys.stderr)
    if distributed.rank() == 0:
        checkpoint.put_aside(run.checkpoints, after=path)
    for name, network in learner.networks.items():
        checkpoint.load_network(path / f"{name}.safetensors", network)
    state = checkpoint.load_state(path)
    if not isinstance(state.get("step"), int) or "learner" not in state:
        raise UserError(f"{path / 'state.pt'} has no step or no learner in it; delete {path} to take the one before it")
    learner.load_state_dict(state["learner"])
    if distributed.rank() == 0:
        run.truncate_log(state["step"])
    return state["step"]


def fit(
    learner: Learner,
    batches: Callable[[int], list],
    run: Run,
    *,
    steps: int,
    batch: int,
    seed: int = 0,
    log_every: int = 50,
    save_every: int = 1000,
    sample_every: int = 250,
    keep_every: int = 0,
    watchers: Sequence[Watcher] = (),
    tensorboard: bool = False,
) -> Outcome:
    """Train to `steps` steps, going on from the newest whole checkpoint of the run.

    `batches(step)` gives the step's global batches, cut for this process; `batch` is their size, for the images/s. Saves
    every `save_every` steps, at the end and when a signal asks to stop; keeps the last two checkpoints and every
    `keep_every`-th step. Raises UserError where a loss, a gradient or a weight is no finite number, before it reaches a
    checkpoint.
    """
    done = resume(learner, run)
    journal = Journal(run, steps, batch * learner.draws_per_step, done, tensorboard)
    watchers = [(every, watch) for every, watch in watchers if every]
    recent: list[tuple[int, dict[str, Tensor]]] = []
    stop, late = 0, None
    with heard() as asked, journal:
        if done == 0 and sample_every:
            journal.samples(learner, 0, seed)
        while done < steps and not stop:
            distributed.at(done + 1)
            torch.manual_seed(draws.key_seed("layers", seed, done))  # for what layers draw themselves, as dropout does
            recent.append((done + 1, learner.step(done, batches(done), draws.at_step(seed, done))))
            done += 1
            stop = distributed.agree(asked[0])
            last = done == steps
            due = [watch for every, watch in watchers if done % every == 0 or last]
            logging, saving = done % log_every == 0 or last, done % save_every == 0 or last or stop
            if logging or saving or due:
                values = _checked(recent, learner if saving else None)
                recent.clear()
                if logging:
                    journal.log(done, values | _finite(done, learner.details()))
                for watch in due:
                    journal.watched(done, _finite(done, watch(learner, done)))
            if sample_every and (done % sample_every == 0 or last):
                journal.samples(learner, done, seed)
            if saving:
                must = bool(last or stop or late)
                late = distributed.by_chief(lambda: not _saved(run.checkpoints, done, learner, keep_every, must))  # noqa: B023
            journal.bar.update()
    return Outcome(done, stop if done < steps else 0)


def _saved(folder: Path, step: int, learner: Learner, keep_every: int, must: bool) -> bool:
    """Save; False where the disk hung. `must` is for a save that ends the run, or follows one that failed: GivenUp there."""
    try:
        checkpoint.save(folder, step, learner.networks, {"step": step, "learner": learner.state_dict()})
    except checkpoint.GivenUp as late:
        if must:
            raise
        tqdm.write(f"{late}; training goes on", file=sys.stderr)
        return False
    checkpoint.prune(folder, keep_every)
    return True


class Journal:
    """What a run tells while it goes: lines in its log, a progress bar (or plain lines where there is no terminal), grids."""

    def __init__(self, run: Run, steps: int, images_per_step: int, start: int, tensorboard: bool):
        self.run, self.steps, self.images_per_step = run, steps, images_per_step
        self.chief = distributed.rank() == 0
        self.plain = not sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=start, unit="step", disable=self.plain or not self.chief, dynamic_ncols=True)
        self.writer = _summary_writer(run, start) if tensorboard and self.chief else None
        self.since, self.clock = start, time.perf_counter()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        if self.writer:
            self.writer.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = time.perf_counter()
        steps_per_second = (step - self.since) / max(now - self.clock, 1e-9)
        self.since, self.clock = step, now
        speed = steps_per_second * self.images_per_step
        self._write({"step": step, **values, "images_per_second": round(speed, 2), "time": round(time.time(), 1)})
        self.bar.set_postfix_str(f"{speed:.0f} images/s", refresh=False)
        if self.plain:
            left = tqdm.format_interval((self.steps - step) / steps_per_second)
            losses = "  ".join(f"{name} {value:.3g}" for name, value in values.items() if name.endswith("loss"))
            self.say(f"step {step:,}/{self.steps:,}  {losses}  {speed:.0f} images/s  {left} left")

    def watched(self, step: int, values: Mapping[str, float]) -> None:
        self._write({"step": step, **values})
        self.say(f"step {step:,}  " + "  ".join(f"{name} {value:.3g}" for name, value in values.items()))

    def samples(self, learner: Learner, step: int, seed: int) -> None:
        """The samples of fixed latents, as `samples/<step>.png`."""
        if self.chief:
            images = to_bytes(learner.samples(seed))
            save_png(self.run.samples / f"{step:08d}.png", enlarge(grid(images, learner.columns)))

    def say(self, line: str) -> None:
        if self.chief:
            tqdm.write(line, file=sys.stderr)

    def _write(self, line: dict[str, Any]) -> None:
        if self.chief:
            self.run.log(line)
            if self.writer:
                for name, value in line.items():
                    self.writer.add_scalar(name, value, line["step"])


def _checked(recent: list[tuple[int, dict[str, Tensor]]], learner: Learner | None) -> dict[str, float]:
    """The values of the last step, as their mean over processes, once all since the last look are known to be finite.

    With a learner its weights and buffers are looked at too. The verdict is that of all processes.
    """
    table = torch.stack([torch.stack([value.float() for value in values.values()]) for _, values in recent])
    table = distributed.all_reduce(table) / distributed.processes()  # a NaN of one process is a NaN for all
    rows = table.tolist()
    for (step, values), row in zip(recent, rows, strict=True):
        for name, value in zip(values, row, strict=True):
            if not math.isfinite(value):
                raise UserError(_not_finite(step, name.replace("_", " "), value))
    for network_name, network in (learner.networks if learner else {}).items():
        named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        floats = {name: tensor for name, tensor in named.items() if tensor.is_floating_point() and tensor.numel()}
        finite = torch.stack([tensor.detach().isfinite().all() for tensor in floats.values()]).tolist()
        for name, fine in zip(floats, finite, strict=True):
            if not fine:
                raise UserError(_not_finite(recent[-1][0], f"{network_name}'s {name}", math.nan))
    return dict(zip(recent[-1][1], rows[-1], strict=True))


def _finite(step: int, values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """As plain numbers. UserError where one is none."""
    numbers = {name: float(value) for name, value in values.items()}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise UserError(_not_finite(step, name, number))
    return numbers


def _not_finite(step: int, what: str, value: float) -> str:
    return (
        f"step {step}: the {what} is {value}, so the run was stopped and nothing of it reached a checkpoint; "
        "the same again would end there too: take lower rates or --precision fp32 and --run NEW (--init RUN keeps its weights)"
    )


def _summary_writer(run: Run, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing_extra("tensorboard", "tensorboard", "--tensorboard") from None
    return SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1)
