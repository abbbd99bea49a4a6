"""The laws of listing: splits, classes, and what is refused."""

import os
import stat
import sys
import zipfile

import pytest
from pictures import many, pack, png, write

from gander.data import open_source, prepare
from gander.errors import UserError

ONE = png()
KINDS = pytest.mark.parametrize("kind", ["folder", "zip"])


def made(tmp_path, kind, contents, name="photos"):
    return write(tmp_path / name, contents) if kind == "folder" else pack(tmp_path / f"{name}.zip", contents)


def names(source):
    return [entry.name for entry in source.entries]


@KINDS
def test_images_without_folders_have_no_labels(tmp_path, kind):
    source = open_source(made(tmp_path, kind, {"b.png": ONE, "a.JPG": ONE, "note.txt": b"hello"}))
    assert (names(source), source.classes, source.num_classes, source.splits, source.split) == (
        ["a.JPG", "b.png"],
        (),
        0,
        (),
        None,
    )
    assert (len(source), source.name) == (2, "photos")
    assert [entry.label for entry in source.entries] == [0, 0]


@KINDS
def test_folders_are_classes_in_the_order_of_their_names(tmp_path, kind):
    source = open_source(made(tmp_path, kind, {"cat/1.png": ONE, "ant/2.png": ONE, "cat/old/3.png": ONE}))
    assert source.classes == ("ant", "cat")
    assert [(entry.name, entry.label) for entry in source.entries] == [("ant/2.png", 0), ("cat/1.png", 1), ("cat/old/3.png", 1)]


@KINDS
@pytest.mark.parametrize("inside", [{"1.png": ONE, "2.png": ONE}, {"cat/1.png": ONE, "dog/2.png": ONE}])
def test_a_single_wrapping_folder_is_skipped(tmp_path, kind, inside):
    bare = open_source(made(tmp_path, kind, inside))
    wrapped = open_source(made(tmp_path, kind, {f"set/{name}": data for name, data in inside.items()}, "wrapped"))
    assert names(bare) == names(wrapped)
    assert bare.classes == wrapped.classes


@KINDS
@pytest.mark.parametrize("around", ["", "set/"])
def test_splits(tmp_path, kind, around):
    contents = {"train/cat/1.png": ONE, "train/dog/2.png": ONE, "validation/bee/3.png": ONE, "validation/dog/4.png": ONE}
    where = made(tmp_path, kind, {around + name: data for name, data in contents.items()})
    train, validation = open_source(where), open_source(where, split="validation")
    assert train.splits == ("train", "validation")
    assert (train.split, validation.split) == ("train", "validation")
    assert train.classes == validation.classes == ("bee", "cat", "dog"), "a label means the same in all splits"
    assert [(entry.name, entry.label) for entry in train.entries] == [("cat/1.png", 1), ("dog/2.png", 2)]
    assert [(entry.name, entry.label) for entry in validation.entries] == [("bee/3.png", 0), ("dog/4.png", 2)]
    with pytest.raises(UserError, match="no split called 'valid'; did you mean 'validation'"):
        open_source(where, split="valid")


@KINDS
def test_a_split_may_have_no_labels(tmp_path, kind):
    where = made(tmp_path, kind, {"train/cat/1.png": ONE, "train/dog/2.png": ONE, "test/3.png": ONE})
    assert open_source(where).classes == ("cat", "dog")
    assert open_source(where, split="test").classes == ()


def test_which_split_by_default(tmp_path):
    assert open_source(write(tmp_path / "a", {"test/1.png": ONE})).split == "test"
    where = write(tmp_path / "b", {"test/1.png": ONE, "val/1.png": ONE})
    with pytest.raises(UserError, match="test, val and no train; say which with --split"):
        open_source(where)
    with pytest.raises(UserError, match="no splits"):
        open_source(write(tmp_path / "c", {"1.png": ONE}), split="train")


def test_one_other_folder_and_they_are_classes(tmp_path):
    assert open_source(write(tmp_path / "a", {"test/1.png": ONE, "blind/1.png": ONE})).classes == ("blind", "test")


@KINDS
@pytest.mark.parametrize("loose", ["cover.png", "train/cover.png"])
def test_images_beside_class_folders_are_refused(tmp_path, kind, loose):
    contents = {"train/cat/1.png": ONE, "train/dog/2.png": ONE, "test/dog/3.png": ONE, loose: ONE}
    with pytest.raises(UserError, match=f"1 images \\(such as {loose}\\) beside"):
        open_source(made(tmp_path, kind, contents))


