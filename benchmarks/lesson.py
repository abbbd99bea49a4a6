"""What share of a classifier's step the loader takes, and which way of cropping is quickest.

    python benchmarks/lesson.py DATA [--resolution 128] [--network xresnet50]

Target: after the first pass the loader takes under 5 % of a training step (recipe imagewoof, batch 64; CPU seconds of this process,
since others may be running). The loader is what happens before the network sees an image: rows of the memory map, bytes to floats,
random resized crops. Beside it the crops alone, as they are (`grid_sample`) and with the antialiasing bilinear filter of the
source's library as two products of matrices; 64 squares, in fp32, paired in one run.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import keep
from torch import Tensor

from gander import draws, recipes
from gander.data import open_source, prepare
from gander.data.batches import Batches
from gander.data.crops import MARGIN, draw_boxes, resized_crop
from gander.recipes.experiment import Facts

N, WARM = 8, 2


def products(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Random resized crops as PIL makes them: a triangle as wide as an output pixel, one product of matrices an axis."""

    def weights(start: Tensor, length: Tensor) -> Tensor:
        size = images.shape[2]
        start, length = start * size, length * size
        scale = length / side
        centre = start[:, None] + (torch.arange(side) + 0.5) * scale[:, None]
        at = torch.arange(size) + 0.5
        found = (1 - (at - centre[..., None]).abs() / scale.clamp(min=1)[:, None, None]).clamp(min=0)
        found = found * ((at > start[:, None]) & (at < (start + length)[:, None]))[:, None]
        return found / found.sum(-1, keepdim=True)

    b, c, size, _ = images.shape
    top, left, height, width = boxes.unbind(1)
    rows, columns = weights(top, height), weights(left, width)
    narrow = torch.bmm(rows, images.permute(0, 2, 3, 1).reshape(b, size, size * c)).view(b, side, size, c)
    out = narrow.permute(0, 3, 1, 2).reshape(b, c * side, size) @ columns.mT
    return out.view(b, c, side, side).contiguous(memory_format=torch.channels_last)


def seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--network", default="xresnet50")
    parser.add_argument("--width", type=int, default=64)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    side = wanted.resolution
    dataset = prepare(open_source(wanted.data), side + MARGIN, progress=False)
    knobs = {"resolution": side, "network": wanted.network, "width": wanted.width, "batch": 64}
    learner = recipes.load("imagewoof")(Facts(len(dataset), dataset.num_classes, 3), **knobs).learner.to(torch.device("cpu"))
    batches = Batches(dataset.images, dataset.labels, batch=64, seed=0)
    boxes, still = draw_boxes(torch.Generator().manual_seed(0), 64), torch.zeros(64, dtype=torch.bool)
    times: dict[str, list[float]] = {"fetch": [], "crop": [], "products": [], "step": []}
    for step in range(N + WARM):
        found: list = []
        now = {"fetch": seconds(lambda found=found, step=step: found.append(batches(step)))}
        ((images, _),) = found[0][0]
        now["crop"] = seconds(lambda images=images: resized_crop(images, boxes, side, still))
        now["products"] = seconds(lambda images=images: products(images, boxes, side))
        now["step"] = seconds(lambda found=found, step=step: learner.step(step, found[0], draws.at_step(0, step)))
        for name, value in now.items() if step >= WARM else ():
            times[name].append(value)
    shares = [(f + c) / (f + s) for f, c, s in zip(times["fetch"], times["crop"], times["step"], strict=True)]

    def row(name: str, values: list[float], unit: str) -> str:
        return f"| {name} | {statistics.median(values):.4g} {unit} | {min(values):.4g} | {max(values):.4g} | {len(values)} |"

    rows = [
        f"{wanted.network} of width {wanted.width} at {side} px, batch 64, fp32.",
        "",
        "| what | median | least | most | n |",
        "|---|---|---|---|---|",
        row("rows of the memory map as floats, CPU", [1000 * t for t in times["fetch"]], "ms"),
        row("crops, CPU (part of the step)", [1000 * t for t in times["crop"]], "ms"),
        row("the same with antialiasing, by products", [1000 * t for t in times["products"]], "ms"),
        row("a step with its crops, CPU", [1000 * t for t in times["step"]], "ms"),
        row("share of the loader in both", [100 * share for share in shares], "%"),
    ]
    keep(f"lesson-{wanted.network}-{side}px", {**knobs, **times, "share": shares}, "\n".join(rows))


if __name__ == "__main__":
    main()
