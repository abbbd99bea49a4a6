"""What a run tells while it goes."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from gander import distributed
from gander.errors import missing_extra
from gander.grids import enlarge, grid, save_png, to_bytes
from gander.run import Run
from gander.train import recovery
from gander.train.learner import Learner


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
        """What a watcher found; the value `name error` is the standard error of the value `name`."""
        self._write({"step": step, **values})
        errors = {name.removesuffix(" error"): value for name, value in values.items() if name.endswith(" error")}
        words = [
            f"{name.removeprefix('score/').replace('/', ' ')} {value:.3g}" + (f" ± {errors[name]:.2g}" if name in errors else "")
            for name, value in values.items()
            if not name.endswith(" error")
        ]
        self.say(f"step {step:,}  " + "  ".join(words))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Time that is no training: left out of the images/s."""
        began = time.perf_counter()
        yield
        self.clock += time.perf_counter() - began

    def went_back(self, step: int, times: int, why: Exception) -> None:
        self.bar.n = self.since = step
        self.clock = time.perf_counter()
        self.say(f"{why}; went back to step {step:,} with lower rates, time {times} of {recovery.TIMES}")

    def samples(self, learner: Learner, step: int, seed: int) -> None:
        """The samples of fixed latents, as `samples/<step>.png`, where the learner has some."""
        if self.chief and learner.columns:
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


def _summary_writer(run: Run, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing_extra("tensorboard", "tensorboard", "--tensorboard") from None
    return SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1)
