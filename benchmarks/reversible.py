"""Reversible stacks beside plain ones of the same weights: memory by depth, time, and how exactly the input comes back.

    [PYTHONPATH=FOLDER] python benchmarks/reversible.py [WORDS]   only the rows that hold the words; nothing is kept then

Memory: by how much the resident memory of a fresh process grows in one step, forward and backward to the weights' gradients,
over that before it; glibc is told there to hand back what is freed, so that holes in its heap do not blur it. Time: CPU seconds
of such steps, the two forms in turns. One thread, fp32. Linux with glibc only.

Beside attention and MLPs, which are fused kernels in both forms, stands the sequence of reformer-pytorch, of the same F and G and
weights, where that package is at hand: `pip install --no-deps --target FOLDER reformer-pytorch`. Nothing else of it is loaded.

Beside the bare stacks stands the generator of the recipe `locate` with `--reversible`, spectral norm and all. Of its depth one
block at each side doubles the side, and the others are the stack: at depth 1 there is none, and the two forms are one.
"""

import ctypes
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import keep
from race_attention import imported
from torch import Tensor, nn

from gander.attention.kernels import attend
from gander.layers import ReversibleSequence, by_step, spectral_norm
from gander.models.locate import Generator

DEPTHS = (1, 4, 16)
FORMS = ("plain", "reversible", "reformer-pytorch")
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


def peers() -> type[nn.Module] | None:
    """The reversible sequence of reformer-pytorch; None where it is not installed."""
    found = importlib.util.find_spec("reformer_pytorch")
    if found is None or not found.submodule_search_locations:
        return None
    return imported("reformer_pytorch_alone", found.submodule_search_locations[0], "reversible", {}).ReversibleSequence


def forms(kind: str) -> list[str]:
    return [form for form in FORMS if form != "reformer-pytorch" or (kind == "attention and MLP" and peers())]


def made(kind: str, depth: int, form: str) -> tuple[nn.Module, Tensor]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reversible = form == "reversible"
    if kind in LOCATE:
        generator = by_step(spectral_norm(Generator(64, width=16, depth=depth, reversible=True))).to(
            memory_format=torch.channels_last
        )
        for part in generator.modules():
            if isinstance(part, ReversibleSequence):
                part.reversible = reversible
        return generator, torch.randn(LOCATE[kind])
    f, g, dim, shape = KINDS[kind]
    pairs = [(f(), g()) for _ in range(depth)]
    if form == "reformer-pytorch":
        peer = peers()
        assert peer is not None
        return peer(nn.ModuleList(nn.ModuleList(pair) for pair in pairs)), torch.randn(shape)
    return ReversibleSequence(pairs, dim=dim, reversible=reversible), torch.randn(shape)


def step(stack: nn.Module, x: Tensor) -> None:
    stack(x.requires_grad_()).square().mean().backward()


