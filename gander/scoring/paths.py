"""How smooth is the way between two samples? The path length in w of a generator that has one: `mapping` and `synthesis`."""

import copy
import sys
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from gander import draws, metrics
from gander.metrics.features import Features
from gander.scoring.card import Score
from gander.train.samples import latents_of

PATHS, EPSILON = 1_000, 1e-4
BATCH = 16  # paths at a time


@torch.no_grad()
def length(generator: Any, network: Features, count: int, seed: int, truncation: float | None = None) -> list[Score]:
    """The path length over `count` paths, PATHS at most; nothing where there is no w.

    Path i goes from the w of sample i towards that of sample `count` + i under the first one's label, from a uniform place on it.
    All is computed in float64, on copies: in float32 rounding is of the size of the steps. Images are not rounded to bytes.
    """
    if not (callable(getattr(generator, "mapping", None)) and callable(getattr(generator, "synthesis", None))):
        return []
    device = torch.device("cpu") if network.device.type == "mps" else network.device  # where there is no float64
    parts: tuple[Any, Any] = (generator, network.network)
    generator, features = (copy.deepcopy(part).to(device, torch.float64).eval() for part in parts)
    count = min(count, PATHS)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    batches = range(0, count, BATCH)
    for at in tqdm(batches, desc="paths", unit=f"×{BATCH}", disable=not sys.stderr.isatty(), leave=False):
        rows = range(at, min(at + BATCH, count))
        (first, labels), (second, _) = (
            latents_of(generator, seed, [start + i for i in rows], truncation=truncation) for start in (0, count)
        )
        one, other = (generator.mapping(latents.to(device, torch.float64), labels.to(device)) for latents in (first, second))
        place = torch.stack([torch.rand((), generator=draws.generator("path", seed, i), dtype=torch.float64) for i in rows])
        place = place.to(device).view(-1, *[1] * (one.dim() - 1))
        for vectors, t in zip(found, (place, place + EPSILON), strict=True):
            images = (generator.synthesis(torch.lerp(one, other, t)) + 1) * 127.5
            vectors.append(features(images.expand(-1, 3, -1, -1))[0].cpu().numpy())
    start, end = (np.concatenate(vectors) for vectors in found)
    mean, error = metrics.path_length(start, end, EPSILON)
    how = f"{count:,} paths in w with steps of {EPSILON:g}, in float64; standard error of the mean"
    if any(getattr(layer, "kind", "") == "lsh" for layer in generator.modules()):
        how += "; attention by hashes jumps: this has no limit as steps shrink"
    return [Score(f"PPL[{network.name}]", mean, error, how, "lower")]
