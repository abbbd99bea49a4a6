"""Every kind of attention beside exact attention by fused kernels, from 16² to 256² positions: time, memory, where it pays.

    python benchmarks/attention.py [--largest 256] [--limit 10] [--only lsh]

One layer of 64 channels on one image, fp32, one thread: all keys of `gander.attention.ATTENTION` that attend, and the kinds of
attention on tokens of the networks without convolution (`tokens/...`, with queries and keys turned by their place where the kind
does that). One head of 64 channels where a layer has heads, two of 32 where it needs two. Exact is `multi_head`: by torch's fused
kernel where maps are not small.

Forward: without gradients, as when sampling. Step: forward and backward to all gradients. Time: CPU seconds, for others may be at
work; the layers in turns, each in a round as often as fills 20 ms; medians of n rounds, and the ratio of exact's time to a layer's
[least..most of one round]. Memory: what is allocated at the peak of a step over that before it, by torch's profiler, and its ratio
to exact's. A layer pays from the least size from which, and at all larger ones, its step is quicker than exact's. Of exact's steps
that are too long to be taken, `--limit` seconds by what the size before took, the time is not guessed: ratios end there.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from machine import keep
from race_attention import peak
from torch import Tensor, nn

from gander.attention import ATTENTION
from gander.models.all_attention.tokens import KINDS, Attention

CHANNELS, SIDES, EXACT = 64, (16, 32, 64, 128, 256), "multi_head"
NAMES = [*(key for key in ATTENTION if key not in ("none", "residual")), *(f"tokens/{kind}" for kind in KINDS)]
LEAST, BUDGET, FEWEST, MOST = 0.02, 20.0, 3, 9  # seconds of a turn and of all rounds of a size; rounds
WAYS = ("forward", "step")


class OnTokens(nn.Module):
    def __init__(self, kind: str, side: int) -> None:
        super().__init__()
        self.attention = Attention(CHANNELS, kind=kind, size=(side, side))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x.flatten(2).mT)


def made(name: str, side: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    kind = name.removeprefix("tokens/")
    layer = OnTokens(kind, side) if kind != name else ATTENTION[kind](CHANNELS, size=(side, side))
    for key, p in layer.named_parameters():
        if key == "gamma":
            nn.init.ones_(p)
    return layer, torch.randn(1, CHANNELS, side, side, requires_grad=True)


def once(layer: nn.Module, x: Tensor, way: str) -> None:
    if way == "forward":
        with torch.no_grad():
            layer(x)
    else:
        torch.autograd.grad(layer(x).square().mean(), [x, *layer.parameters()])


def seconds(step: Callable[[], Any], repeats: int) -> float:
    started = time.process_time()
    for _ in range(repeats):
        step()
    return (time.process_time() - started) / repeats


def race(names: list[str], side: int) -> list[dict[str, Any]]:
    """A row for each layer at one size."""
    torch.set_num_threads(1)
    layers = {name: made(name, side) for name in names}
    steps = {(name, way): partial(once, *layers[name], way) for name in names for way in WAYS}
    first = {key: (seconds(step, 1), seconds(step, 1))[1] for key, step in steps.items()}  # the first of all is warm-up
    repeats = {key: max(1, round(LEAST / max(taken, 1e-6))) for key, taken in first.items()}
    rounds = min(MOST, max(FEWEST, int(BUDGET / sum(first[key] * repeats[key] for key in steps))))
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            taken[key].append(seconds(step, repeats[key]))
    return [
        {"layer": name, "side": side, "n": rounds, "memory": peak(steps[name, "step"], "cpu")}
        | {"seconds": {way: taken[name, way] for way in WAYS}}
        for name in names
    ]


def too_long(rows: list[dict[str, Any]], name: str, limit: float) -> bool:
    """Whether the next size, of four times the positions, is likely to take longer than the limit."""
    times = [statistics.median(row["seconds"]["step"]) for row in rows if row["layer"] == name]
    growth = max(4.0, times[-1] / times[-2]) if len(times) > 1 else 4.0
    return bool(times) and times[-1] * growth > limit


def ratio(row: dict[str, Any], exact: dict[str, Any], way: str) -> tuple[float, float, float]:
    """Exact's time over the layer's: of the medians, the least and the most of one round."""
    each = [a / b for a, b in zip(exact["seconds"][way], row["seconds"][way], strict=True)]
    return statistics.median(exact["seconds"][way]) / statistics.median(row["seconds"][way]), min(each), max(each)


def pays_from(rows: list[dict[str, Any]], exact: dict[int, dict[str, Any]]) -> str:
    sides = [row["side"] for row in rows if row["side"] in exact]
    quicker = [ratio(row, exact[row["side"]], "step")[0] > 1 for row in rows if row["side"] in exact]
    while sides and not all(quicker):
        sides, quicker = sides[1:], quicker[1:]
    return f"{sides[0]}²" if sides else "not seen"


def table(rows: list[dict[str, Any]], what: str) -> list[str]:
    """`what` is forward, step or memory: a line for each layer, a column for each size."""
    exact = {row["side"]: row for row in rows if row["layer"] == EXACT}
    sides = sorted({row["side"] for row in rows})
    columns = [*(f"{side}²" for side in sides), *(["pays from"] if what == "step" else [])]
    lines = ["| layer | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for name in dict.fromkeys(row["layer"] for row in rows):
        own = {row["side"]: row for row in rows if row["layer"] == name}
        cells = [_cell(own.get(side), exact.get(side), what) for side in sides]
        if what == "step":
            cells.append("" if name == EXACT else pays_from(list(own.values()), exact))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(row: dict[str, Any] | None, exact: dict[str, Any] | None, what: str) -> str:
    if row is None:
        return "–"
    if what == "memory":
        return f"{row['memory']:.3g}" + ("" if exact is None or row is exact else f" ({row['memory'] / exact['memory']:.2f}×)")
    text = f"{1000 * statistics.median(row['seconds'][what]):.3g}"
    if exact is None or row is exact:
        return text
    whole, least, most = ratio(row, exact, what)
    return f"{text}, {whole:.2g}× [{least:.2g}..{most:.2g}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=SIDES[-1], help="side")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds of one step, beyond which a layer ends")
    parser.add_argument("--only", help="layers whose name holds this, beside exact; shown, not kept")
    wanted = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    names = [name for name in NAMES if name == EXACT or (wanted.only or "") in name]
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for side in (side for side in SIDES if side <= wanted.largest):
            names = [name for name in names if not too_long(rows, name, wanted.limit)]
            rows += pool.apply(race, (names, side))
            print(*table([row for row in rows if row["side"] == side], "step"), sep="\n", file=sys.stderr, flush=True)
    counts = ", ".join(f"{n} at {side}²" for side, n in dict.fromkeys((row["side"], row["n"]) for row in rows))
    lines = [
        f"One layer of {CHANNELS} channels, one image; fp32, one thread; CPU ms, medians of n rounds ({counts}); in",
        f"brackets the least and the most of one round. ×: exact's ({EXACT}) time over the layer's: above 1 the layer is quicker.",
        f"It ends where its step would take over {wanted.limit:g} s, and pays from the least size from which its step is quicker.",
    ]
    for title, what in (("Forward", "forward"), ("Forward and backward", "step")):
        lines += ["", f"{title}, ms:", "", *table(rows, what)]
    lines += ["", "Memory at the peak of forward and backward over that before, MiB (× of exact's):", "", *table(rows, "memory")]
    if wanted.only or wanted.largest != SIDES[-1]:
        print("\n".join(lines))
    else:
        keep("attention", {"rows": rows, "limit": wanted.limit}, "\n".join(lines))


if __name__ == "__main__":
    main()
