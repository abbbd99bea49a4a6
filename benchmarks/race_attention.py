"""Self-attention against two peers' layers of the same function: forward and backward, fp32, time and peak memory.

    GANDER_PEERS=FOLDER python benchmarks/race_attention.py [--device cuda] [--only fastai-64-16]

FOLDER holds the peers' repositories: `git clone https://github.com/fastai/fastai1` and
`git clone https://github.com/ajbrock/BigGAN-PyTorch`. Nothing of theirs is kept here.

Both layers get the same weights, and results and all gradients are compared before anything is timed (in float64: in float32
rounding now and then moves the greatest of a pooled window, and with it a gradient). Each pair is run twice:

- with spectral norm: the peer as published, one power iteration in each forward; gander's as its learners use it, by step:
  `refresh`, which they do once for all forwards of a step of the optimizer, is charged in full to each timed step;
- without, both: the layers alone.

Gander's layer is timed in channels_last, as in its learners, and in NCHW, as in a loop of someone else's; the peer in both,
and the better of the two counts. All take turns within a round; a round's figure is the median of its steps, a ratio that of
the medians of all rounds (of the least and the greatest ratio in one round). Each row has a process of its own, since malloc
learns from what was freed before when to give memory back, and fresh pages can cost more than writing them. On a CPU the clock
is CPU seconds on one thread, for others may be at work; on CUDA it is the device's own.

Memory is the peak over rest of one step, gradients included, as torch's allocator counts it (on a CPU by the profiler's
record of every allocation, so also of temporaries inside operators; what BLAS keeps for itself is not seen).
"""

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import types
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import keep
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from gander.attention import SelfAttention
from gander.layers.spectral_norm import by_step, refresh, spectral_norm

PEERS = {"fastai": "fastai1", "BigGAN": "BigGAN-PyTorch"}  # and the folders of their repositories
BATCH = {16: 16, 32: 8, 64: 2, 128: 1}
# (peer, channels): {side: the least ratio of times}, and of peak memories
TIME: dict[tuple[str, int], dict[int, float | None]] = {
    ("fastai", 64): {16: 1.2, 32: 1.45, 64: 1.8, 128: 1.8},
    ("BigGAN", 64): {16: 1.25, 32: 1.5, 64: 2.4, 128: 2.8},
    ("fastai", 256): {16: None, 32: None, 64: None},
    ("BigGAN", 256): {16: 1.1, 32: 0.9, 64: 1.3},
}
MEMORY = {("fastai", 64): {32: 4, 64: 25, 128: 100}}
FORMATS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
ROUNDS, ROUND = 7, 0.3  # seconds of the slowest in a round, at least
LONG, ROUNDS_OF_LONG = 3.0, 3
CLOSE = 1e-9  # of the norm, in float64

# gander's convolutions by the names of the peers'. In fastai's layer the softmax runs over the positions of its "query".
SAME = {
    "fastai": {"query": "key", "key": "query", "value": "value"},
    "BigGAN": {"query": "theta", "key": "phi", "value": "g", "output": "o"},
}


def imported(name: str, folder: str, module: str, stands_in: dict[str, dict[str, Any]]) -> types.ModuleType:
    """`module` of the package in `folder`, with stand-ins for its imports that the layer does not need."""
    package = types.ModuleType(name)
    package.__path__ = [folder]
    sys.modules[name] = package
    for key, names in stands_in.items():
        sys.modules[key] = types.ModuleType(key)
        vars(sys.modules[key]).update(names)
    return importlib.import_module(f"{name}.{module}")


