"""A run that is killed at random moments, with SIGKILL, is the run that nobody killed: the short form of benchmarks/kills.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
def test_kills_change_nothing():
    words = ["--kills", "4", "--games", "2", "--steps", "30"]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    kills, inside, equal = map(int, done.stdout.splitlines()[-1].split("|")[2:5])
    assert kills == equal == 4
    assert inside
