"""SimpleSelfAttention against the layer as its author computes it, and its share of an xresnet50's training step.

    python benchmarks/race_simple.py [--only layers|steps]

`Original` is written here from the formula, in the source's products and copies: a Conv1d under torch's own spectral norm, X times
a copy of its transpose, that times W X, γ times that, plus x. Both layers get the same weights, and results and gradients are
compared in float64 before anything is timed. Gander's is under its spectral norm by step, and `refresh`, which a learner does once
for all forwards of a step, is charged in full to each. Both run in NCHW and in channels_last; the original's better one counts.

The layers take turns, call by call; a round's figure is the median of its calls, a ratio that of the medians of all rounds [of the
least and the greatest in one round]. CPU seconds of one thread, for others may be at work. Each row has a process of its own.

Memory, as a share of the original's: bytes that autograd keeps of a forward, each storage once, parameters apart and x with it; and
how far the peak of a fresh process rises over rest in one forward and backward, on a batch whose x is 32 MiB, after one on a single
image (which loads what BLAS keeps): gander's in its networks' channels_last and in NCHW, the original's in NCHW, where it copies
least.

The steps: xresnet50 for 10 classes at 128 px, batch 16, SGD, `none`, `simple` and the original layer in the same place, in turns.
"As published" is NCHW; gander's networks are in channels_last. The share is what the layer adds to the step without it.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import keep
from torch import Tensor, nn
from torch.nn import functional as F

from gander.attention import SimpleSelfAttention
from gander.layers.spectral_norm import by_step, refresh, spectral_norm
from gander.models.xresnet import xresnet50

SHAPES = [(64, 16), (64, 32), (64, 64), (64, 128), (256, 16), (256, 32), (256, 64), (256, 128), (128, 8), (512, 8), (512, 16)]
BATCH = {8: 32, 16: 16, 32: 8, 64: 2, 128: 1}
FORMATS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
MEMORY, SHARE, STEP = 0.6, 0.12, {"fp32": 1.15, "bf16": 2.1}
ROUNDS, ROUND = 9, 0.3  # seconds of the slowest in a round, at least
STEPS, STEP_BATCH = 7, 16


class Original(nn.Module):
    """The source's layer in its later order, (X Xᵀ)(W X), which for n > c is the quicker of its two."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, channels, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv = nn.utils.spectral_norm(conv)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.view(*x.shape[:2], -1)
        asked = self.conv(flat)
        gram = torch.bmm(flat, flat.permute(0, 2, 1).contiguous())
        return (self.gamma * torch.bmm(gram, asked) + flat).view(x.shape).contiguous()


def target(channels: int, side: int) -> float:
    return 1.5 if side * side >= 4 * channels else 1.15


