"""The laws of preparation: once, whole or not at all, keyed by content."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from pictures import encoded, many, pack, pixels, png, vast_png, write

from gander import files
from gander.data import decode, images, open_source, prepare, workers
from gander.errors import UserError


@pytest.fixture
def photos(tmp_path):
    return write(tmp_path / "photos", {**many(4, "cat/"), **many(3, "dog/")})


def left_over(cache):
    """What lies in the cache besides locks and listings."""
    return [path.name for path in (cache / "prepared").glob("*") if path.suffix != ".lock" and path.name != "listings"]


def never(*args):
    raise AssertionError("decoded again")


def test_a_dataset(photos):
    data = prepare(open_source(photos), 8)
    assert (data.images.shape, data.images.dtype, data.images.flags.writeable) == ((7, 8, 8, 3), np.uint8, False)
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert data.labels.dtype == np.int64
    assert data.names[3:5] == ("cat/003.png", "dog/000.png")
    assert (data.classes, data.num_classes, data.name, data.split) == (("cat", "dog"), 2, "photos", None)
    assert (data.filter, data.skipped, data.resolution, data.channels, len(data)) == (images.FILTER, (), 8, 3, 7)
    for i in range(4):
        np.testing.assert_array_equal(data.images[i], pixels(i))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, None])
def test_any_number_of_workers_gives_the_same(tmp_path, channels, count):
    contents = {f"{i:03d}.png": png(i, width=10 + i % 3) for i in range(150)}
    for where in (write(tmp_path / "a", contents), pack(tmp_path / "a.zip", contents)):
        data = prepare(open_source(where), 6, channels=channels, workers=count)
        for i in (0, 70, 149):
            np.testing.assert_array_equal(data.images[i], decode(contents[f"{i:03d}.png"], 6, channels))
        shutil.rmtree(files.cache_folder())


def test_workers_start_without_torch(photos):
    lines = list(workers.work(loaded, open_source(photos), [{"paths": []}], 2))
    assert lines == [({"paths": []}, [])]


def loaded(read, job):
    return [name for name in ("torch", "scipy", "datasets") if name in sys.modules]


def test_a_script_without_a_main_guard(photos, tmp_path):
    script = "from gander.data import *; print(len(prepare(open_source(__import__('sys').argv[1]), 8, workers=2)))"
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, tmp_path / "script.py", photos], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_the_second_time_nothing_is_decoded(photos, monkeypatch):
    first = prepare(open_source(photos), 8)
    monkeypatch.setattr("gander.data.images.decode_sized", never)
    again = prepare(open_source(photos), 8)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.fingerprint == again.fingerprint
    with pytest.raises(AssertionError):
        prepare(open_source(photos), 4)
    with pytest.raises(AssertionError):
        prepare(open_source(photos), 8, channels=1)


def test_a_copy_and_a_zip_are_the_same_images(photos, tmp_path, cache):
    original = prepare(open_source(photos), 8)
    copy = prepare(open_source(shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copyfile)), 8)
    packed = {str(path.relative_to(photos)): path.read_bytes() for path in photos.rglob("*.png")}
    zipped = prepare(open_source(pack(tmp_path / "z.zip", packed)), 8)
    assert original.fingerprint == copy.fingerprint == zipped.fingerprint
    assert (copy.name, zipped.name) == ("copy", "z")
    assert len(left_over(cache)) == 1


@pytest.mark.parametrize("change", ["content", "name", "class", "more"])
def test_other_images_are_other_images(photos, change):
    first = prepare(open_source(photos), 8)
    if change == "content":
        (photos / "cat/000.png").write_bytes(png(99))
    elif change == "more":
        (photos / "cat/004.png").write_bytes(png(99))
    else:
        (photos / "cat/000.png").rename(photos / ("cat/zzz.png" if change == "name" else "dog/zzz.png"))
    assert prepare(open_source(photos), 8).fingerprint != first.fingerprint


def test_a_change_that_keeps_size_and_date_is_seen(tmp_path):
    where = write(tmp_path / "a", {"1.bmp": encoded(pixels(1), "BMP")})
    first = prepare(open_source(where), 8)
    times = (where / "1.bmp").stat()
    time.sleep(0.02)
    (where / "1.bmp").write_bytes(encoded(pixels(2), "BMP"))
    os.utime(where / "1.bmp", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert prepare(open_source(where), 8).fingerprint != first.fingerprint


def test_classes_may_change_their_numbers_while_the_images_stay(tmp_path):
    where = write(tmp_path / "a", {"train/cat/1.png": png(1), "train/dog/2.png": png(2), "val/cat/3.png": png(3)})
    first = prepare(open_source(where), 8)
    write(where, {"val/ant/1.png": png(4)})
    again = prepare(open_source(where), 8)
    assert first.fingerprint == again.fingerprint
    assert (first.labels.tolist(), again.labels.tolist()) == ([0, 1], [1, 2])


def test_broken_files_are_skipped_and_said(tmp_path, capsys):
    contents = many(300)
    contents["007.png"], contents["100.png"] = b"these are words", png(100)[:-60]
    for count in (1, 2):
        data = prepare(open_source(write(tmp_path / "a", contents)), 8 * count, workers=count)
        assert (data.skipped, len(data), len(data.labels)) == (("007.png", "100.png"), 298, 298)
        assert data.reasons[0] == "is not an image in a format that is read here"
        said = capsys.readouterr().err
        assert "2 of the 300 images" in said
        assert "007.png is not an image" in said
    data = prepare(open_source(tmp_path / "a"), 8, progress=False)
    kept = [i for i in range(300) if i not in (7, 100)]
    np.testing.assert_array_equal(data.images, np.stack([pixels(i) for i in kept]))
    assert capsys.readouterr().err == ""


def test_more_than_one_in_a_hundred_broken_stop(tmp_path):
    source = open_source(write(tmp_path / "a", {**many(99), "words.png": b"words", "vast.png": vast_png()}))
    for _ in range(2):  # from the cache, too
        with pytest.raises(UserError, match=r"2 of the 101 images of .* are broken \(vast.png claims more than"):
            prepare(source, 8)
    assert len(prepare(source, 8, allow_broken=True)) == 99


def test_all_broken(tmp_path, cache):
    source = open_source(write(tmp_path / "a", {"a.png": b"words", "b.png": b""}))
    with pytest.raises(UserError, match="none of the 2 images"):
        prepare(source, 8, allow_broken=True)
    assert left_over(cache) == []


def test_damage_inside_a_zip_is_a_broken_file(tmp_path):
    where = pack(tmp_path / "a.zip", many(3))
    with zipfile.ZipFile(where) as archive:
        at = archive.getinfo("001.png").header_offset + 60
    data = bytearray(where.read_bytes())
    data[at] ^= 0xFF
    where.write_bytes(data)
    assert prepare(open_source(where), 8, allow_broken=True).skipped == ("001.png",)


def test_a_bomb_that_lies_about_its_size(tmp_path):
    """An entry that states 100 bytes and inflates to a hundred megabytes is broken, at no cost."""
    where = pack(tmp_path / "a.zip", {**many(2), "bomb.png": b"\0" * 100_000_000})
    stated = struct.pack("<L", 100_000_000)
    where.write_bytes(where.read_bytes().replace(stated, struct.pack("<L", 100)))
    assert prepare(open_source(where), 8, allow_broken=True).skipped == ("bomb.png",)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_broken(photos):
    (photos / "cat/000.png").chmod(0)
    assert prepare(open_source(photos), 8, allow_broken=True).reasons == ("cannot be read (Permission denied)",)


@pytest.mark.parametrize("count", [1, 2])
def test_a_wish_to_stop_leaves_nothing(tmp_path, cache, count):
    source, asked = open_source(write(tmp_path / "a", many(200))), []
    with pytest.raises(KeyboardInterrupt):
        prepare(source, 8, workers=count, stopped=lambda: asked.append(0) or len(asked) > 2)
    assert left_over(cache) == []
    assert len(prepare(source, 8)) == 200


def test_an_interruption_leaves_nothing(photos, cache, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gander.data.images.decode_sized", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(open_source(photos), 8)
    assert left_over(cache) == []


@pytest.mark.skipif(os.name != "posix", reason="no SIGKILL")
@pytest.mark.parametrize("again", [8, 4])
def test_a_process_that_is_killed_is_no_harm(photos, cache, again):
    script = (
        "import sys, os, signal; from gander.data import *; "
        "sys.modules['gander.data.prepare']._refuse_changed = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
        "prepare(open_source(sys.argv[1]), 8)"
    )
    done = subprocess.run([sys.executable, "-c", script, photos])
    assert done.returncode == -signal.SIGKILL
    assert len(left_over(cache)) == 1
    assert len(prepare(open_source(photos), again)) == 7
    assert [name[0] == "." for name in left_over(cache)] == [False]


def test_a_worker_that_dies_is_one_line(photos, cache):
    with pytest.raises(UserError, match="a worker died while it read"):
        list(workers.work(die, open_source(photos), [{"paths": ["cat/000.png"]}], 2))


def die(read, job):
    os._exit(1)


def test_a_bug_in_a_worker_keeps_its_traceback(photos):
    with pytest.raises(RuntimeError, match=r"in fail\n.*raise ZeroDivisionError"):
        list(workers.work(fail, open_source(photos), [{"paths": []}], 2))


def fail(read, job):
    raise ZeroDivisionError


def test_images_that_change_meanwhile(photos, cache, monkeypatch):
    def changing(data, *how):
        (photos / "dog/000.png").write_bytes(png(77))
        return np.zeros((8, 8, 3), np.uint8), 8

    with monkeypatch.context() as patch:
        patch.setattr("gander.data.images.decode_sized", changing)
        with pytest.raises(UserError, match="changed while it was read"):
            prepare(open_source(photos), 8)
    assert left_over(cache) == []


def test_a_damaged_cache_is_made_anew(photos, cache):
    first = prepare(open_source(photos), 8)
    expected = np.array(first.images)
    folder = cache / "prepared" / left_over(cache)[0]
    for damage in ("images.u8", "meta.json"):
        (folder / damage).write_bytes(b"")
        np.testing.assert_array_equal(prepare(open_source(photos), 8).images, expected)
        assert json.loads((folder / "meta.json").read_text())["shape"] == [7, 8, 8, 3]


def test_two_processes_at_once(tmp_path, cache):
    where = write(tmp_path / "a", many(300))
    script = "import sys; from gander.data import *; print(prepare(open_source(sys.argv[1]), 16).images.sum())"
    both = [subprocess.Popen([sys.executable, "-c", script, where], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({process.communicate()[0] for process in both}) == 1
    assert [process.returncode for process in both] == [0, 0]
    assert len(left_over(cache)) == 1


def test_no_room_on_the_disk(photos, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(UserError, match="make room"):
        prepare(open_source(photos), 8)


def test_a_cache_that_cannot_be_written(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="set GANDER_CACHE"):
        prepare(open_source(photos), 8)


@pytest.mark.parametrize("wrong", [{"resolution": 0}, {"resolution": 5000}, {"resolution": 8, "channels": 4}])
def test_wrong_words(photos, wrong):
    with pytest.raises(UserError, match="got"):
        prepare(open_source(photos), **wrong)


def test_how_many_were_smaller(tmp_path):
    where = write(tmp_path / "a", {"1.png": png(width=8, height=20), "2.png": png(width=9, height=9)})
    assert prepare(open_source(where), 9).enlarged == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_probe(monkeypatch, channels):
    from gander.probes import PROBES

    monkeypatch.setattr("gander.data.sources.PROBE_IMAGES", 1000)
    for name, probe in PROBES.items():
        data = prepare(open_source(f"probe:{name}"), 16, channels=channels)
        assert data.images.shape == (1000, 16, 16, channels)
        drawn, labels = probe.draw(0, np.array([3, 999]), 16)
        if channels == 3:
            np.testing.assert_array_equal(data.images[[3, 999]], drawn)
        np.testing.assert_array_equal(data.labels[[3, 999]], labels)
        assert (data.fingerprint, data.num_classes) == (f"probe:{name}:{probe.version}", probe.num_classes)
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["gander.data.prepare"], "_draw", never)
            np.testing.assert_array_equal(prepare(open_source(f"probe:{name}"), 16, channels=channels).labels, data.labels)


def test_the_emoji(real):
    data = prepare(open_source(real / "noto-emoji-128px-png.zip"), 32)
    assert (len(data), data.num_classes, data.name) == (3500, 8, "noto-emoji-128px-png")
    assert (data.images[:, 0, 0] == 255).mean() > 0.9, "corners are transparent: white"
    assert np.bincount(data.labels).tolist() == [111, 220, 131, 266, 1915, 478, 260, 119]
