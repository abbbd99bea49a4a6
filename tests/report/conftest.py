"""Runs to report, fresh for each test; they share the images that they are told to be trained on."""

import numpy as np
import pytest
from PIL import Image
from reported import CLASSES, make_run, write_exam, write_scores


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / kind / f"{i}.png")
    return folder


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def made(tmp_path, photos):
    """A finished run with one attention layer in each network, of which nothing was prepared yet."""
    made = make_run(tmp_path / "a run", data=photos, attention="article", attention_at=(8,))
    write_scores(made.run)
    write_exam(made.run)
    return made


@pytest.fixture
def bare(tmp_path):
    """A run without attention that stopped half way."""
    return make_run(tmp_path / "bare", attention="none", came_to=100)
