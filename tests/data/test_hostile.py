"""Data that nobody meant well with, or that nobody keeps still: skipped and listed, or one line."""

import contextlib
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from pictures import encoded, many, pack, pixels, png, write
from PIL import Image

from gander.data import check, decode, images, open_source, prepare, sources
from gander.data.images import inspect
from gander.errors import UserError, shown

WORKERS = pytest.mark.parametrize("workers", [1, 2])
posix = pytest.mark.skipif(os.name != "posix", reason="names and links of POSIX")


def refused(ask):
    """The line that it is refused with."""
    with pytest.raises(UserError) as caught:
        ask()
    assert len(shown(str(caught.value)).splitlines()) == 1
    return str(caught.value)


# Names -------------------------------------------------------------------------------------------------------------------

NAMES = [
    "日本/ü.png",
    "عربى/صورة.png",
    "हिन्दी/क्षि.png",
    "👩‍👩‍👧/🦆.png",
    "e\u0301/\u00e9.png",
    "a b/'\"$(x);&.png",
    "-rf/--help.png",
]


@pytest.mark.parametrize("kind", [write, pack])
def test_names_in_any_script_are_classes_and_come_back(tmp_path, kind):
    where = kind(tmp_path / "a.zip", {name: png(i) for i, name in enumerate(NAMES)})
    data = prepare(open_source(where), 8)
    assert sorted(data.names) == sorted(NAMES)
    assert sorted(data.classes) == sorted(name.split("/")[0] for name in NAMES)
    assert str(check(where))


@posix
def test_a_name_that_ends_lines_or_commands_a_terminal_is_shown_escaped(tmp_path, capsys):
    bad = "a\nTraceback\x1b[2J\u202e.png"
    where = write(tmp_path / "a", {**many(200, "b/"), f"b/{bad}": b"no image"})
    assert r"a\nTraceback\x1b[2J\u202e.png is not an image" in str(check(where, progress=False))
    prepare(open_source(where), 8)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert r"a\nT" in shown(refused(lambda: open_source(write(tmp_path / "c", {"x/1.png": png(), "y/1.png": png(), bad: png()}))))


@pytest.mark.parametrize("text", ["日本", "👩‍👩‍👧", "क्‍ष", "a b", "é", "x\u3000y"])
def test_what_is_a_character_is_shown_as_it_is(text):
    assert shown(text) == text


# Links -------------------------------------------------------------------------------------------------------------------


@posix
def test_links_in_a_circle_and_pipes_are_no_images(tmp_path):
    where = write(tmp_path / "a", many(2))
    (where / "circle.png").symlink_to(where / "circle.png")
    os.mkfifo(where / "pipe.png")
    source = open_source(where)
    assert (len(source), source.others) == (2, {".png": 2})


# Large images ------------------------------------------------------------------------------------------------------------


def test_an_image_of_several_strips_is_as_one():
    array = pixels(3, width=1500, height=2000, channels=4)
    assert len(list(images._strips(Image.fromarray(array)))) == 3
    whole = Image.alpha_composite(Image.new("RGBA", (1500, 2000), "white"), Image.fromarray(array)).convert("RGB")
    np.testing.assert_array_equal(decode(encoded(array), 1500), np.asarray(whole)[250:1750])
    assert inspect(encoded(array)).digest == inspect(encoded(array, "TIFF")).digest
    again = array.copy()
    again[-1, -1] ^= 1
    assert inspect(encoded(array)).digest != inspect(encoded(again)).digest


def test_what_libraries_say_of_a_broken_image_is_in_its_reason_and_nowhere_else(capfd):
    random, sound = np.random.default_rng(0), encoded(pixels(width=20, height=20), "TIFF", compression="tiff_adobe_deflate")
    for _ in range(300):
        data = np.frombuffer(sound, np.uint8).copy()
        data[random.integers(0, len(data), 4)] = random.integers(0, 256, 4)
        with contextlib.suppress(images.Broken):
            inspect(data.tobytes())
    out = capfd.readouterr()
    assert out.out + out.err == ""


# Many files --------------------------------------------------------------------------------------------------------------

