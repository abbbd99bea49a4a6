"""Vectors of real images: their order is that of their content; the cache and the file give back what was put in."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import pictures, write
from safetensors.torch import save_file

from gander.data import open_source, prepare
from gander.errors import UserError
from gander.metrics.features import features
from gander.scoring import measured

NETWORK = features("random-conv")


def dataset(folder):
    return prepare(open_source(folder), 16, progress=False)


def test_the_order_is_that_of_the_content(tmp_path):
    """Other names, another order of files: the same vectors to the bit, and the first k the same images."""
    images = pictures(40, 0)
    write(tmp_path / "a", images)
    write(tmp_path / "b", images[::-1], first=500)
    first, second = (measured.measure(dataset(tmp_path / name), NETWORK) for name in "ab")
    assert np.array_equal(first.vectors, second.vectors)
    assert not np.array_equal(first.rows, second.rows)
    some = measured.measure(dataset(tmp_path / "b"), NETWORK, 7)
    np.testing.assert_allclose(some.vectors, first.vectors[:7], rtol=1e-5)
    assert first.rows.tolist() != sorted(first.rows.tolist())


def test_rows_and_labels_belong_to_their_vectors(photos):
    found, all_of_them = dataset(photos), measured.measure(dataset(photos), NETWORK)
    direct, _ = NETWORK(torch.from_numpy(found.images[all_of_them.rows]).permute(0, 3, 1, 2))
    np.testing.assert_allclose(all_of_them.vectors, direct.numpy(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(all_of_them.labels, found.labels[all_of_them.rows])


def test_what_was_measured_is_not_measured_again(photos, monkeypatch):
    found = dataset(photos)
    fresh = measured.cached(found, NETWORK, progress=False)
    monkeypatch.setattr(measured, "measure", lambda *_, **__: pytest.fail("measured again"))
    again = measured.cached(replace(found, name="renamed"), NETWORK, progress=False)
    assert np.array_equal(again.vectors, fresh.vectors)
    assert np.array_equal(again.labels, fresh.labels)
    assert again.facts["name"] == "renamed"
    fewer = measured.cached(found, NETWORK, 11, progress=False)
    assert np.array_equal(fewer.vectors, fresh.vectors[:11])


@pytest.mark.parametrize("change", [{"fingerprint": "another"}, {"resolution": 17}, {"filter": "another"}, {"channels": 1}])
def test_other_images_are_measured_anew(photos, monkeypatch, change):
    measured.cached(dataset(photos), NETWORK, progress=False)
    counted, none = [], measured.Measured(np.zeros((1, 1), np.float32), *[np.zeros(1, np.int64)] * 2, {})
    monkeypatch.setattr(measured, "measure", lambda found, *_, **__: counted.append(found) or none)
    monkeypatch.setattr(measured, "store", lambda *_: None)
    measured.cached(replace(dataset(photos), **change), NETWORK, progress=False)
    measured.cached(dataset(photos), replace(NETWORK, hash="another"), progress=False)
    measured.cached(dataset(photos), replace(NETWORK, resize="another"), progress=False)
    assert len(counted) == 3


def test_a_larger_number_is_measured_anew(photos):
    assert len(measured.cached(dataset(photos), NETWORK, 10, progress=False)) == 10
    assert len(measured.cached(dataset(photos), NETWORK, progress=False)) == 120


def test_a_damaged_cache_is_made_anew(photos, tmp_path):
    whole = measured.cached(dataset(photos), NETWORK, progress=False)
    (file,) = (tmp_path / "cache" / "features").iterdir()
    file.write_bytes(file.read_bytes()[:200])
    assert np.array_equal(measured.cached(dataset(photos), NETWORK, progress=False).vectors, whole.vectors)


def test_a_file_gives_back_what_was_put_in(photos, tmp_path):
    whole = measured.measure(dataset(photos), NETWORK, progress=False)
    measured.store(tmp_path / "real.safetensors", whole)
    again = measured.load(tmp_path / "real.safetensors")
    for name in ("vectors", "labels", "rows"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    assert again.facts == whole.facts


FACTS = {"name": "a", "split": None, "hash": "b", "of": 3, "resolution": 16, "channels": 3, "filter": "c", "classes": []}
FACTS |= {"features": "random-conv", "weights": "d", "resize": "none"}
TENSORS = {"vectors": torch.zeros(3, 4), "labels": torch.zeros(3, dtype=torch.long), "rows": torch.zeros(3, dtype=torch.long)}


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        (TENSORS, None),
        (TENSORS, FACTS | {"of": "three"}),
        (TENSORS, {k: v for k, v in FACTS.items() if k != "hash"}),
        (TENSORS, [1, 2]),
        ({"vectors": TENSORS["vectors"]}, FACTS),
        (TENSORS | {"vectors": torch.zeros(3)}, FACTS),
        (TENSORS | {"vectors": torch.zeros(3, 4, dtype=torch.float64)}, FACTS),
        (TENSORS | {"labels": torch.zeros(2, dtype=torch.long)}, FACTS),
        (TENSORS | {"labels": torch.ones(3, dtype=torch.long)}, FACTS),
        (TENSORS | {"labels": torch.zeros(3)}, FACTS),
        (TENSORS | {"vectors": torch.full((3, 4), 3e38)}, FACTS),
        (TENSORS | {"vectors": torch.full((3, 4), torch.nan)}, FACTS),
        (TENSORS, FACTS | {"hash": "probe:x"}),
        (TENSORS, FACTS | {"classes": [["a"], {}]}),
        (TENSORS, FACTS | {"resolution": True}),
        (TENSORS, FACTS | {"resolution": 10**9}),
        (TENSORS, FACTS | {"channels": 4}),
        (TENSORS, FACTS | {"of": 2}),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path, tensors, facts):
    file = tmp_path / "odd.safetensors"
    save_file(tensors, file, {"gander": json.dumps(facts)} if facts is not None else None)
    with pytest.raises(UserError, match="is no reference that gander wrote") as refused:
        measured.load(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"nothing", b"\xff" * 100])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, data):
    (tmp_path / "odd.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="is no reference that gander wrote"):
        measured.load(tmp_path / "odd.safetensors")


def test_the_good_file_of_these_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "good.safetensors", {"gander": json.dumps(FACTS)})
    assert len(measured.load(tmp_path / "good.safetensors")) == 3


def test_labels_are_those_of_today(photos, tmp_path):
    """A class that another split gains moves the numbers of all; the images and their vectors are the same."""
    measured.cached(dataset(photos), NETWORK, progress=False)
    write(photos / "test" / "ants", pictures(1, 7))
    again = measured.cached(dataset(photos), NETWORK, progress=False)
    assert again.facts["classes"] == ["ants", "cats", "dogs"]
    assert np.bincount(again.labels).tolist() == [0, 60, 60]


def test_a_full_disk_costs_the_next_time_only(photos, monkeypatch):
    def full(*_):
        raise UserError("the disk is full")

    prepared = dataset(photos)
    monkeypatch.setattr("gander.files.need_space", full)
    assert len(measured.cached(prepared, NETWORK, progress=False)) == len(prepared)


def test_a_moved_folder_has_its_vectors(photos, tmp_path, monkeypatch):
    measured.cached(dataset(photos), NETWORK, progress=False)
    shutil.move(photos, tmp_path / "elsewhere")
    monkeypatch.setattr(measured, "measure", lambda *_, **__: pytest.fail("measured again"))
    measured.cached(dataset(tmp_path / "elsewhere"), NETWORK, progress=False)
