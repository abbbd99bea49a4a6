"""What a learner makes of images that it is not trained on, while it trains."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from gander import distributed
from gander.files import write_json
from gander.run import Run


class Exam:
    """A watcher of `fit`: the learner's `examine`, and `exam.json` in the run with what a line of the log does not hold.

    The images are dealt out to the processes; what is found are means over images, so that any number of processes finds the same.

    Args:
        batches: gives this process's part of the held-out images, batch by batch.
        count: of all of them.
        described: goes into the file: where they are from, and the classes.
    """

    def __init__(self, batches: Callable[[], Iterable], count: int, run: Run, described: Mapping[str, Any]):
        self.batches, self.count, self.file, self.described = batches, count, run.folder / "exam.json", described

    def __call__(self, learner: Any, step: int) -> dict[str, float]:
        seen = 0

        def counted() -> Iterable:
            nonlocal seen
            for images, labels in self.batches():
                seen += len(images)
                yield images, labels

        found = learner.examine(counted())
        confusion = getattr(learner, "confusion", None)
        if distributed.processes() > 1:
            device = learner.precision.device
            sums = torch.tensor([value * seen for value in found.values()], dtype=torch.float64, device=device)
            found = dict(zip(found, (distributed.all_reduce(sums) / self.count).tolist(), strict=True))
            confusion = None if confusion is None else distributed.all_reduce(confusion.to(device))
        report = {"step": step, "images": self.count, **self.described, **found}
        if confusion is not None:
            report["counts"] = confusion.tolist()  # a row a class, a column for what it was called
        distributed.by_chief(lambda: write_json(self.file, report))
        return found