PREPARE = """
import re, sys
from pathlib import Path
from gander.data import open_source, prepare
data = prepare(open_source(sys.argv[1]), 4, workers=1, progress=False)
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]  # rusage tells what its parent took, too
print(len(data), int(data.images.astype("u8").sum()), int(peak) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory")
@pytest.mark.parametrize("kind", [write, pack])
@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_very_many_tiny_files_take_little_memory(tmp_path, count, kind):
    dots = [encoded(Image.new("RGB", (1, 1), (i, 0, 0))) for i in range(100)]
    where = kind(tmp_path / "a.zip", {f"{i % 10}/{i:06d}.png": dots[i % 100] for i in range(count)})
    told = subprocess.run([sys.executable, "-c", PREPARE, str(where)], capture_output=True, text=True, check=True, timeout=900)
    images, total, mebibytes = map(int, told.stdout.split())
    assert (images, total) == (count, count // 100 * sum(range(100)) * 16)
    assert mebibytes < (100 if count <= 2000 else 400)


# A folder that changes ---------------------------------------------------------------------------------------------------


def _vanish(where):
    (where / "cat" / "005.png").unlink()


def _appear(where):
    (where / "cat" / "new.png").write_bytes(png(9))


def _rewrite(where):
    (where / "cat" / "005.png").write_bytes(png(50, width=9))


def _cut(where):
    (where / "cat" / "005.png").write_bytes(b"")


def _move(where):
    os.rename(where / "cat", where / "cow")


def _go(where):
    shutil.rmtree(where)


def _become_a_file(where):
    shutil.rmtree(where)
    where.write_bytes(b"a file")


@WORKERS
@pytest.mark.parametrize("change", [_vanish, _appear, _rewrite, _cut, _move, _go, _become_a_file])
def test_a_folder_that_changes_while_it_is_prepared_is_refused_and_nothing_is_kept(tmp_path, cache, change, workers):
    source = open_source(write(tmp_path / "a", {**many(10, "cat/"), **many(3, "dog/")}))
    change(tmp_path / "a")  # after it was listed, before it is read
    assert "changed while it was read" in refused(lambda: prepare(source, 8, workers=workers)) or change in (_go, _become_a_file)
    assert not [f for f in (cache / "prepared").iterdir() if f.is_dir()]


def _another(where):
    pack(where, many(4, "bird/"))


def _no_zip(where):
    where.write_bytes(b"no zip any more")


def _cut_off(where):
    where.write_bytes(where.read_bytes()[:-100])


@WORKERS
@pytest.mark.parametrize("change", [_another, _no_zip, _cut_off, os.unlink])
def test_a_zip_that_changes_while_it_is_prepared_is_refused_and_nothing_is_kept(tmp_path, cache, change, workers):
    source = open_source(pack(tmp_path / "a.zip", {**many(10, "cat/"), **many(3, "dog/")}))
    change(tmp_path / "a.zip")
    line = refused(lambda: prepare(source, 8, workers=workers))
    assert "changed while it was read" in line or "not a whole zip" in line or "worker" in line
    assert not [f for f in (cache / "prepared").iterdir() if f.is_dir()]


def test_a_file_that_goes_while_its_folder_is_listed_is_not_there(tmp_path, monkeypatch):
    where = write(tmp_path / "a", many(5))
    suffix, gone = sources._suffix, []

    def going(name):
        if not gone:
            gone.append(name)
            (where / name).unlink()
        return suffix(name)

    monkeypatch.setattr(sources, "_suffix", going)
    assert [entry.name for entry in open_source(where).entries] == sorted({f"00{i}.png" for i in range(5)} - {*gone})


def test_a_folder_that_goes_while_it_is_listed_is_one_line(tmp_path, monkeypatch):
    where = write(tmp_path / "a", {**many(2, "cat/"), **many(2, "dog/")})
    walk = sources._walk

    def going(folder, above=()):
        if above:
            shutil.rmtree(folder)
        return walk(folder, above)

    monkeypatch.setattr(sources, "_walk", going)
    assert "changed while it was listed" in refused(lambda: open_source(where))


def test_what_goes_while_it_is_checked_is_listed_as_broken(tmp_path):
    source = open_source(write(tmp_path / "a", many(5)))
    (tmp_path / "a" / "002.png").unlink()
    assert check(source, progress=False).broken == {"002.png": "cannot be read (No such file or directory)"}
    zipped = open_source(pack(tmp_path / "a.zip", many(5)))
    pack(tmp_path / "a.zip", {name: data for name, data in many(5).items() if name != "002.png"})
    assert check(zipped, progress=False).broken == {"002.png": "is no longer in the archive"}