@KINDS
def test_hidden_files_are_passed_over(tmp_path, kind):
    hidden = [".thumbs/1.png", "__MACOSX/cat/._1.png", "cat/._1.png", "cat/.DS_Store", "cat/Thumbs.db", "cat/@eaDir/1.png"]
    source = open_source(made(tmp_path, kind, {"cat/1.png": ONE, "dog/1.png": ONE, **dict.fromkeys(hidden, ONE)}))
    assert names(source) == ["cat/1.png", "dog/1.png"]


def test_folders_without_images_are_no_classes(tmp_path):
    where = write(tmp_path / "a", {"cat/1.png": ONE, "dog/1.png": ONE, "docs/read.me": b"hello"})
    (where / "empty").mkdir()
    assert open_source(where).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("folder", "name"), [("My photos (2)", "My-photos-2"), ("café", "caf"), ("日本", "data"), ("a_b-c.d", "a_b-c-d")]
)
def test_the_name_is_plain(tmp_path, folder, name):
    where = write(tmp_path / folder, {"日本/ü.png": ONE, "b/1.png": ONE})
    assert open_source(where).name == name
    assert open_source(where).classes == ("b", "日本")
    assert open_source(pack(tmp_path / f"{folder}.zip", {"日本/ü.png": ONE})).name == name


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are a thing of Linux")
def test_names_that_are_no_unicode(tmp_path):
    where = write(tmp_path / "a", {"1.png": ONE})
    (where / os.fsdecode(b"b\xff.png")).write_bytes(b"no image")
    (where / os.fsdecode(b"c\xff.png")).write_bytes(ONE)
    for workers in (1, 2):
        data = prepare(open_source(where), 8 * workers, workers=workers, allow_broken=True, progress=False)
        assert len(data) == 2
        assert len(data.skipped) == 1


@pytest.mark.parametrize("where", ["nowhere", "/no/where/at/all", "nowhere.zip"])
def test_what_is_not_there(where):
    with pytest.raises(UserError, match="there is no folder or file"):
        open_source(where)


@KINDS
def test_no_images(tmp_path, kind):
    with pytest.raises(UserError, match=r"has no images \(found: 2 \.txt, 1 \.csv\)"):
        open_source(made(tmp_path, kind, {"a.txt": b"", "b.txt": b"", "c.csv": b""}))
    with pytest.raises(UserError, match=r"has no images \(found: no files\)"):
        open_source(made(tmp_path, kind, {}, "empty"))


def test_the_folder_of_a_run_is_no_data(tmp_path):
    with pytest.raises(UserError, match="folder of a run"):
        open_source(write(tmp_path / "run", {"run.json": b"{}", "samples/1.png": ONE}))


def test_not_a_zip_or_cut_off(tmp_path):
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        open_source(write(tmp_path, {"words.tar": b"hello"}) / "words.tar")
    whole = pack(tmp_path / "whole.zip", many(5))
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a whole zip"):
        open_source(tmp_path / "cut.zip")


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/a.png", "C:/a.png", "..\\a.png"])
def test_a_zip_that_reaches_out_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="is refused"):
        open_source(pack(tmp_path / "evil.zip", {"b.png": ONE, name: ONE}))


def test_a_zip_with_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        open_source(tmp_path / "evil.zip")


def test_a_zip_with_the_slashes_of_windows(tmp_path):
    source = open_source(pack(tmp_path / "w.zip", {"cat\\1.png": ONE, "./dog/2.png": ONE}))
    assert source.classes == ("cat", "dog")
    assert len(prepare(source, 8)) == 2


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_links(tmp_path):
    there = write(tmp_path / "there", {"1.png": ONE})
    here = write(tmp_path / "here", {"2.png": ONE})
    (here / "3.png").symlink_to(there / "1.png")
    (here / "4.png").symlink_to(there / "gone.png")
    assert names(open_source(here)) == ["2.png", "3.png"]
    (here / "more").symlink_to(here)
    with pytest.raises(UserError, match="link to a folder, which is not followed"):
        open_source(here)
    (tmp_path / "root").symlink_to(there)
    assert names(open_source(tmp_path / "root")) == ["1.png"]


def test_probes():
    twins, count = open_source("probe:twins"), open_source("probe:count")
    assert (twins.name, len(twins), twins.num_classes) == ("twins", 50_000, 0)
    assert count.num_classes > 0
    with pytest.raises(UserError, match="no probe called 'twin'; did you mean 'twins'"):
        open_source("probe:twin")
    with pytest.raises(UserError, match="no splits"):
        open_source("probe:twins", split="test")


def test_listing_decodes_nothing(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "open", None)
    assert len(open_source(write(tmp_path / "a", many(3)))) == 3
