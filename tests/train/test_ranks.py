"""One of three processes goes wrong in step 5: the others end, by its name and the step, and what was saved is whole."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

WAYS = ["dies", "fails", "hangs", "stands still", "NaN", "SIGTERM", "disk full"]
OTHERS = (0, 2)  # rank 1 is the one


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("the harness forks")
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here)}
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    words = [sys.executable, here / "ranks.py", tmp_path_factory.mktemp("ranks"), *WAYS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def last_lines(way):
    return [(text.splitlines() or [""])[-1] for text in way["err"]]


ADVICE = "; the last checkpoint is whole: say the same command again"


@pytest.mark.parametrize(
    ("way", "end"),
    [
        ("dies", r"died in step 5: no sign of life \(killed, out of memory, or stopped\)"),
        ("fails", "failed in step 5: ZeroDivisionError: a bug in one of them"),
        ("hangs", "hangs in step 5: the others have waited for it for 3 s"),
        # the first that has waited enough ends; another that hears of it by then sees a rank without a sign of life
        ("stands still", "hangs in step 5: the others have waited for it for 3 s|died in step 5: no sign of life.*"),
    ],
)
def test_a_rank_that_is_lost_ends_the_others_by_name_and_step(way, end, told):
    for rank in OTHERS:
        line = last_lines(told[way])[rank]
        assert re.fullmatch(f"gander: rank 1 on \\S+ ({end}){ADVICE}", line)
        assert told[way]["codes"][rank] in (1, 2)
    assert told[way]["saved"] == ["00000003"]


def test_one_that_has_a_bug_keeps_its_own_words(told):
    assert last_lines(told["fails"])[1] == "ZeroDivisionError: a bug in one of them"


def test_a_nan_of_one_is_the_verdict_of_all(told):
    assert told["NaN"]["codes"] == [2, 2, 2]
    assert all(line.startswith("gander: step 5: the discriminator loss is nan") for line in last_lines(told["NaN"]))
    assert told["NaN"]["saved"] == ["00000003"]


def test_a_signal_to_one_stops_all_after_the_step(told):
    assert told["SIGTERM"]["codes"] == [0, 0, 0]
    assert told["SIGTERM"]["out"] == ["step 5, signal 15\n"] * 3
    assert told["SIGTERM"]["saved"] == ["00000003", "00000005"]


def test_a_disk_that_refuses_the_first_ends_all(told):
    assert 0 not in told["disk full"]["codes"]
    assert [last_lines(told["disk full"])[rank] for rank in (1, 2)] == [
        "gander: the first process has stopped; its own line says why"
    ] * 2