def of_process(field: str) -> float:
    """MiB, from /proc: VmRSS as it is, VmHWM at its most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def growth(kind: str, depth: int, form: str) -> float:
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is larger is given back at once
    warm, x = made(kind, 1, form)
    axis, size = (0, 1) if kind in LOCATE else (2 if x.ndim == 4 else 1, 8)
    step(warm, x.narrow(axis, 0, size).clone())  # what kernels load and keep is no part of it
    stack, x = made(kind, depth, form)
    Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is counted anew
    before = of_process("VmRSS")
    step(stack, x)
    return of_process("VmHWM") - before


def times(kind: str, depth: int) -> dict[str, list[float]]:
    stacks = {form: made(kind, depth, form) for form in forms(kind)}
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


def compare() -> None:
    """All forms are one function."""
    kind, results = "attention and MLP", []
    for form in forms(kind):
        stack, x = made(kind, 2, form)
        stack, x = stack.double(), x.double()[:, :64].requires_grad_()
        y = stack(x)
        y.square().mean().backward()
        results.append([y, x.grad, *(p.grad for p in stack.parameters())])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)


def reconstruction(kind: str) -> float:
    """The most by which the second half of the input differs when backward has computed it back through all blocks."""
    stack, x = made(kind, EXACT, "reversible")
    seen: list[Tensor] = []
    assert isinstance(stack, ReversibleSequence)
    stack.blocks[0][0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach().clone()))  # type: ignore[index]
    step(stack, x)
    return (seen[0] - seen[1]).abs().max().item()


def main(words: str) -> None:
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("resident memory is read from /proc, which is Linux's")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    compare()
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for kind in (*KINDS, *LOCATE):
            for depth in DEPTHS if words in kind else ():
                weights = sum(p.nbytes for p in made(kind, depth, "plain")[0].parameters()) / 2**20
                memory = {form: pool.apply(growth, (kind, depth, form)) for form in forms(kind)}
                shape = LOCATE[kind] if kind in LOCATE else KINDS[kind][3]
                rows.append({"kind": kind, "shape": shape, "depth": depth, "weights": weights, "memory": memory})
                rows[-1] |= {"seconds": pool.apply(times, (kind, depth)), "n": ROUNDS}
                print(told(rows[-1]), file=sys.stderr, flush=True)
        exact = {kind: pool.apply(reconstruction, (kind,)) for kind in KINDS if words in kind}
    table = [
        "One step, forward and backward; fp32, one thread. Memory: MiB by which a fresh process grows over that before the step,",
        "in brackets without the weights' gradients. Time: CPU ms, medians of n; ratio: reversible over plain [least..most].",
        "",
        "| F and G | x | depth | gradients, MiB | "
        + " | ".join([*(f"{form}, MiB" for form in FORMS), *(f"{form}, ms" for form in FORMS)])
        + " | ratio | reformer-pytorch's | n |",
        "|" + "---|" * 13,
        *map(told, rows),
        "",
        *growths(rows),
        *([] if peers() else ["", "Without reformer-pytorch, which is not installed here: pip install --no-deps --target FOLDER."]),
        "",
        *(f"{kind}: after {EXACT} blocks the input comes back to {error:.1e} (x is N(0, 1))." for kind, error in exact.items()),
    ]
    if words:
        print("\n".join(table))
    else:
        keep("reversible", {"rows": rows, "reconstruction": exact}, "\n".join(table))


def told(row: dict[str, Any]) -> str:
    memory, seconds, none = row["memory"], row["seconds"], "–"
    cells = [row["kind"], "×".join(map(str, row["shape"])), row["depth"], f"{row['weights']:.1f}"]
    cells += [f"{memory[form]:.0f} ({memory[form] - row['weights']:.0f})" if form in memory else none for form in FORMS]
    cells += [f"{1000 * statistics.median(seconds[form]):.0f}" if form in seconds else none for form in FORMS]
    for form in FORMS[1:]:
        if form in seconds:
            ratios = [b / a for a, b in zip(seconds["plain"], seconds[form], strict=True)]
            whole = statistics.median(seconds[form]) / statistics.median(seconds["plain"])
            cells.append(f"{whole:.2f}× [{min(ratios):.2f}..{max(ratios):.2f}]")
        else:
            cells.append(none)
    return "| " + " | ".join(map(str, (*cells, row["n"]))) + " |"


def growths(rows: list[dict[str, Any]]) -> list[str]:
    """How much each form grows with every block beyond the first few."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        *_, few, many = (row for row in rows if row["kind"] == kind)
        blocks = many["depth"] - few["depth"]
        grown = {form: (many["memory"][form] - few["memory"][form]) / blocks for form in many["memory"]}
        words = ", ".join(f"{form} {mib:.2f}" for form, mib in grown.items())
        lines.append(f"{kind}: a block more takes, MiB: {words}; its gradients {(many['weights'] - few['weights']) / blocks:.2f}.")
    return lines


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