@torch.no_grad()
def pair(channels: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The same weights, and after the original's next forward the same singular vectors."""
    torch.manual_seed(0)
    theirs, ours = Original(channels).to(dtype), by_step(spectral_norm(SimpleSelfAttention(channels).to(dtype)))
    conv: Any = ours.conv
    conv.parametrizations.weight.original.copy_(theirs.conv.weight_orig[..., None])
    matrix, state = theirs.conv.weight_orig[..., 0], conv.parametrizations.weight[0]
    state.v = F.normalize(matrix.T @ theirs.conv.weight_u, dim=0)
    state.u = F.normalize(matrix @ state.v, dim=0)
    for layer in (ours, theirs):
        layer.gamma.fill_(0.1)
    return {"gander": ours, "original": theirs}


def images(channels: int, side: int, batch: int, memory_format: torch.memory_format, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x, and the gradient of the result."""
    draw = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(batch, channels, side, side, generator=draw) for _ in range(2))
    x, grad = (t.to(dtype).contiguous(memory_format=memory_format) for t in (x, grad))
    return x.requires_grad_(), grad


def once(layer: nn.Module, x: Tensor, grad: Tensor) -> None:
    if isinstance(layer, SimpleSelfAttention):
        refresh(layer)
    layer(x).backward(grad)
    for t in (x, *layer.parameters()):
        t.grad = None


def assert_same_function(channels: int, side: int) -> None:
    results = []
    x, grad = images(channels, side, 2, torch.contiguous_format, torch.float64)
    for layer in pair(channels, torch.float64).values():
        y = layer(x)
        conv: Any = layer.conv
        weight = conv.parametrizations.weight.original if isinstance(layer, SimpleSelfAttention) else conv.weight_orig
        found = [y, *torch.autograd.grad(y, [x, weight, layer.gamma], grad)]
        results.append([t.detach().flatten() for t in found])
    for mine, other in zip(*results, strict=True):
        error = (mine - other).norm() / other.norm()
        assert error < 1e-9, f"not the same function as the original: off by {error:.1e}"


def seconds(step: Callable[[], Any]) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def in_turns(steps: dict[Any, Callable[[], Any]], rounds: int, repeats: int) -> dict[Any, list[float]]:
    taken: dict[Any, list[float]] = {key: [] for key in steps}
    for _ in range(rounds):
        turns = [{key: seconds(step) for key, step in steps.items()} for _ in range(repeats)]
        for key in steps:
            taken[key].append(statistics.median(turn[key] for turn in turns))
    return taken


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    each = [a / b for a, b in zip(above, below, strict=True)]
    return {"of_medians": statistics.median(above) / statistics.median(below), "least": min(each), "most": max(each)}


def kept(layer: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for backward, but for what is there without it: parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in (*layer.parameters(), *layer.buffers())}
    storages: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = layer(x)
    del y
    return sum(storages.values())


def race(channels: int, side: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    assert_same_function(channels, min(side, 32))
    layers, steps = pair(channels, torch.float32), {}
    for name, memory_format in FORMATS.items():
        x, grad = images(channels, side, BATCH[side], memory_format, torch.float32)
        for who, layer in layers.items():
            steps[who, name] = lambda layer=layer, x=x, grad=grad: once(layer, x, grad)
    slowest = max(seconds(step) for _ in range(2) for step in steps.values())
    repeats = max(1, round(ROUND / slowest))
    taken = in_turns(steps, ROUNDS, repeats)
    best = min(FORMATS, key=lambda name: statistics.median(taken["original", name]))
    x, _ = images(channels, side, BATCH[side], FORMATS[best], torch.float32)
    row: dict[str, Any] = {"channels": channels, "side": side, "batch": BATCH[side], "n": ROUNDS, "repeats": repeats}
    row |= {"seconds": {" ".join(key): values for key, values in taken.items()}, "original_format": best}
    row |= {"ratio": {name: ratio(taken["original", best], taken["gander", name]) for name in FORMATS}}
    return row | {"target": target(channels, side), "kept": {who: kept(layer, x) for who, layer in layers.items()}}


def rise(who: str, memory_format: str, channels: int, side: int) -> float:
    """MiB that the peak of this process, a fresh one, rises over rest."""
    torch.set_num_threads(1)
    layer = pair(channels, torch.float32)[who]
    x, grad = images(channels, side, 2**23 // (channels * side**2), FORMATS[memory_format], torch.float32)
    once(layer, x[:1].detach().requires_grad_(), grad[:1])
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    rest = pages * resource.getpagesize()
    layer(x).backward(grad)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - rest) / 2**20


def training_steps() -> dict[str, Any]:
    torch.set_num_threads(1)
    x, labels = torch.randn(STEP_BATCH, 3, 128, 128), torch.arange(STEP_BATCH) % 10
    steps: dict[str, Callable[[], Any]] = {}
    arms = [(key, name, "fp32") for name in FORMATS for key in ("none", "simple", "original")] + [
        ("none", "channels_last", "bf16"),
        ("simple", "channels_last", "bf16"),
    ]
    for key, memory_format, precision in arms:
        torch.manual_seed(0)
        network = xresnet50(attention="simple" if key == "simple" else None)
        last: Any = network.stages[0]
        if key == "original":
            last[-1].attention = Original(256)
        elif key == "simple":
            by_step(spectral_norm(network, where=lambda name, layer: ".attention" in name))
        network.to(memory_format=FORMATS[memory_format])
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        batch = x.contiguous(memory_format=FORMATS[memory_format])

        def step(
            network: nn.Module = network,
            optimizer: Any = optimizer,
            batch: Tensor = batch,
            precision: str = precision,
            key: str = key,
        ) -> None:
            if key == "simple":
                refresh(network)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(network(batch).float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        steps[f"{key} {memory_format} {precision}"] = step
    for step in steps.values():
        step()
    return {"batch": STEP_BATCH, "n": STEPS, "seconds": in_turns(steps, STEPS, 1)}


def against(value: float, goal: float, *, most: bool = False) -> str:
    return "reached" if (value <= goal if most else value >= goal) else "**missed**"


def spread(found: dict[str, float]) -> str:
    return f"{found['of_medians']:.2f} [{found['least']:.2f}..{found['most']:.2f}]"


def told(row: dict[str, Any]) -> str:
    theirs = statistics.median(row["seconds"][f"original {row['original_format']}"])
    cells = [row["channels"], f"{row['side']}²", row["batch"], f"{1000 * theirs:.4g} {row['original_format']}", row["target"]]
    cells += [f"{spread(found)} {against(found['of_medians'], row['target'])}" for found in row["ratio"].values()]
    shares = [row["kept"]["gander"] / row["kept"]["original"]]
    shares += [row["peak"][f"gander {name}"] / row["peak"]["original NCHW"] for name in FORMATS]
    cells += [f"{share:.2f} {against(share, MEMORY, most=True)}" for share in shares]
    return "| " + " | ".join(map(str, (*cells, row["n"]))) + " |"


def told_steps(found: dict[str, Any]) -> list[str]:
    taken = found["seconds"]
    lines = ["| network | s a step | its share | over the original's step, NCHW fp32 |", "|" + "---|" * 4]
    for key, values in taken.items():
        what, form = key.split(" ", 1)
        without, cells = taken[f"none {form}"], [key, f"{statistics.median(values):.3f}"]
        if what == "none":
            cells += ["", ""]
        else:
            added = ratio([a - b for a, b in zip(values, without, strict=True)], without)
            added["of_medians"] = statistics.median(values) / statistics.median(without) - 1
            cells.append(spread(added))
            faster = ratio(taken["original NCHW fp32"], values)
            cells.append(spread(faster) if what == "simple" else "")
            if what == "simple" and form.startswith("channels_last"):
                goal = STEP[form.split()[1]]
                cells[2] += f" {against(added['of_medians'], SHARE, most=True)}"
                cells[3] += f" {goal}: {against(faster['of_medians'], goal)}"
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("layers", "steps"), help="shown, not kept")
    wanted = parser.parse_args().only
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for channels, side in SHAPES if wanted != "steps" else []:
            row = pool.apply(race, (channels, side))
            runs = [("gander", "channels_last"), ("gander", "NCHW"), ("original", "NCHW")]
            row["peak"] = {" ".join(run): pool.apply(rise, (*run, channels, side)) for run in runs}
            rows.append(row)
            print(told(row), file=sys.stderr, flush=True)
        steps = pool.apply(training_steps) if wanted != "layers" else None
    table = [
        "Forward + backward, fp32, CPU seconds, one thread. Ratios: the original's time in its better format over gander's; "
        "medians",
        f"of n rounds [least..most of one round]. Memory as a share of the original's, at most {MEMORY}.",
        "",
        "| c | size | batch | original, ms | target | channels_last | NCHW "
        "| kept for backward | peak, channels_last | peak, NCHW | n |",
        "|" + "---|" * 11,
        *map(told, rows),
    ]
    if steps is not None:
        table += [
            "",
            f"A training step of xresnet50, 128 px, batch {steps['batch']}, {steps['n']} rounds; "
            f"the layer's share at most {SHARE}.",
            "",
            *told_steps(steps),
        ]
    if wanted:
        print("\n".join(table))
    else:
        keep("race_simple", {"rows": rows, "steps": steps}, "\n".join(table))


if __name__ == "__main__":
    main()
