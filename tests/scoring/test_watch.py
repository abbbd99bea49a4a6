"""Scores while a run trains: the numbers of `gander score`, for any number of processes; the best step is kept."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import run as in_processes

from gander import grids
from gander.data import open_source, prepare, sources
from gander.metrics.features import features
from gander.run import Run
from gander.scoring import compute, watch
from gander.scoring.measured import measure
from gander.train.samples import images_of, latents_of
from gander.train.sentinel import NotFinite


class Toy(torch.nn.Module):
    """Latents as coarse pictures; those of a batch see each other."""

    latent_dim, num_classes, resolution = 48, 4, 16

    def forward(self, latents, labels=None):
        coarse = latents.view(-1, 3, 4, 4) + latents.mean() + 0.1 * labels.view(-1, 1, 1, 1)
        return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3).tanh()


def learner(generator):
    return SimpleNamespace(sampler=lambda: generator)


def watched(folder, cache):
    os.environ["GANDER_CACHE"] = cache
    watch.SAMPLES, watch.REFERENCE, sources.PROBE_IMAGES = 192, 200, 1000
    dataset = prepare(open_source("probe:count"), 16, progress=False)
    look = watch.Watch(dataset, features("random-conv"), Run(Path(folder), {}))
    return look(learner(Toy()), 5)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(watch, "SAMPLES", 192)
    monkeypatch.setattr(watch, "REFERENCE", 200)
    monkeypatch.setattr(sources, "PROBE_IMAGES", 1000)


def test_the_numbers_are_those_of_a_score(tmp_path, few, monkeypatch):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    found = watched(str(tmp_path), str(tmp_path / "cache"))
    network, dataset = features("random-conv"), prepare(open_source("probe:count"), 16, progress=False)
    images = torch.from_numpy(grids.to_bytes(images_of(Toy(), *latents_of(Toy(), 0, range(192))))).permute(0, 3, 1, 2)
    vectors = torch.cat([network(part)[0] for part in images.split(64)]).numpy()
    real = measure(dataset, network, 200).vectors
    for score in compute.distances(vectors, real, network).scores:
        assert found[f"score/{score.name}"] == pytest.approx(score.value, rel=1e-9)
        assert found[f"score/{score.name} error"] == pytest.approx(score.error, rel=1e-9)
    grades = dataset_grades(images.numpy())
    assert {name: found[f"count/{name}"] for name in grades} == grades
    card = json.loads((tmp_path / "scores.json").read_text())["training"]["card"]
    assert (card["samples"], card["reference_images"], card["reference_of"], card["seed"]) == (192, 200, 1000, 0)


def dataset_grades(images):
    from gander.probes import PROBES

    return PROBES["count"].grade(images / np.float32(127.5) - 1, np.arange(192) % 4)


def test_three_processes_make_the_numbers_of_one(tmp_path, few):
    alone = watched(str(tmp_path), str(tmp_path / "cache"))
    first, *others = in_processes(watched, 3, str(tmp_path), str(tmp_path / "cache"))
    assert first == alone
    assert others == [{}, {}]


def test_samples_that_are_nan_are_a_collapse(tmp_path, few, monkeypatch):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    look = watch.Watch(prepare(open_source("probe:twins"), 16, progress=False), features("random-conv"), Run(tmp_path, {}))

    class Broken(Toy):
        def forward(self, latents, labels=None):
            return super().forward(latents, labels) * torch.nan

    with pytest.raises(NotFinite, match="step 7: a sample is nan"):
        look(learner(Broken()), 7)
