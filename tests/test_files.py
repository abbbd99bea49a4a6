"""Files that are whole or absent."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gander import files
from gander.errors import UserError


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    files.write_atomic(path, "first")
    files.write_atomic(path, b"second")
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_atomic(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_a_file_has_the_rights_that_others_have(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_atomic(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_comes_back(tmp_path):
    value = {"ü": [1, 2.5, None, True], "b": {"c": "日本"}}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value


def test_json_takes_names_that_are_no_unicode(tmp_path):
    """Folders may be called by any bytes; Python reads them as lone surrogates."""
    files.write_json(tmp_path / "a.json", {"classes": ["\udcff", "日本"]})
    assert files.read_json(tmp_path / "a.json") == {"classes": ["\udcff", "日本"]}


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(UserError, match="not readable JSON"):
        files.read_json(tmp_path / "a.json")


def test_json_of_any_size_takes_little_memory(tmp_path):
    (tmp_path / "a.json").write_bytes(b" " * files.MAX_JSON_BYTES + b"1")
    with pytest.raises(UserError, match="is larger than 17 MB, as no such file is"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b" " * (files.MAX_JSON_BYTES - 1) + b"1")
    assert files.read_json(tmp_path / "a.json") == 1


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.delenv("GANDER_CACHE")
    assert files.cache_folder().name == "gander"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "gander"


def test_room_on_the_disk(tmp_path):
    files.need_space(tmp_path / "not" / "there" / "yet", 1, "a test")
    with pytest.raises(UserError, match=r"a test needs .* GB in"):
        files.need_space(tmp_path, shutil.disk_usage(tmp_path).total * 2, "a test")


def test_room_where_the_path_is_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.need_space(Path("not/there"), 1, "a test")


def test_one_holds_a_lock_at_a_time(tmp_path):
    with (
        files.lock(tmp_path / "a.lock", "held"),
        pytest.raises(UserError, match=r"^held$"),
        files.lock(tmp_path / "a.lock", "held"),
    ):
        pass
    with files.lock(tmp_path / "a.lock", "held"):
        pass


def test_a_lock_dies_with_its_process(tmp_path):
    script = (
        "import sys, os, pathlib; from gander import files\n"
        "with files.lock(pathlib.Path(sys.argv[1]), 'held'): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "a.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError), files.lock(tmp_path / "a.lock", "held"):
        pass
    other.kill()
    other.communicate()
    with files.lock(tmp_path / "a.lock", "held"):
        pass


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links of POSIX")
def test_a_lock_makes_no_file_where_a_link_leads(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), files.lock(tmp_path / "lock", "held"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_an_error_under_a_lock_is_not_a_refusal(tmp_path):
    with pytest.raises(OSError, match="mine"), files.lock(tmp_path / "a.lock", "held"):
        raise OSError("mine")


def packed(path, *entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def test_a_fair_zip(tmp_path):
    with files.open_zip(packed(tmp_path / "a.zip", ("b/ü.txt", b"hello"), ("..c", b""))) as archive:
        assert files.read_entry(archive, "b/ü.txt") == b"hello"
        assert files.read_entry(archive, "..c") == b""


@pytest.mark.parametrize("name", ["../a", "b/../../a", "/a", "C:\\a", "..\\a", "\\\\host\\a"])
def test_a_zip_that_reaches_out(tmp_path, name):
    with pytest.raises(UserError, match="is refused: its entry"):
        files.open_zip(packed(tmp_path / "a.zip", ("fine", b""), (name, b"")))


def link():
    info = zipfile.ZipInfo("a")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_links_and_vast_entries_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is a link"):
        files.open_zip(packed(tmp_path / "a.zip", (link(), b"/etc/passwd")))
    monkeypatch.setattr(files, "MAX_ENTRY_BYTES", 1000)
    with pytest.raises(UserError, match="more than one image may take"):
        files.open_zip(packed(tmp_path / "b.zip", ("a", b"\0" * 1001)))
    monkeypatch.setattr(files, "MAX_ARCHIVE_ENTRIES", 1)
    with pytest.raises(UserError, match="over the limit of 1;"):
        files.open_zip(packed(tmp_path / "c.zip", ("a", b""), ("b", b"")))


def test_an_encrypted_entry_is_refused(tmp_path):
    data = bytearray(packed(tmp_path / "a.zip", ("a", b"")).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match="is encrypted"):
        files.open_zip(tmp_path / "a.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_cannot_be_unpacked_in_parts_is_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", b"\0" * 1000)
    with pytest.raises(UserError, match="packed by another method than deflate"):
        files.open_zip(tmp_path / "a.zip")


@pytest.mark.parametrize("keep", [0, 10, -30])
def test_a_zip_that_is_cut_off(tmp_path, keep):
    whole = packed(tmp_path / "a.zip", ("a", b"hello"), ("b", b"world")).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:keep])
    with pytest.raises(UserError, match="not a whole zip"):
        files.open_zip(tmp_path / "a.zip")


def test_an_entry_is_never_more_than_it_states(tmp_path):
    whole = packed(tmp_path / "a.zip", ("a", b"\0" * 50_000_000)).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole.replace((50_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with files.open_zip(tmp_path / "a.zip") as archive, pytest.raises((UserError, zipfile.BadZipFile)):
        files.read_entry(archive, "a")
