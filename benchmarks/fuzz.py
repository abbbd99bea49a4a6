"""Malformed inputs, each in a process and a folder of its own: what gander says of them, and what it leaves behind.

    python benchmarks/fuzz.py [--inputs 200] [--kinds state,run.json] [--first 0] [--keep FOLDER]

The inputs are those of `tests/malformed_data.py` and `tests/malformed_runs.py`: a function of their number, so that the same
are made anywhere. Each is refused with one line and exit code 2, or read with what is broken skipped and listed, or is
harmless. A failure is a traceback, more lines, another exit code, a file outside of the run's folder and the cache, more
memory than 2 GB, or more than a minute of CPU. Posix only.
"""

import argparse
import getpass
import os
import re
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import malformed_data
import malformed_runs
import torch
from machine import keep

from gander import cli

KINDS = {
    "zip": malformed_data.a_zip,
    "image": malformed_data.an_image,
    "run.json": malformed_runs.a_run_json,
    "log.jsonl": malformed_runs.a_log,
    "network": malformed_runs.a_network,
    "state": malformed_runs.a_state,
    "checkpoint": malformed_runs.a_checkpoint,
    "link": malformed_runs.a_part_is_a_link,
}
MEMORY, SECONDS = 2 << 30, 60


class Outcome(NamedTuple):
    code: int  # minus the signal, where one ended it
    out: str
    err: str
    memory: int  # bytes, the most at a time
    seconds: float  # of CPU


def forked(box: Path, words: list[str]) -> Outcome:
    """What came of `gander words` in `box`."""
    out, err = box / "out", box / "err"
    process = os.fork()
    if process == 0:
        code = 1
        try:
            for stream, file in ((1, out), (2, err)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
            os.chdir(box / "work")
            os.environ.update(HOME=str(box / "home"), TMPDIR=str(box / "tmp"), GANDER_CACHE=str(box / "cache"))
            tempfile.tempdir = None
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))  # the machine shall live; MEMORY is what is judged
            code = cli.main(words)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(process, 0)
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    said = [file.read_text("utf-8", "replace") for file in (out, err)]
    return Outcome(os.waitstatus_to_exitcode(status), *said, memory, usage.ru_utime + usage.ru_stime)


def files(box: Path) -> dict[str, tuple[int, int]]:
    """All that is neither in the folder of a run nor in the cache: names with what would change if it was written."""
    own = {box / name for name in ("work/run", "work/new", "cache", "out", "err")}
    own.add(box / "tmp" / f"torchinductor_{getpass.getuser()}")  # torch makes it, whatever it is asked, and leaves it empty
    found = {}
    for place, folders, names in os.walk(box):
        folders[:] = [name for name in folders if Path(place, name) not in own]
        for name in [*names, *folders]:
            state = Path(place, name).lstat()
            if Path(place, name) not in own:
                found[str(Path(place, name).relative_to(box))] = (0, 0) if name in folders else (state.st_size, state.st_mtime_ns)
    return found


def tried(kind: str, number: int, template: Path, box: Path) -> dict[str, Any]:
    """What came of one input."""
    for name in ("home", "tmp", "cache"):
        (box / name).mkdir(parents=True)
    shutil.copytree(template, box / "work", symlinks=True)
    words = KINDS[kind](box / "work", Random(f"{kind} {number}"), number)
    before = files(box)
    code, out, err, memory, seconds = forked(box, words)
    left = sorted(name for name, state in files(box).items() if before.get(name) != state)
    lines = err.splitlines()
    wrong = [
        *([f"exit code {code}"] if code not in (0, 2) else []),
        *(["not one line"] if code == 2 and (len(lines) != 1 or not lines[0].startswith("gander: ")) else []),
        *(["a traceback"] if any(line.startswith("Traceback") for line in lines) else []),
        *([f"wrote {', '.join(left)}"] if left else []),
        *([f"took {memory >> 20} MiB"] if memory > MEMORY else []),
    ]
    listed = re.search(r"broken +[1-9]|are broken|is damaged", out + err)
    outcome = "failed" if wrong else "refused" if code == 2 else "listed" if listed else "harmless"
    told: dict[str, Any] = {"kind": kind, "number": number, "words": " ".join(words), "code": code, "stderr": err[-500:]}
    return {**told, "memory": memory, "seconds": round(seconds, 2), "outcome": outcome, "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--keep", type=Path, help="keep the folders of failures here, and no result")
    wanted = parser.parse_args()
    kinds = wanted.kinds.split(",")
    results = []
    with tempfile.TemporaryDirectory() as place:
        template = Path(place, "template")
        (template / "work").mkdir(parents=True)
        torch.set_num_threads(1)  # threads of a parent are none of its children's
        here = os.getcwd()
        os.chdir(template / "work")
        os.environ["GANDER_CACHE"] = str(Path(place, "cache"))
        malformed_data.sound(template / "work", cli.main)  # in this process: what it imports, children have
        os.chdir(here)
        for i in range(wanted.inputs):
            kind, number = kinds[i % len(kinds)], wanted.first + i // len(kinds)
            box = Path(place, f"{i:05d}")
            result = tried(kind, number, template / "work", box)
            results.append(result)
            if result["wrong"]:
                print(f"{kind} {number}: {', '.join(result['wrong'])}: gander {result['words']}\n{result['stderr']}", flush=True)
                if wanted.keep:
                    shutil.copytree(box, wanted.keep / f"{kind}-{number}", symlinks=True)
            shutil.rmtree(box)
    report(results, None if wanted.keep else "fuzz")
    raise SystemExit(any(result["wrong"] for result in results))


def report(results: list[dict[str, Any]], name: str | None) -> None:
    by_kind = defaultdict(list)
    for result in results:
        by_kind[result["kind"]].append(result)
    rows = [
        "| input | tried | one line, exit 2 | skipped and listed | harmless | failures | most memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, some in [*by_kind.items(), ("all", results)]:
        count = Counter(result["outcome"] for result in some)
        numbers = " | ".join(str(count[outcome]) for outcome in ("refused", "listed", "harmless", "failed"))
        rows.append(f"| {kind} | {len(some)} | {numbers} | {max(result['memory'] for result in some) / 2**20:,.0f} MiB |")
    if name:
        keep(name, {"results": results}, "\n".join(rows))
    else:
        print("\n".join(rows))


if __name__ == "__main__":
    main()
