"""LSH attention beside exact attention by fused kernels: time and memory by the number of pixels.

    python benchmarks/lsh.py

Three layers of one head of 64 channels, one image, forward and backward to all gradients, fp32, one thread:

- exact: `MultiHeadAttention`, by torch's fused kernel where the map is not small;
- LSH: `LSHAttention`, 4 rounds, buckets of 64;
- at once: the same, all rounds side by side in tensors that autograd keeps, as short as it can be written. Its result and
  gradients are compared with those of LSH, of the same hash, before anything is timed.

Time: CPU seconds, for others may be at work; the layers in turns. Memory: by how much the resident memory of a fresh process
grows in one step over that before it; glibc is told there to hand back what is freed. Linux with glibc only.

How far LSH is from exact attention of the same queries and keys hangs on the image: it is told for images of white noise, which
has no likes to find, and for smooth ones, as a share of the norm of what attention adds.
"""

import ctypes
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import keep
from reversible import of_process
from torch import Tensor, nn

from gander.attention import LSHAttention, MultiHeadAttention
from gander.attention.lsh import meet

CHANNELS, SIDES, ROUNDS, ROUNDS_OF_LONG = 64, (32, 64, 128), 9, 5


class AtOnce(LSHAttention):
    def forward(self, x: Tensor) -> Tensor:
        q, v = (t[:, 0] for t in self.split(x, self.query, self.value))  # b n d
        k = F.normalize(q, dim=-1)
        meetings = meet(q[:, None], self.bucket, self.rounds, fixed=True)
        image = torch.arange(len(q))[:, None, None]
        i = meetings.order.unflatten(-1, (meetings.chunks, meetings.length))  # rounds b chunks s
        j = torch.cat([i.roll(1, 2), i], -1)
        s = q[image, i] @ k[image, j].mT * self.scale
        s = s.masked_fill(i[..., None] == j[..., None, :], -5e4)
        mine, theirs = (meetings.chunk[:, image, at] for at in (i, j))  # round met in, round, b, chunks, s
        met = (mine[..., None] == theirs[..., None, :]) | (mine[..., None] == (theirs[..., None, :] + 1) % meetings.chunks)
        s = s - met.sum(0).log()
        lse = s.logsumexp(-1, keepdim=True)
        o, lse = (
            t.flatten(2, 3).gather(2, meetings.place[..., None].expand(-1, -1, -1, t.shape[-1]))
            for t in ((s - lse).exp() @ v[image, j], lse)
        )
        return self.back(x, (o * lse.softmax(0)).sum(0)[:, None])


LAYERS: dict[str, type[nn.Module]] = {"exact": MultiHeadAttention, "LSH": LSHAttention, "at once": AtOnce}


def made(kind: str, side: int) -> tuple[nn.Module, Tensor]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = LAYERS[kind](CHANNELS).eval()
    nn.init.ones_(layer.gamma)  # type: ignore[arg-type]
    return layer, torch.randn(1, CHANNELS, side, side, requires_grad=True)


def step(layer: nn.Module, x: Tensor) -> None:
    layer(x).square().mean().backward()


def growth(kind: str, side: int) -> float:
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is larger is given back at once
    step(*made(kind, 16))  # what kernels load and keep is no part of it
    layer, x = made(kind, side)
    Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is counted anew
    before = of_process("VmRSS")
    step(layer, x)
    return of_process("VmHWM") - before


def times(side: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {kind: [] for kind in LAYERS}
    layers = {kind: made(kind, side) for kind in LAYERS}
    for i in range((ROUNDS_OF_LONG if side > 64 else ROUNDS) + 1):
        for kind, (layer, x) in layers.items():
            layer.zero_grad()
            x.grad = None
            started = time.process_time()
            step(layer, x)
            if i:  # the first is warm-up
                taken[kind].append(time.process_time() - started)
    return taken


def compare(side: int) -> None:
    found = []
    for kind in ("LSH", "at once"):
        layer, x = made(kind, side)
        y = layer.double()(x.double())
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@torch.no_grad()
def error(side: int, rounds: int, smooth: bool) -> float:
    layer, x = made("LSH", side)
    assert isinstance(layer, LSHAttention)
    x = F.interpolate(torch.randn(1, CHANNELS, side // 8, side // 8), (side, side), mode="bicubic") if smooth else x
    layer.query.weight *= 8  # else all scores are within ±0.1, and any pixels will do
    layer.rounds, y = rounds, []
    for layer.bucket in (64, side * side):
        y.append(layer(x) - x)
    return ((y[0] - y[1]).norm() / y[1].norm()).item()


def main() -> None:
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("resident memory is read from /proc, which is Linux's")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    compare(16)
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for side in SIDES:
            row = {"side": side, "memory": {kind: pool.apply(growth, (kind, side)) for kind in LAYERS}}
            rows.append(row | {"seconds": pool.apply(times, (side,))})
            print(told(rows[-1]), file=sys.stderr, flush=True)
    errors = {name: {r: error(64, r, name == "smooth") for r in (1, 2, 4, 8, 16)} for name in ("white noise", "smooth")}
    table = [
        "One layer of one head of 64 channels, one image, forward and backward; fp32, one thread. Time: CPU ms, medians of n, and",
        "their ratio [least..most]. Memory: MiB by which a fresh process grows in a step over that before it.",
        "",
        "| pixels | exact, ms | LSH, ms | at once, ms | exact / LSH | n | exact, MiB | LSH, MiB | at once, MiB | LSH / at once |",
        "|" + "---|" * 10,
        *map(told, rows),
        "",
        "4,096 pixels in buckets of 64: distance from full attention of the same queries and keys, as a share of its norm.",
        "",
        "| rounds | " + " | ".join(map(str, errors["smooth"])) + " |",
        "|" + "---|" * 6,
        *(f"| {name} | " + " | ".join(f"{share:.2f}" for share in by_rounds.values()) + " |" for name, by_rounds in errors.items()),
    ]
    keep("lsh", {"rows": rows, "errors": errors}, "\n".join(table))


def told(row: dict[str, Any]) -> str:
    seconds, memory = row["seconds"], row["memory"]
    ratios = [exact / ours for exact, ours in zip(seconds["exact"], seconds["LSH"], strict=True)]
    medians = {kind: statistics.median(taken) for kind, taken in seconds.items()}
    cells = [f"{row['side'] ** 2:,}", *(f"{1000 * median:.0f}" for median in medians.values())]
    cells += [f"{medians['exact'] / medians['LSH']:.1f}× [{min(ratios):.1f}..{max(ratios):.1f}]", str(len(ratios))]
    cells += [*(f"{mib:.0f}" for mib in memory.values()), f"{memory['LSH'] / memory['at once']:.2f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