def peers_layer(peer: str, channels: int, norm: bool) -> nn.Module:
    folder = str(Path(os.environ["GANDER_PEERS"], PEERS[peer]))
    if peer == "BigGAN":
        layers = imported("biggan", folder, "layers", {"sync_batchnorm": {"SynchronizedBatchNorm2d": nn.BatchNorm2d}})
        return layers.Attention(channels, which_conv=layers.SNConv2d if norm else nn.Conv2d)

    class Module(nn.Module):
        """Calls nn.Module's __init__ for classes that do not."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            module = super().__new__(cls)
            nn.Module.__init__(module)
            return module

        def __init__(self) -> None:
            pass

    types_of_fastai = dict.fromkeys(("LambdaFunc", "LayerFunc", "ModuleList", "Floats", "Rank0Tensor"), Any)
    core = {"torch": torch, "nn": nn, "F": F, "Tensor": Tensor, "tensor": torch.tensor, "Module": Module, "Enum": Enum}
    core |= {"spectral_norm": nn.utils.spectral_norm, "weight_norm": nn.utils.weight_norm}
    core |= {key: getattr(typing, key) for key in typing.__all__} | types_of_fastai
    layer = imported("fastai1", folder + "/fastai", "layers", {"fastai1.torch_core": core}).SelfAttention(channels)
    if not norm:
        for conv in layer.children():
            nn.utils.remove_spectral_norm(conv)
    return layer


def raw(conv: nn.Module) -> Tensor:
    """The weight that learns, before any spectral norm."""
    if hasattr(conv, "parametrizations"):
        return conv.parametrizations.weight.original
    return getattr(conv, "weight_orig", conv.weight)


@torch.no_grad()
def pair(peer: str, channels: int, norm: bool, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Gander's layer and the peer's, of the same weights and, after the peer's next forward, the same singular vectors."""
    torch.manual_seed(0)
    theirs = peers_layer(peer, channels, norm).to(dtype)
    ours = SelfAttention(channels) if peer == "BigGAN" else SelfAttention(channels, value_ratio=1, pool=False, project=False)
    ours.to(dtype)
    if norm:
        by_step(spectral_norm(ours))
    for own_name, name in SAME[peer].items():
        own, other = getattr(ours, own_name), getattr(theirs, name)
        if not norm:  # weights of the size that they have under spectral norm
            raw(other).div_(torch.linalg.matrix_norm(raw(other).flatten(1), 2))
        raw(own).copy_(raw(other).view(raw(own).shape))
        if norm:
            matrix, u = raw(own).flatten(1), other.weight_u if peer == "fastai" else other.u0[0]
            v = F.normalize(matrix.T @ u, dim=0)
            state = own.parametrizations.weight[0]
            state.u, state.v = F.normalize(matrix @ v, dim=0), v
    ours.gamma.fill_(0.7)
    theirs.gamma.fill_(0.7)
    return ours, theirs


