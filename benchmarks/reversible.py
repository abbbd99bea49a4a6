"""Reversible stacks beside plain ones of the same weights: memory by depth, time, and how exactly the input comes back.

    python benchmarks/reversible.py

Memory: by how much the resident memory of a fresh process grows in one step, forward and backward to the weights' gradients,
over that before it; glibc is told there to hand back what is freed, so that holes in its heap do not blur it. Time: CPU seconds
of such steps, the two forms in turns. One thread, fp32. Linux with glibc only.

Beside the bare stacks stands the generator of the recipe `locate` with `--reversible`, spectral norm and all. Of its depth one
block at each side doubles the side, and the others are the stack: at depth 1 there is none, and the two forms are one.
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
from machine import keep
from torch import Tensor, nn

from gander.attention.kernels import attend
from gander.layers import ReversibleSequence, by_step, spectral_norm
from gander.models.locate import Generator

DEPTHS = (1, 4, 16)
ROUNDS = 9
EXACT = 24  # blocks after which the input is compared with what backward makes of it


class Convolutions(nn.Sequential):
    def __init__(self, width: int = 64) -> None:
        super().__init__(nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1))


class Attention(nn.Module):
    def __init__(self, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.norm, self.qkv, self.out, self.heads = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, q.shape[-1] ** -0.5).transpose(1, 2).flatten(2))


class MLP(nn.Sequential):
    def __init__(self, width: int = 128) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


# name -> (F, G, the axis cut in halves, shape of x)
KINDS: dict[str, tuple[type[nn.Module], type[nn.Module], int, tuple[int, ...]]] = {
    "3×3 convolutions": (Convolutions, Convolutions, 1, (4, 128, 64, 64)),
    "attention and MLP": (Attention, MLP, -1, (2, 1024, 256)),
}


LOCATE = {"locate, 64 px, width 16": (16, 128)}  # the shape of its latents


def made(kind: str, depth: int, reversible: bool) -> tuple[nn.Module, Tensor]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind in LOCATE:
        generator = by_step(spectral_norm(Generator(64, width=16, depth=depth, reversible=True))).to(
            memory_format=torch.channels_last
        )
        for part in generator.modules():
            if isinstance(part, ReversibleSequence):
                part.reversible = reversible
        return generator, torch.randn(LOCATE[kind])
    f, g, dim, shape = KINDS[kind]
    return ReversibleSequence([(f(), g()) for _ in range(depth)], dim=dim, reversible=reversible), torch.randn(shape)


def step(stack: nn.Module, x: Tensor) -> None:
    stack(x.requires_grad_()).square().mean().backward()


def of_process(field: str) -> float:
    """MiB, from /proc: VmRSS as it is, VmHWM at its most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def growth(kind: str, depth: int, reversible: bool) -> float:
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is larger is given back at once
    warm, x = made(kind, 1, reversible)
    axis, size = (0, 1) if kind in LOCATE else (2 if x.ndim == 4 else 1, 8)
    step(warm, x.narrow(axis, 0, size).clone())  # what kernels load and keep is no part of it
    stack, x = made(kind, depth, reversible)
    Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is counted anew
    before = of_process("VmRSS")
    step(stack, x)
    return of_process("VmHWM") - before


def times(kind: str, depth: int) -> dict[str, list[float]]:
    stacks = {form: made(kind, depth, form == "reversible") for form in ("plain", "reversible")}
    taken: dict[str, list[float]] = {form: [] for form in stacks}
    for i in range(ROUNDS + 1):
        for form, (stack, x) in stacks.items():
            stack.zero_grad()
            x.grad = None
            started = time.process_time()
            step(stack, x)
            if i:  # the first is warm-up
                taken[form].append(time.process_time() - started)
    return taken


def reconstruction(kind: str) -> float:
    """The most by which the second half of the input differs when backward has computed it back through all blocks."""
    stack, x = made(kind, EXACT, True)
    seen: list[Tensor] = []
    assert isinstance(stack, ReversibleSequence)
    stack.blocks[0][0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach().clone()))  # type: ignore[index]
    step(stack, x)
    return (seen[0] - seen[1]).abs().max().item()


def main() -> None:
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("resident memory is read from /proc, which is Linux's")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for kind in (*KINDS, *LOCATE):
            for depth in DEPTHS:
                weights = sum(p.nbytes for p in made(kind, depth, True)[0].parameters()) / 2**20
                memory = {form: pool.apply(growth, (kind, depth, form == "reversible")) for form in ("plain", "reversible")}
                shape = LOCATE[kind] if kind in LOCATE else KINDS[kind][3]
                rows.append({"kind": kind, "shape": shape, "depth": depth, "weights": weights, "memory": memory})
                rows[-1] |= {"seconds": pool.apply(times, (kind, depth)), "n": ROUNDS}
                print(told(rows[-1]), file=sys.stderr, flush=True)
        exact = {kind: pool.apply(reconstruction, (kind,)) for kind in KINDS}
    table = [
        "One step, forward and backward; fp32, one thread. Memory: MiB by which a fresh process grows over that before the step,",
        "in brackets without the weights' gradients. Time: CPU ms, medians of n; ratio: reversible over plain [least..most].",
        "",
        "| F and G | x | depth | gradients, MiB | plain, MiB | reversible, MiB | plain, ms | reversible, ms | ratio | n |",
        "|" + "---|" * 10,
        *map(told, rows),
        "",
        *(f"{kind}: after {EXACT} blocks the input comes back to {error:.1e} (x is N(0, 1))." for kind, error in exact.items()),
    ]
    keep("reversible", {"rows": rows, "reconstruction": exact}, "\n".join(table))


def told(row: dict[str, Any]) -> str:
    medians = {form: statistics.median(taken) for form, taken in row["seconds"].items()}
    ratios = [b / a for a, b in zip(row["seconds"]["plain"], row["seconds"]["reversible"], strict=True)]
    cells = [row["kind"], "×".join(map(str, row["shape"])), row["depth"], f"{row['weights']:.1f}"]
    cells += [f"{mib:.0f} ({mib - row['weights']:.0f})" for mib in row["memory"].values()]
    cells += [f"{1000 * seconds:.0f}" for seconds in medians.values()]
    cells += [f"{medians['reversible'] / medians['plain']:.2f}× [{min(ratios):.2f}..{max(ratios):.2f}]", row["n"]]
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
