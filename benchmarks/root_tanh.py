"""RootTanh against GELU: forward and backward, fp32, eager and compiled.

    python benchmarks/root_tanh.py

Targets: at most 4 times GELU's time eager, 1.5 times compiled. The two take turns, call by call, and a round's figure is the
median of its calls; a ratio is that of the medians of all rounds, its spread the least and the greatest of one round. CPU seconds
on one thread, for others may be at work.
"""

import statistics
import time
from typing import Any

import torch
from machine import keep
from torch import Tensor, nn

from gander.layers import RootTanh

SHAPES = [(16, 64, 16, 16), (16, 64, 32, 32), (32, 64, 32, 32), (16, 64, 64, 64)]
TARGETS = {"eager": 4.0, "compiled": 1.5}
ROUNDS, CALLS, WARM = 9, 9, 3


def seconds(layer: nn.Module, x: Tensor, gradient: Tensor) -> float:
    started = time.process_time()
    torch.autograd.grad(layer(x), x, gradient)
    return time.process_time() - started


def race(shape: tuple[int, ...], way: str) -> dict[str, Any]:
    torch.manual_seed(0)
    x, gradient = torch.randn(shape, requires_grad=True), torch.randn(shape)
    layers: dict[str, nn.Module] = {"RootTanh": RootTanh(), "GELU": nn.GELU()}
    if way == "compiled":
        layers = {name: torch.compile(layer) for name, layer in layers.items()}
    for _ in range(WARM):
        for layer in layers.values():
            seconds(layer, x, gradient)
    taken: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(ROUNDS):
        calls: dict[str, list[float]] = {name: [] for name in layers}
        for _ in range(CALLS):
            for name, layer in layers.items():
                calls[name].append(seconds(layer, x, gradient))
        for name, values in calls.items():
            taken[name].append(statistics.median(values))
    ratios = [ours / theirs for ours, theirs in zip(taken["RootTanh"], taken["GELU"], strict=True)]
    whole = statistics.median(taken["RootTanh"]) / statistics.median(taken["GELU"])
    found = {"of_medians": whole, "least": min(ratios), "most": max(ratios)}
    return {"shape": shape, "way": way, "seconds": taken, "n": ROUNDS, "target": TARGETS[way], "ratio": found}


def told(row: dict[str, Any]) -> str:
    ours, theirs = (1000 * statistics.median(row["seconds"][name]) for name in ("RootTanh", "GELU"))
    ratio = row["ratio"]
    verdict = "reached" if ratio["of_medians"] <= row["target"] else "**missed**"
    spread = f"{ratio['of_medians']:.2f}× [{ratio['least']:.2f}..{ratio['most']:.2f}]"
    shape = "×".join(map(str, row["shape"]))
    return f"| {row['way']} | {shape} | {ours:.2f} | {theirs:.2f} | {spread} | {row['target']}× {verdict} | {row['n']} |"


def main() -> None:
    torch.set_num_threads(1)
    rows = [race(shape, way) for way in TARGETS for shape in SHAPES]
    table = [
        "Forward + backward, fp32, CPU seconds, one thread; medians of n rounds [least..most of one round].",
        "",
        "| way | shape | RootTanh, ms | GELU, ms | ratio | target | n |",
        "|" + "---|" * 7,
        *map(told, rows),
    ]
    keep("root_tanh", {"rows": rows}, "\n".join(table))


if __name__ == "__main__":
    main()