def images(channels: int, side: int, device: str, memory_format: torch.memory_format, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x, and the gradient of the result."""
    draw = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(BATCH[side], channels, side, side, generator=draw) for _ in range(2))
    x, grad = (t.to(device, dtype).contiguous(memory_format=memory_format) for t in (x, grad))
    return x.requires_grad_(), grad


def once(layer: nn.Module, x: Tensor, grad: Tensor, by_step: bool) -> Tensor:
    if by_step:
        refresh(layer)
    y = layer(x)
    y.backward(grad)
    return y


def forget(layer: nn.Module, x: Tensor) -> None:
    for t in (x, *layer.parameters()):
        t.grad = None


def assert_same_function(peer: str, ours: nn.Module, theirs: nn.Module, x: Tensor, grad: Tensor) -> None:
    results = []
    for layer, names in ((ours, list(SAME[peer])), (theirs, list(SAME[peer].values()))):
        y = once(layer, x, grad, by_step=False)
        gradients = [raw(getattr(layer, name)).grad for name in names]
        results.append([t.detach().flatten() for t in (y, x.grad, *gradients, layer.gamma.grad)])
        forget(layer, x)
    for mine, other in zip(*results, strict=True):
        error = (mine - other).norm() / other.norm()
        assert error < CLOSE, f"not the same function as {peer}'s: off by {error:.1e}"


def seconds(step: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        started = time.process_time()
        step()
        return time.process_time() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def peak(step: Callable[[], Any], device: str) -> float:
    """MiB over rest."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        rest = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - rest) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    with tempfile.TemporaryDirectory() as folder:
        recorded.export_chrome_trace(folder + "/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    events = [event for event in events if event["name"] == "[memory]"]
    totals = [event["args"]["Total Allocated"] for event in sorted(events, key=lambda event: event["ts"])]
    first = min(events, key=lambda event: event["ts"])["args"]
    return (max(totals) - (first["Total Allocated"] - first["Bytes"])) / 2**20


def race(peer: str, channels: int, side: int, device: str) -> list[dict[str, Any]]:
    """One row with spectral norm and one without."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
    steps: dict[tuple[bool, str, str], tuple[Callable[[], Any], Callable[[], Any]]] = {}
    for norm in (True, False):
        for name, memory_format in FORMATS.items():
            for dtype in (torch.float64, torch.float32):
                layers = [layer.to(device) for layer in pair(peer, channels, norm, dtype)]
                x, grad = images(channels, side, device, memory_format, dtype)
                if dtype == torch.float64:
                    assert_same_function(peer, *layers, x, grad)
            for who, layer in zip(("gander", "peer"), layers, strict=True):
                layer.to(memory_format=memory_format)
                step = lambda layer=layer, x=x, grad=grad, ours=norm and who == "gander": once(layer, x, grad, by_step=ours)  # noqa: E731
                steps[norm, who, name] = step, lambda layer=layer, x=x: forget(layer, x)

    def measured(measure: Callable[[Callable[[], Any], str], float], key: tuple[bool, str, str]) -> float:
        step, clear = steps[key]
        clear()
        result = measure(step, device)
        clear()
        return result

    slowest = max(measured(seconds, key) for key in steps)  # and all are warm now
    rounds = ROUNDS if slowest < LONG else ROUNDS_OF_LONG
    repeats = max(1, round(ROUND / slowest))
    taken: dict[tuple[bool, str, str], list[float]] = {key: [] for key in steps}
    for _ in range(rounds):
        turns = [{key: measured(seconds, key) for key in steps} for _ in range(repeats)]
        for key in steps:
            taken[key].append(statistics.median(turn[key] for turn in turns))
    memory = {key: measured(peak, key) for key in steps}

    rows = []
    for norm in (True, False):
        best = min(FORMATS, key=lambda name: statistics.median(taken[norm, "peer", name]))
        theirs = taken[norm, "peer", best]
        row: dict[str, Any] = {"peer": peer, "channels": channels, "side": side, "batch": BATCH[side], "spectral_norm": norm}
        row |= {"peer_format": best, "seconds": {f"{who} {name}": taken[norm, who, name] for _, who, name in list(steps)[:4]}}
        row |= {"n": rounds, "repeats": repeats, "target": TIME[peer, channels][side], "ratio": {}}
        for name in FORMATS:
            ratios = [a / b for a, b in zip(theirs, taken[norm, "gander", name], strict=True)]
            whole = statistics.median(theirs) / statistics.median(taken[norm, "gander", name])
            row["ratio"][name] = {"of_medians": whole, "least": min(ratios), "most": max(ratios)}
        row["memory"] = {"peer": memory[norm, "peer", best]} | {name: memory[norm, "gander", name] for name in FORMATS}
        row["memory_target"] = MEMORY.get((peer, channels), {}).get(side)
        rows.append(row)
    return rows


def told(row: dict[str, Any]) -> str:
    def against(value: float, target: float | None) -> str:
        return "" if target is None else " (reached)" if value >= target else " (**missed**)"

    cells = [row["peer"], row["channels"], f"{row['side']}²", row["batch"], "yes" if row["spectral_norm"] else "no"]
    theirs = statistics.median(row["seconds"][f"peer {row['peer_format']}"])
    cells += [f"{1000 * theirs:.4g} {row['peer_format']}", "" if row["target"] is None else f"{row['target']}×"]
    for name in FORMATS:
        ratio = row["ratio"][name]
        spread = f"{ratio['least']:.2f}..{ratio['most']:.2f}"
        cells.append(f"{ratio['of_medians']:.2f}× [{spread}]{against(ratio['of_medians'], row['target'])}")
    memory = row["memory"]
    smaller = memory["peer"] / memory["channels_last"]
    cells += [f"{memory['peer']:.4g}", f"{memory['channels_last']:.3g}", f"{memory['NCHW']:.3g}"]
    cells += ["" if row["memory_target"] is None else f"1/{row['memory_target']}"]
    cells += [f"1/{smaller:.1f}{against(smaller, row['memory_target'])}"]
    return "| " + " | ".join(map(str, (*cells, row["n"]))) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", help="rows whose peer-channels-side begins so; shown, not kept")
    wanted = parser.parse_args()
    folder = os.environ.get("GANDER_PEERS", "")
    missing = [name for name in PEERS.values() if not folder or not Path(folder, name).is_dir()]
    if missing:
        sources = {"fastai1": "https://github.com/fastai/fastai1", "BigGAN-PyTorch": "https://github.com/ajbrock/BigGAN-PyTorch"}
        clones = "; ".join(f"git clone {sources[name]}" for name in missing)
        sys.exit(f"GANDER_PEERS={folder or '(not set)'} lacks {' and '.join(missing)}: in a folder that it names, {clones}")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for (peer, channels), sides in TIME.items():
            for side in sides:
                if f"{peer}-{channels}-{side}".startswith(wanted.only or ""):
                    rows += pool.apply(race, (peer, channels, side, wanted.device))
                    print(told(rows[-2]), told(rows[-1]), sep="\n", file=sys.stderr, flush=True)
    clock = "CPU seconds, one thread" if wanted.device == "cpu" else torch.cuda.get_device_name()
    table = [
        f"Forward + backward, fp32; {clock}. Ratio: the peer's time, in its better memory format, over gander's, medians of n",
        "rounds [least..most of one round]. Memory: MiB over rest at the peak of one step; its ratio is that of channels_last.",
        "",
        "| peer | C | map | batch | spectral norm | peer, ms | target | gander channels_last | gander NCHW "
        "| peer, MiB | gander channels_last | gander NCHW | target | memory | n |",
        "|" + "---|" * 15,
        *map(told, rows),
    ]
    if wanted.only:
        print("\n".join(table))
    else:
        keep("race_attention" + ("" if wanted.device == "cpu" else "-cuda"), {"rows": rows}, "\n".join(table))


if __name__ == "__main__":
    main()
