"""What a look costs: the maps of 16 positions on a 64×64 layer, against the forward pass that is needed anyway.

    python benchmarks/look.py

Claim: `gander.look.maps` adds less than one forward pass of a network, and makes no tensor of N × N (N = 4096). Models: SAGAN's
generator of 128 px with each kind of layer, its discriminator, and softmax attention alone, for which the claim holds too. (Not of
the others alone: a gate's map is all that its forward pass computes, and `simple` never computes a map in its own.)

The extra is the time of `maps` over that of the forward pass alone, less 1; both take turns, a figure is the ratio of the medians
of all rounds, in brackets the quartiles of the ratios of each round. Largest: the most elements of any tensor that an operator
made. One thread, CPU seconds, fp32, two images; the same positions for both, or positions of each image's own, as `gander look`
chooses them.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import keep
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gander import look
from gander.attention import build
from gander.models import sagan

SIDE, POSITIONS, ROUNDS = 64, 16, 31
LAYERS = ("self", "full", "simple", "feature", "gate")


class Largest(TorchDispatchMode):
    """The most elements of a tensor that an operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, tuple | list) else [result]:
            self.numel = max(self.numel, t.numel() if isinstance(t, Tensor) else 0)
        return result


def models() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    found: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {}
    for key in ("self", "full"):
        found[f"{key} alone, 64 channels"] = nn.Sequential(build(key, 64)), (torch.randn(2, 64, SIDE, SIDE),)
    for key in LAYERS:
        generator = sagan.Generator(128, width=16, attention=key, attention_at=[SIDE])
        found[f"generator with {key}, width 16"] = generator, (torch.randn(2, 128),)
    discriminator = sagan.Discriminator(128, width=16, attention="self", attention_at=[SIDE])
    found["discriminator with self, width 16"] = discriminator, (torch.randn(2, 3, 128, 128),)
    return {name: (model.eval(), inputs) for name, (model, inputs) in found.items()}


def largest(f: Callable[[], Any]) -> int:
    with Largest() as meter:
        f()
    return meter.numel


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, (model, inputs) in models().items():
        places = [(i * 4, (i * 13) % SIDE) for i in range(POSITIONS)]
        ways: dict[str, Callable[[], Any]] = {
            "forward": lambda model=model, inputs=inputs: model(*inputs),
            "same": lambda model=model, inputs=inputs, places=places: look.maps(model, inputs, places),
            "own": lambda model=model, inputs=inputs: look.maps(model, inputs, count=POSITIONS),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS + 2):  # the first two warm up
            for way, f in ways.items():
                began = time.process_time()
                f()
                times[way].append(time.process_time() - began)
        median = {way: statistics.median(seconds[2:]) for way, seconds in times.items()}
        ratios = [[s / f for s, f in zip(times[way][2:], times["forward"][2:], strict=True)] for way in ("same", "own")]
        spread = [[round(q - 1, 2) for q in statistics.quantiles(r, n=4)[::2]] for r in ratios]
        extra = {way: median[way] / median["forward"] - 1 for way in ("same", "own")}
        sizes = {way: largest(f) for way, f in ways.items()}
        rows.append({"model": name, "forward_ms": median["forward"] * 1e3, "extra": extra, "quartiles": spread, "largest": sizes})
    lines = [
        "| model | forward, ms | extra of 16 positions | of each image's own | largest tensor, forward | look | N × N |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        same, own = (
            f"{row['extra'][w]:.2f} ({q[0]:.2f} to {q[1]:.2f})" for w, q in zip(("same", "own"), row["quartiles"], strict=True)
        )
        sizes = f"{row['largest']['forward']:,} | {max(row['largest']['same'], row['largest']['own']):,} | {SIDE**4:,}"
        lines.append(f"| {row['model']} | {row['forward_ms']:.1f} | {same} | {own} | {sizes} |")
    keep("look", {"rounds": ROUNDS, "positions": POSITIONS, "rows": rows}, "\n".join(lines))
    for row in rows:
        assert max(row["extra"].values()) < 1, row
        assert max(row["largest"].values()) < SIDE**4, row


if __name__ == "__main__":
    main()
