"""What a result must say of where it was made, and where results go."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy
import torch

import gander

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    place = {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}
    versions = {"torch": torch.__version__, "numpy": numpy.__version__, "gander": gander.__version__}
    return {**place, "python": platform.python_version(), **versions}


def keep(name: str, result: dict[str, Any], table: str) -> None:
    """Write `results/<name>.json` and `results/<name>.md`."""
    RESULTS.mkdir(exist_ok=True)
    whole = {"machine": machine(), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    made = ", ".join(f"{key} {value}" for key, value in whole["machine"].items())
    (RESULTS / f"{name}.md").write_text(f"{table}\n\nMade by `benchmarks/{name.split('-')[0]}.py` on: {made}.\n")
    print(table)
