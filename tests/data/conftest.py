import os

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Every test has a cache of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GANDER_CACHE", str(folder))
    return folder


@pytest.fixture
def real():
    """Where the real image sets lie (for developers)."""
    from pathlib import Path

    folder = os.environ.get("GANDER_DATA")
    if not folder:
        pytest.skip("GANDER_DATA names no folder of real image sets")
    return Path(folder)
