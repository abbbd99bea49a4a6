"""Run a function in several gloo processes of this machine, as torchrun would on several devices."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


def run(function: Callable[..., Any], processes: int, *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returned in each process, by rank. It must live at the top of a module.

    Starting costs a few seconds (each process imports torch), so put many checks into one function.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_member, (processes, folder, function, arguments), nprocs=processes)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(processes)]


def _member(rank: int, processes: int, folder: str, function: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # hosts without a name that resolves
    dist.init_process_group("gloo", init_method=Path(folder, "meeting").as_uri(), rank=rank, world_size=processes)
    try:
        torch.save(function(*arguments), Path(folder, f"{rank}.pt"))
        dist.barrier()
    finally:
        dist.destroy_process_group()
