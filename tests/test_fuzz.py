"""Malformed inputs get one line and exit code 2, or are skipped and listed. `benchmarks/fuzz.py` is the longer form."""

import os
import shutil
from random import Random

import malformed_data
import malformed_runs
import pytest

from gander import cli

KINDS = [
    *((malformed_data.a_zip, number) for number in range(0, 2 * len(malformed_data.ZIPS), 2)),
    *((malformed_data.an_image, number) for number in range(0, 8 * len(malformed_data.FORMATS), 7)),
    *((malformed_runs.a_run_json, number) for number in range(len(malformed_runs.RUN_JSONS))),
    *((malformed_runs.a_log, number) for number in range(0, len(malformed_runs.LOGS), 2)),
    *((malformed_runs.a_network, number) for number in range(len(malformed_runs.NETWORKS))),
    *((malformed_runs.a_state, number) for number in range(len(malformed_runs.STATES))),
    *((malformed_runs.a_checkpoint, number) for number in range(len(malformed_runs.CHECKPOINTS))),
    *((malformed_runs.a_part_is_a_link, number) for number in range(0, 20, 4)),
]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GANDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        malformed_data.sound(folder, cli.main)
    return folder


@pytest.mark.skipif(os.name != "posix", reason="links and names of POSIX")
@pytest.mark.parametrize(("kind", "number"), KINDS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_is_malformed_gets_one_line_or_is_skipped_and_listed(kind, number, template, tmp_path, monkeypatch, capfd):
    work = tmp_path / "work"
    shutil.copytree(template, work)
    monkeypatch.chdir(work)
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    words = kind(work, Random(f"{kind.__name__} {number}"), number)
    there = {file for file in work.rglob("*") if (work / "run") not in file.parents}
    code = cli.main(words)
    err = capfd.readouterr().err
    assert code in (0, 2), err
    assert not any(line.startswith("Traceback") for line in err.splitlines()), err
    if code == 2:
        assert err.startswith("gander: ")
        assert len(err.splitlines()) == 1, err
    new = {file for file in work.rglob("*") if (work / "run") not in file.parents and (work / "new") not in file.parents}
    assert new - {work / "new"} == there
