import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(folder, images, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images, start=first):
        Image.fromarray(image).save(folder / f"{i:03d}.png")


def pictures(n, seed, side=16):
    """Soft stripes in two colours, and a little noise: (n, side, side, 3)."""
    rng = np.random.default_rng(seed)
    phase, turn = rng.uniform(0, 7, (n, 1, 1, 1)), rng.uniform(0, 3, (n, 1, 1, 1))
    down, right = np.mgrid[:side, :side][:, None, :, :, None] / side * 6
    wave = np.sin(down * np.cos(turn) + right * np.sin(turn) + phase)
    return (127 + 90 * wave * rng.uniform(-1, 1, (n, 1, 1, 3)) + rng.normal(0, 6, (n, side, side, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def photos(tmp_path):
    """Two classes; 60 images each to train on, 30 each held out."""
    for split, n, seed in (("train", 60, 0), ("test", 30, 5)):
        for number, kind in enumerate(("cats", "dogs")):
            write(tmp_path / "photos" / split / kind, pictures(n, seed + number))
    return tmp_path / "photos"
