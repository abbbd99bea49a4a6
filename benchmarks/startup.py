"""What a person waits for before anything happens: `import gander`, `gander --help`, `gander ls`.

    python benchmarks/startup.py

Targets: import under 0.3 s, help and ls under 0.5 s. Wall seconds of whole processes, in turn, median of n.
"""

import statistics
import subprocess
import sys
import time

from machine import keep

N = 15
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import gander": [sys.executable, "-c", "import gander"],
    "gander --help": [sys.executable, "-m", "gander", "--help"],
    "gander ls": [sys.executable, "-m", "gander", "ls"],
    "gander train --help": [sys.executable, "-m", "gander", "train", "--help"],
    "gander train sagan --help": [sys.executable, "-m", "gander", "train", "sagan", "--help"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(N + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if turn:  # the first reads the files from the disk
                seconds[name].append(time.perf_counter() - started)
    rows = [f"| process | median s | least | most | (n = {N})", "|---|---|---|---|"]
    rows += [f"| {name} | {statistics.median(s):.3f} | {min(s):.3f} | {max(s):.3f} |" for name, s in seconds.items()]
    rows[0] = f"| process (n = {N}) | median s | least | most |"
    keep("startup", {"n": N, "seconds": seconds}, "\n".join(rows))


if __name__ == "__main__":
    main()
