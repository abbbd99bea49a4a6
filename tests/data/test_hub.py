"""Images in tables, through the package `datasets`; nothing here touches a network."""

import sys

import numpy as np
import pytest
from pictures import encoded, pixels, png, write

from gander.data import check, open_source, prepare
from gander.errors import UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def parquet(tmp_path):
    """Makes a folder of parquet files: parquet(train={...columns}, features={...})."""

    def made(features, **splits):
        folder = tmp_path / "table"
        folder.mkdir()
        features = datasets.Features({"image": datasets.Image(), **features})
        for split, columns in splits.items():
            table = datasets.Dataset.from_dict(columns, features=features)
            datasets.disable_progress_bars()
            table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
            datasets.enable_progress_bars()
        return folder

    return made


def images(count, start=0):
    return [{"bytes": png(start + i), "path": None} for i in range(count)]


CLASSES = datasets.ClassLabel(names=["zebra", "ant"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_of_parquet_files(parquet, workers):
    where = parquet(
        {"label": CLASSES},
        train={"image": images(3), "label": [0, 1, 1]},
        test={"image": images(2, 10), "label": [1, 0]},
    )
    train = prepare(open_source(where), 8, workers=workers)
    assert (train.classes, train.labels.tolist(), train.split, train.name) == (("zebra", "ant"), [0, 1, 1], "train", "table")
    np.testing.assert_array_equal(train.images, np.stack([pixels(i) for i in range(3)]))
    test = prepare(open_source(where, split="test"), 8, workers=workers)
    np.testing.assert_array_equal(test.images[1], pixels(11))
    assert test.fingerprint != train.fingerprint
    with pytest.raises(UserError, match="no split called 'tests'; did you mean 'test'"):
        open_source(where, split="tests")
    assert "3" in str(check(where))


def test_the_second_time_nothing_is_decoded(parquet, monkeypatch):
    where = parquet({}, train={"image": images(3)})
    first = prepare(open_source(where), 8)
    monkeypatch.setattr("gander.data.images.decode_sized", None)
    assert prepare(open_source(where), 8).fingerprint == first.fingerprint
    assert first.classes == ()


def test_other_labels_are_other_data(parquet, tmp_path):
    where = parquet({"label": CLASSES}, train={"image": images(2), "label": [0, 1]})
    first = prepare(open_source(where), 8).fingerprint
    where.rename(tmp_path / "before")
    where = parquet({"label": CLASSES}, train={"image": images(2), "label": [0, 0]})
    assert prepare(open_source(where), 8).fingerprint != first


@pytest.mark.parametrize(
    ("type", "values", "classes"), [("int64", [7, 3, 7], ("3", "7")), ("string", ["dog", "cat", "dog"], ("cat", "dog"))]
)
def test_labels_that_are_plain_numbers_or_words(parquet, type, values, classes):
    source = open_source(parquet({"label": datasets.Value(type)}, train={"image": images(3), "label": values}))
    assert (source.classes, [entry.label for entry in source.entries]) == (classes, [1, 0, 1])


def test_a_split_without_labels(parquet):
    where = parquet({"label": CLASSES}, train={"image": images(2), "label": [0, 1]}, test={"image": images(2), "label": [-1, -1]})
    assert open_source(where, split="test").classes == ()


def test_plain_labels_with_gaps_are_none(parquet):
    columns = {"image": images(2), "label": ["cat", None]}
    assert open_source(parquet({"label": datasets.Value("string")}, train=columns)).classes == ()


def test_rows_that_are_broken(parquet):
    broken = [{"bytes": b"words", "path": None}, None, {"bytes": b"", "path": None}]
    where = parquet({}, train={"image": images(3) + broken})
    for workers in (1, 2):
        data = prepare(open_source(where), 8 * workers, allow_broken=True, workers=workers)
        assert (len(data), len(data.skipped)) == (3, 3)


def test_no_column_of_images(tmp_path):
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "train.parquet")
    datasets.enable_progress_bars()
    with pytest.raises(UserError, match="has no column of images; its columns are text"):
        open_source(tmp_path)


def test_damaged_parquet_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read") as caught:
        open_source(write(tmp_path / "a", {"train.parquet": encoded(pixels())}))
    assert "\n" not in str(caught.value)


def test_no_network(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def no_network(*args, **how):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", no_network)
    with pytest.raises(UserError, match="no folder or file here, and could not be fetched from the Hub"):
        open_source("nobody/nothing-at-all")


def test_the_package_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"there is no folder or file 'owner/name'; .*gander-torch\[hub\]"):
        open_source("owner/name")
    with pytest.raises(UserError, match=r"reading parquet files needs .*gander-torch\[hub\]"):
        open_source(write(tmp_path / "a", {"train.parquet": b""}))
