"""What is not trained on: which split, which tenth; and the lines that its mistakes get."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from pictures import encoded, many, pack, pixels, png, write
from PIL import Image

from gander.data import open_source, prepare
from gander.data.held_out import beside, check_images, check_labels, in_both, of_probe, prepare_held_out, split_of, worded
from gander.data.sources import cut
from gander.errors import UserError
from gander.probes import PROBES


def animals(split="", n=3, classes=("cats", "dogs")):
    above = f"{split}/" if split else ""
    return {f"{above}{kind}/{i}.png": png(1000 * k + i) for k, kind in enumerate(classes) for i in range(n)}


def names(source):
    return {entry.name for entry in source.entries}


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [("train val test", "val"), ("train test", "test"), ("train validation test", "validation"), ("Train Val", "Val")],
)
def test_the_first_split_of_the_order_judges(tmp_path, splits, chosen):
    contents = {}
    for split in splits.split():
        contents |= animals(split)
    source, judge = beside(open_source(write(tmp_path / "a", contents)))
    assert (source.split.lower(), judge.split) == ("train", chosen)
    assert worded(judge) == f"split {chosen}"


def test_scores_have_an_order_of_their_own_and_leave_splits_out(tmp_path):
    source = open_source(write(tmp_path / "a", {**animals("train"), **animals("val"), **animals("test")}))
    assert split_of(source, ("test", "val")) == "test"
    assert split_of(source, ("test", "val"), ["test"]) == "val"
    assert split_of(source, ("test", "val"), ["test", "val"]) is None


def test_a_split_without_labels_cannot_judge_labels(tmp_path):
    source, judge = beside(open_source(write(tmp_path / "a", {**animals("train", 20), **many(3, "test/")})))
    assert (source.part, judge.part) == ("training", "held out")
    assert (len(source), len(judge)) == (36, 4)
    assert worded(judge) == "a tenth of each class, by name"


def test_where_there_is_no_split_a_tenth_of_each_class_is_set_aside(tmp_path):
    contents = {**animals(n=30), **{f"few/{i}.png": png(i) for i in range(4)}}
    whole = open_source(write(tmp_path / "a", contents))
    source, judge = beside(whole)
    assert names(source) | names(judge) == names(whole)
    assert not names(source) & names(judge)
    assert [sum(entry.label == label for entry in judge.entries) for label in range(3)] == [3, 3, 1]
    zipped = open_source(pack(tmp_path / "a.zip", dict(reversed(contents.items()))))
    assert names(cut(zipped, "held out")) == names(judge)
    flat = open_source(write(tmp_path / "flat", many(10)))
    assert [len(part) for part in beside(flat)] == [9, 1]


def test_both_parts_are_prepared_each_with_a_fingerprint(tmp_path):
    where = write(tmp_path / "a", animals(n=12))
    whole = prepare(open_source(where), 8)
    parts = [prepare(part, 8) for part in beside(open_source(where))]
    assert [len(part) for part in parts] == [22, 2]
    assert len({dataset.fingerprint for dataset in (whole, *parts)}) == 3
    for part in parts:
        for name, image, label in zip(part.names, part.images, part.labels, strict=True):
            i = whole.names.index(name)
            assert np.array_equal(image, whole.images[i])
            assert label == whole.labels[i]


def test_a_folder_that_changes_while_its_part_is_read_is_refused(tmp_path):
    where = write(tmp_path / "a", animals(n=20))
    part, _ = beside(open_source(where))
    changed = part.entries[0].name
    (where / changed).write_bytes(png(77, width=9))
    with pytest.raises(UserError, match="changed while it was read"):
        prepare(part, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_of_a_probe_others_are_drawn(monkeypatch, channels):
    monkeypatch.setattr("gander.data.sources.PROBE_IMAGES", 500)
    monkeypatch.setattr("gander.data.held_out.PROBE_IMAGES", 500)
    monkeypatch.setattr("gander.data.held_out.PROBE_HELD_OUT", 20)
    source, judge = beside(open_source("probe:count"))
    check_labels(source)
    dataset, held_out = prepare(source, 16, channels=channels), prepare_held_out(judge, 16, channels=channels)
    images, labels = PROBES["count"].draw(0, np.arange(500, 520), 16)
    assert held_out.images.shape == (20, 16, 16, channels)
    if channels == 3:
        assert np.array_equal(held_out.images, images)
    else:
        assert np.array_equal(held_out.images[3, ..., 0], np.asarray(Image.fromarray(images[3]).convert("L")))
    assert np.array_equal(held_out.labels, labels)
    assert held_out.fingerprint != dataset.fingerprint
    assert of_probe(dataset).names == held_out.names


def test_images_in_both_are_counted_by_their_pixels(tmp_path):
    """Whatever their names, classes and files; also where but one pixel differs from one that is trained on."""
    near = pixels(1, 16, 16)
    near[0, 0, 0] ^= 1
    turned = Image.open(io.BytesIO(png(2, width=16, height=16)))
    contents = {f"train/a/{i}.png": png(i, width=16, height=16) for i in range(6)}
    contents |= {"train/b/0.png": png(6, width=16, height=16)}
    contents |= {"val/b/x.png": png(1, width=16, height=16), "val/a/y.png": encoded(near)}
    contents |= {"val/a/z.bmp": encoded(turned, "BMP"), "val/a/new.png": png(99, width=16, height=16)}
    source, judge = beside(open_source(write(tmp_path / "a", contents)))
    assert in_both(prepare(source, 16), prepare(judge, 16)) == 2


@pytest.mark.parametrize(
    ("contents", "line"),
    [
        (many(20), "has no labels, which a classifier learns from: put the images of each class into a folder of its own"),
        (
            animals("train", classes=("cats",)) | animals("val", classes=("cats",)),
            "has one class, 'cats'; a classifier tells two or more apart",
        ),
        (
            {**animals("train"), **animals("val", classes=("cats", "emus", "fish"))},
            "differ between its splits: dogs only in train; emus, fish only in val; give both the same",
        ),
        ({**animals(n=20), "emus/0.png": png()}, "class 'emus' of .* is one image, and none is left to be held out"),
        ({"0.png": png()}, "the whole of .* is one image"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, contents, line):
    with pytest.raises(UserError, match=line) as error:
        check_labels(beside(open_source(write(tmp_path / "a", contents)))[0])
    assert "\n" not in str(error.value)


def test_a_class_without_images_is_named(tmp_path):
    others = {
        "fish/readme.txt": b"none yet",
        "geese/.DS_Store": b"",
        "hares/a/b/c.txt": b"",
        ".hidden/a.txt": b"",
        "@eaDir/a.txt": b"",
    }
    where = write(tmp_path / "a", animals(n=20) | others)
    (where / "emus").mkdir()
    with pytest.raises(UserError, match=r"has no image of emus, fish, geese, hares; add some, or delete the class"):
        check_labels(beside(open_source(where))[0])
    source = open_source(write(tmp_path / "b", animals(n=20)))
    with pytest.raises(UserError, match="has no image of emus"):  # as a table may name it
        check_labels(replace(source, classes=(*source.classes, "emus")))


@pytest.mark.parametrize("empty", ["train/zed/", "val/zed/", "train/zed/readme.txt", "val/zed/a/", "val/zed/.DS_Store"])
@pytest.mark.parametrize("above", ["", "wrapped/"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_class_without_images_is_named_in_either_split(tmp_path, empty, above, packed):
    contents = {f"{above}{name}": data for name, data in {**animals("train"), **animals("val")}.items()}
    contents |= {f"{above}test/emus/": b"", "__MACOSX/train/x.txt": b"", f"{above}train/__MACOSX/x.txt": b""}  # judge nothing
    contents[f"{above}{empty}"] = b""
    where = tmp_path / "a"
    if packed:
        where = where.with_suffix(".zip")
        with zipfile.ZipFile(where, "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
    else:
        for name, data in contents.items():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                (where / name).mkdir(exist_ok=True)
            else:
                (where / name).write_bytes(data)
    with pytest.raises(UserError, match=r"has no image of zed; add some, or delete the class"):
        check_labels(*beside(open_source(where)))


def test_a_class_whose_images_are_all_broken_is_named(tmp_path):
    contents = {**animals(n=3), "emus/0.png": b"no image", "emus/1.png": b"none either"}
    dataset = prepare(open_source(write(tmp_path / "a", contents)), 8, allow_broken=True)
    with pytest.raises(UserError, match="no image of emus can be read"):
        check_images(dataset)
