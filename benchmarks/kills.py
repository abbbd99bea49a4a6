"""Kill runs at random moments with SIGKILL, say the same command again, and compare with runs that nobody killed.

    python benchmarks/kills.py [--kills 100] [--seed 0]

For each game (a recipe and its knobs) one run goes straight to its end and keeps every checkpoint. A second run of the same
words is killed again and again, a tenth of the times inside a save, and started again by the same words (`workers` changes
from start to start where the game says so). The kills of a run count as equal if at each of them and at the end every checkpoint
has the hashes of the straight run's checkpoint of that step (weights, buffers, averages, optimisers, loss scales), and if at
the end the whole log (without its clock) and all grids of samples are equal to the last bit.

Processes are forked from one that has imported torch and computed nothing: dead is dead, and a start costs no seconds.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

GAMES = {
    "article": ["sagan", "--flip"],
    "conditional, accumulation": ["sagan_official", "--accumulate", "2"],
    "DiffAugment": ["sagan_official", "--augment", "color,translation,cutout"],
    "relativistic, R1, R2": ["sagan", "--loss", "relativistic", "--r1", "1", "--r2", "1", "--spectral-norm", "none"],
    "WGAN-GP, n_dis 2": ["sagan", "--loss", "wasserstein", "--wgan-gp", "10", "--n-dis", "2", "--spectral-norm", "none"],
    "fp16 with loss scaling": ["sagan_official", "--precision", "fp16"],
    "bf16, EMA 0.9": ["sagan", "--precision", "bf16", "--ema", "0.9"],
    "no EMA, simultaneous": ["sagan", "--ema", "0", "--simultaneous"],
    "workers change": ["dcgan", "--attention", "self+residual"],
    "spectral norm, n_dis 2, accumulation": ["dcgan", "--spectral-norm", "both", "--n-dis", "2", "--accumulate", "2"],
}
SMALL = ["--resolution", "16", "--width", "4", "--batch", "8", "--device", "cpu", "--allow-broken"]
CADENCE = ["--log-every", "3", "--save-every", "5", "--sample-every", "10"]


def photos(folder: Path) -> Path:
    """Three classes of 16 pictures, and one file that is broken."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for i in range(48):
        file = folder / f"class {i % 3}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), np.uint8)).save(file)
    (folder / "class 0" / "broken.png").write_bytes(b"no image")
    return folder


def started(words: list[str], output: Path) -> int:
    """`gander WORDS` in a process of its own; its number."""
    if child := os.fork():
        return child
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    try:
        from gander.cli import main as gander

        os._exit(gander(words))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def finished(words: list[str], output: Path) -> None:
    if code := os.waitstatus_to_exitcode(os.waitpid(started(words, output), 0)[1]):
        raise SystemExit(f"exit code {code} from gander {' '.join(words)}:\n{output.read_text()}")


def killed(words: list[str], output: Path, checkpoints: Path, inside: bool, draw: random.Random, length: float) -> bool | None:
    """Start, kill; whether that was inside a save, None where the run was finished sooner."""
    left = set(checkpoints.glob(".*.tmp"))  # by the kill before
    process = started(words, output)
    until = time.monotonic() + draw.uniform(0, length)
    saves = draw.randrange(2)
    seen: set[Path] = set()
    while True:
        if os.waitpid(process, os.WNOHANG)[0]:
            return None
        if not inside and time.monotonic() > until:
            break
        if inside:
            seen |= set(checkpoints.glob(".*.tmp")) - left
            if len(seen) > saves:
                time.sleep(draw.uniform(0, 0.01))
                break
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return bool(set(checkpoints.glob(".*.tmp")) - left)


def hashes(run: Path) -> dict[str, str]:
    """Of every checkpoint, by its step."""
    return {file.parent.name: file.read_text() for file in run.glob("checkpoints/[0-9]*/manifest.json")}


def told(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("time", "images_per_second")} for line in lines]


def pictures(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run / "samples").iterdir()}


def game(name: str, folder: Path, data: Path, kills: int, steps: int, draw: random.Random) -> dict:
    words = ["train", *GAMES[name], *SMALL, *CADENCE, "--data", str(data), "--steps", str(steps)]
    straight, broken = folder / "straight", folder / "killed"
    before = time.monotonic()
    finished([*words, "--run", str(straight), "--keep-every", "5"], folder / "straight.txt")
    length = time.monotonic() - before
    expected = hashes(straight)
    count = {"kills": 0, "inside a save": 0}
    equal = True
    while count["kills"] < kills:
        workers = ["--workers", str(draw.randrange(1, 4))] if name == "workers change" else []
        again = [*words, "--run", str(broken), *workers]
        inside = count["kills"] % 10 == 9 or (count["kills"] + 1 == kills and not count["inside a save"])
        was = killed(again, folder / "killed.txt", broken / "checkpoints", inside, draw, length / 3)
        if was is None:  # it came to its end: the rest of the kills are of a new run
            equal &= same(straight, broken)
            broken = folder / f"killed{count['kills']}"
            continue
        count["kills"] += 1
        count["inside a save"] += was
        equal &= hashes(broken).items() <= expected.items()
    finished([*words, "--run", str(broken)], folder / "killed.txt")
    equal &= same(straight, broken)
    return count | {"equal": count["kills"] * equal}


def same(straight: Path, broken: Path) -> bool:
    """Log, samples, and the checkpoints that are left."""
    ends = hashes(broken)
    return told(straight) == told(broken) and pictures(straight) == pictures(broken) and ends.items() <= hashes(straight).items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--games", type=int, default=len(GAMES), help="the first so many")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", action="store_true", help="write results/kills.md")
    wanted = parser.parse_args()
    import torch

    import gander.verbs  # noqa: F401  imported once, before any fork

    torch.set_num_threads(1)
    draw, counts = random.Random(wanted.seed), {}
    names = list(GAMES)[: wanted.games]
    for i, name in enumerate(names):
        share = (i + 1) * wanted.kills // len(names) - i * wanted.kills // len(names)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["GANDER_CACHE"] = str(Path(folder, "cache"))
            counts[name] = game(name, Path(folder), photos(Path(folder, "photos")), share, wanted.steps, draw)
        print(name, counts[name], file=sys.stderr, flush=True)
    total = {key: sum(count[key] for count in counts.values()) for key in ("kills", "inside a save", "equal")}
    rows = ["| game | kills | inside a save | equal to the last bit |", "|---|---|---|---|"]
    for name, count in [*counts.items(), ("all", total)]:
        rows.append(f"| {name} | {count['kills']} | {count['inside a save']} | {count['equal']} |")
    if wanted.keep:
        from machine import keep

        keep("kills", {"steps": wanted.steps, "seed": wanted.seed, "games": counts, "all": total}, "\n".join(rows))
    else:
        print("\n".join(rows))
    if total["equal"] != total["kills"]:
        raise SystemExit("not all are equal")


if __name__ == "__main__":
    main()
