"""What works on this machine, and what runs instead of what does not."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import torch

import gander
from gander import files
from gander.estimate import matrix_rate

EXTRAS = {"datasets": "hub", "tensorboard": "tensorboard"}


def findings() -> Iterator[str]:
    yield f"gander {gander.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}"
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    rate = f"{matrix_rate() / 1e9:,.0f} GFLOP/s"
    yield f"cpu        {os.cpu_count()} cores, {torch.get_num_threads()} threads (OMP_NUM_THREADS {threads}), {rate}"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16: --precision fp16 or fp32"
            yield f"cuda:{i}     {torch.cuda.get_device_name(i)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free, {bf16}"
    else:
        built = (
            "this torch is a CPU build" if torch.version.cuda is None else f"torch has CUDA {torch.version.cuda}, but sees no GPU"
        )
        yield f"cuda       none ({built}); training runs on the CPU"
    yield f"mps        {'yes' if torch.backends.mps.is_available() else 'none'}"
    yield f"processes  {'torchrun with gloo' if torch.distributed.is_gloo_available() else 'one only: no gloo'}"
    yield f"attention  {_attention_ways()}"
    for package, extra in EXTRAS.items():
        yield f"{package:10} {'installed' if find_spec(package) else f'''missing; pip install 'gander-torch[{extra}]' '''}"
    yield f"compiler   {shutil.which('c++') or 'none'} (for torch.compile only; nothing in gander needs it)"
    yield f"cache      {files.cache_folder()}: {_cache()}"


def _attention_ways() -> str:
    from gander.attention.kernels import choose

    device = "cuda" if torch.cuda.is_available() else "cpu"
    ways = []
    for side in (8, 16, 32, 64, 128):
        q, v = ((16, 1, side * side, width) for width in (8, 64))
        ways.append(f"{side}² {choose(q, q, v, device, torch.float32)}")
    return ", ".join(ways)


def _cache() -> str:
    folder = files.cache_folder()
    probe = folder / ".doctor"
    try:
        files.write_atomic(probe, b"")
        probe.unlink()
    except OSError as error:
        return f"cannot be written ({error.strerror}); name another by GANDER_CACHE"
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return f"{size / 1e6:,.0f} MB used, {shutil.disk_usage(folder).free / 1e9:,.0f} GB free"
