"""What `check` finds in folders that were spoilt on purpose."""

import numpy as np
import pytest
from pictures import encoded, many, pixels, png, write

from gander.data import check, open_source
from gander.data.check import suggest
from gander.errors import UserError


@pytest.fixture
def spoilt(tmp_path):
    contents = {
        **many(4, "train/cat/"),
        "train/dog/wide.png": png(50, width=40, height=20),
        "train/dog/grey.jpg": encoded(pixels(51, channels=1), "JPEG"),
        "train/dog/again.bmp": encoded(pixels(3), "BMP"),
        "train/dog/words.png": b"these are words",
        "test/cat/leak.png": png(1),
        "test/dog/new.png": png(60),
        "test/dog/new.heic": b"from a telephone",
    }
    return write(tmp_path / "spoilt", contents)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_found(spoilt, workers):
    report = check(spoilt, workers=workers, progress=False)
    assert (report.name, report.count, report.splits) == ("spoilt", 10, {"test": 2, "train": 8})
    assert report.classes == {"train": {"cat": 4, "dog": 4}, "test": {"cat": 1, "dog": 1}}
    assert (report.widths, report.heights, report.short_sides) == ((8, 8, 40), (8, 8, 20), (8, 8, 20))
    assert report.not_square == pytest.approx(1 / 9)
    assert report.formats == {"PNG": 7, "JPEG": 1, "BMP": 1}
    assert report.modes == {"RGB": 8, "L": 1}
    assert report.broken == {"train/dog/words.png": "is not an image in a format that is read here"}
    assert report.duplicates == (
        ("test/cat/leak.png", "train/cat/001.png"),
        ("train/cat/003.png", "train/dog/again.bmp"),
    )
    assert report.leaks == report.duplicates[:1]
    assert report.conflicts == report.duplicates[1:]
    text = str(report)
    for line in (
        "10 images (a folder)",
        "broken         1",
        "words.png is not an image",
        "passed over    1 .heic",
        "1 picture in several splits",
    ):
        assert line in text


def test_nothing_is_wrong(tmp_path):
    report = check(write(tmp_path / "a", many(3)))
    assert not report.broken
    assert not report.duplicates
    assert "the images have no labels" in str(report)
    assert "leaks" not in str(report)


def test_nothing_can_be_read(tmp_path):
    report = check(write(tmp_path / "a", {"a.png": b"words"}))
    assert (report.broken, report.resolution, report.widths) == (
        {"a.png": "is not an image in a format that is read here"},
        None,
        None,
    )
    assert "broken       1" in str(report)


def test_nothing_is_there(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        check(tmp_path / "nowhere")


def test_a_source_will_do(spoilt):
    assert check(open_source(spoilt, split="test"), progress=False) == check(spoilt, progress=False)


@pytest.mark.parametrize(
    ("short", "resolution"), [(32, 32), (28, 32), (26, 32), (25, 16), (100, 64), (128, 128), (4000, 256), (3, 16)]
)
def test_the_resolution_that_is_suggested(short, resolution):
    assert suggest(np.full(100, short)) == resolution


def test_a_few_small_ones_do_not_count():
    assert suggest(np.array([8] * 4 + [128] * 96)) == 128


def test_a_probe():
    assert "50,000 images (a probe" in str(check("probe:twins"))
    assert "4, " not in str(check("probe:count"))


def test_the_emoji(real):
    report = check(real / "noto-emoji-128px-png.zip")
    assert (report.count, report.modes, report.resolution) == (3500, {"RGBA": 3500}, 128)
    assert sum(len(names) - 1 for names in report.duplicates) == 5
