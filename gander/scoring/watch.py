"""Scores while a run trains: the same as `gander score` makes, of fewer images, and the step that had the best."""

from typing import Any

import numpy as np
import torch

from gander import distributed, grids
from gander.data import Dataset
from gander.metrics import Moments
from gander.metrics.features import Features
from gander.probes import PROBES
from gander.run import Run
from gander.scoring import card_of, compute
from gander.scoring.card import keep_protocol
from gander.scoring.measured import Measured, cached
from gander.scoring.subjects import BATCH
from gander.train.samples import STANDING, sample
from gander.train.sentinel import NotFinite

SAMPLES = 40 * BATCH  # more than the 2,048 dimensions of Inception
REFERENCE = 10_000


class Watch:
    """A watcher of `fit`: Fréchet and kernel distance of 2,560 samples of seed 0 to 10,000 training images; a probe's grades.

    The samples are cut into batches of 64 that are dealt out to the processes, and the first makes the numbers: they are the
    same for any number of processes. `best` is the value whose lowest step is the best.
    """

    def __init__(self, dataset: Dataset, network: Features, run: Run):
        self.network, self.channels, self.best = network, dataset.channels, f"score/{network.title}"
        self.probe = PROBES[dataset.name] if dataset.fingerprint.startswith("probe:") and dataset.channels == 3 else None
        self.real: Measured | None = distributed.by_chief(lambda: self._prepare(dataset, run))

    def _prepare(self, dataset: Dataset, run: Run) -> Measured:
        real = cached(dataset, self.network, REFERENCE)
        self.moments = Moments.of(real.vectors, "reference")
        card = card_of(real, self.network, SAMPLES, generator="ema", standing=STANDING, seed=0)
        keep_protocol(run.folder / "scores.json", card, [self.best])
        return real

    def __call__(self, learner: Any, step: int) -> dict[str, float]:
        """The scores of the learner's samples; nothing on other processes than the first. NotFinite where samples are not."""
        generator, device = learner.sampler(), self.network.device
        side, kept = generator.resolution, SAMPLES if self.probe else 0  # images are for a probe alone
        vectors = torch.zeros(SAMPLES, self.network.dimensions, device=device)
        images = torch.zeros(kept, self.channels, side, side, dtype=torch.uint8, device=device)
        for number in range(distributed.rank(), SAMPLES // BATCH, distributed.processes()):
            rows = range(number * BATCH, (number + 1) * BATCH)
            made, here = sample(generator, 0, rows, batch=BATCH, device=device), slice(rows.start, rows.stop)
            pixels = torch.from_numpy(grids.to_bytes(made)).permute(0, 3, 1, 2).to(device)
            vectors[here] = self.network(pixels)[0] if made.isfinite().all() else torch.nan  # said by all together
            if self.probe:
                images[here] = pixels
        vectors, images = distributed.all_reduce(vectors), distributed.all_reduce(images) if self.probe else images
        if not vectors.isfinite().all():
            raise NotFinite(f"step {step}: a sample is nan")
        labels = np.arange(SAMPLES) % generator.num_classes if generator.num_classes else None
        return distributed.by_chief(lambda: self._numbers(vectors.cpu().numpy(), images.cpu().numpy(), labels)) or {}

    def _numbers(self, vectors: np.ndarray, images: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
        assert self.real is not None
        found: dict[str, float] = {}
        for score in compute.distances(vectors, self.real.vectors, self.network, self.moments).scores:
            found |= {f"score/{score.name}": score.value, f"score/{score.name} error": score.error}
        if self.probe:
            grades = self.probe.grade(images / np.float32(127.5) - 1, labels)
            found |= {f"{self.probe.name}/{name}": value for name, value in grades.items()}
        return found
