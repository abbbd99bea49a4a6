"""Images -> vectors: what the scores are computed from, with the name and the hash that say what they are worth.

    network = features("inception", device="cuda")
    vectors, logits = extract(network, batches, count=50_000)

`batches` are pairs (indices, uint8 images); the vectors come back in the order of the indices.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor, nn

from gander.errors import UserError, unknown
from gander.metrics import dinov2, inception
from gander.metrics.random_conv import RandomConv

FEATURES = {
    "inception": "the Inception-v3 of the FID, 2048 numbers; needs the reference weights",
    "dinov2": "the vision transformer DINOv2 (L: 1,024 numbers), nearer to our judgement (Stein et al. 2023); needs its weights",
    "random-conv": "a fixed untrained network, 512 numbers; needs nothing; a smoke alarm, not a quality score",
}
HINT = "--weights FILE: the reference Inception weights"


@dataclass(frozen=True, eq=False)
class Features:
    """A network that makes vectors of images, and what a score has to say of it.

    Called with uint8 images (b, 3 or 1, h, w), as a file would hold them: what a generator makes is rounded before, since the
    reference was measured on files. Gives vectors (b, dimensions) and, where the network is a classifier, logits (b, k) for the
    Inception Score; else None. `network` is the same for 3 channels, and a copy of it in float64 takes images that are not
    rounded, float64 in [0, 255]. Makes no gradient.
    """

    name: str
    hash: str  # sha256 of the file of its weights, or of the weights
    dimensions: int
    resize: str  # a word for what is done to images of any size
    network: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it cannot be changed

    @property
    def reference(self) -> bool:
        """Whether figures made with it may be called FID and IS: the reference weights, and images resized as they were then."""
        return (self.name, self.hash, self.resize) == ("inception", inception.REFERENCE, "tf1")

    @property
    def title(self) -> str:
        """What the Fréchet distance between its vectors is called."""
        return "FID" if self.reference else f"Fréchet[{self.name}]"

    def __call__(self, images: UInt8[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b k"] | None]:
        if images.dtype != torch.uint8:
            raise TypeError(f"images of {images.dtype}; features are made of uint8 ones")
        if images.shape[1] not in (1, 3):
            raise UserError(f"images of {images.shape[1]} channels; {self.name} takes 3, or 1")
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), _exact():
            return self.network(images.to(self.device).expand(-1, 3, -1, -1))


def features(
    name: str, weights: str | Path | None = None, device: torch.device | str = "cpu", resize: str | None = None
) -> Features:
    """The features called `name`, on `device`. UserError where there are none, or where their weights cannot be had.

    Args:
        name: one of FEATURES
        weights: the file of the weights; by default from the cache, or fetched into it
        device: where the network computes
        resize: inception alone: "tf1", as the reference does (default), or "clean"; the others have one way each
    """
    device = torch.device(device)
    if name not in FEATURES:
        raise unknown("features", name, FEATURES)
    if name == "inception":
        resize = resize or "tf1"
        network, digest = inception.load(weights, resize)
        return Features(name, digest, network.dimensions, resize, _placed(network, device), device)
    if name == "dinov2":
        if resize not in (None, dinov2.RESIZE):
            raise UserError(f"dinov2 resizes in one way, {dinov2.RESIZE}, so that there is no resize {resize!r}; leave it out")
        transformer, digest = dinov2.load(weights)
        return Features(name, digest, transformer.dimensions, dinov2.RESIZE, _placed(transformer, device), device)
    if weights is not None:
        raise UserError(f"{name} has no weights to load, so that {weights} is of no use to it; did you mean --features inception?")
    if resize not in (None, "none"):
        raise UserError(f"{name} takes images as they are, so that there is no resize {resize!r}")
    alarm = RandomConv()
    return Features(name, alarm.hash(), alarm.dimensions, "none", _placed(alarm, device), device)


def extract(
    network: Features, batches: Iterable[tuple[Int[Tensor, "_"], UInt8[Tensor, "_ _ _ _"]]], count: int, logits: bool = False
) -> tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n k"] | None]:
    """The vectors of `count` images, row i those of the image with index i, whatever the batches and their order.

    Logits too where they are asked for and the network has them. In float32, as they were computed (50,000 × 2048 take
    0.4 GB); the scores compute with them as float64. Batches may differ in the size of their images.
    UserError where a number is not finite; ValueError unless each index comes once.
    """
    vectors, scores = np.empty((count, network.dimensions), np.float32), None
    seen = np.zeros(count, bool)
    for indices, images in batches:
        rows = indices.numpy()
        if len(rows) != len(images) or len(set(rows.tolist())) != len(rows) or seen[rows].any():
            raise ValueError("each image has an index of its own")
        seen[rows] = True
        found, answers = network(images)
        vectors[rows] = found.cpu().numpy()
        if not np.isfinite(vectors[rows]).all():
            raise UserError(f"{network.name} makes numbers that are not finite; its weights ({network.hash[:8]}…) are damaged")
        if logits and answers is not None:
            scores = np.empty((count, answers.shape[1]), np.float32) if scores is None else scores
            scores[rows] = answers.cpu().numpy()
    if not seen.all():
        raise ValueError(f"{count - int(seen.sum())} of {count} images did not come")
    return vectors, scores


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().to(device)


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """On GPUs that would else multiply with 10 bits of mantissa (TF32): float32 is float32, and a score the same on all."""
    kinds: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, was in zip(kinds, before, strict=True):
            kind.fp32_precision = was
