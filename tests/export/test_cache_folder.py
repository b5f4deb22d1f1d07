"""The cache folder: what goes when it exceeds its size, what stays, and sizes as text."""

import fcntl
import os
import time

import pytest

from edgeclf.export.cache_folder import CacheFolder, chosen_cache_folder, parse_size
from edgeclf.runtime.errors import OutputError, UsageError
from edgeclf.runtime.files import default_cache_folder

NAME = "0123456789abcdef"


@pytest.fixture
def write(tmp_path):
    """Writes a file of some bytes, last used at a time."""

    def write(name, size=100, used=1000.0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (used, used))
        return path

    return write


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_what_was_not_used_for_longest_goes_until_the_rest_fits(tmp_path, write):
    old = [write(f"pixels-{NAME * 2}.array", 500, used=1), write(f"pixels-{NAME * 2}.index", 24, used=3)]
    trial, ranking = write(f"int8-{NAME * 2}.onnx", used=2), write(f"int8-{NAME[::-1] * 2}.names", used=4)
    backbone = write(f"{NAME * 2}-17.onnx", used=5)
    features = [write(f"features-{NAME * 2}.array", used=6), write(f"features-{NAME * 2}.index", 24, used=6)]
    folder = CacheFolder(tmp_path, 948)
    assert folder.make_room(0) == 0
    assert names(tmp_path) == {path.name for path in (*old, trial, ranking, backbone, *features)}
    # The trial is older than the last use of the pixels' index.
    assert folder.make_room(1) == 0
    assert names(tmp_path) == {path.name for path in (*old, ranking, backbone, *features)}
    assert folder.make_room(700) == 0
    assert names(tmp_path) == {path.name for path in features} | {backbone.name}
    assert folder.make_room(1000) == 52
    assert names(tmp_path) == set()


def test_files_of_earlier_versions_go_first(tmp_path, write):
    earlier = [write(f"{NAME}-{NAME * 2}.pixels", used=8), write(f"{NAME}-{NAME * 2}.json", used=8)]
    earlier += [write(f"copies-{NAME * 2}.{suffix}", used=8) for suffix in ("array", "index")]
    memo = write("digests.sqlite3", used=9)
    current = write(f"{NAME * 2}-17.onnx", used=1)
    assert CacheFolder(tmp_path, 300).make_room(0) == 0
    assert names(tmp_path) == {memo.name, current.name}
    assert not any(path.exists() for path in earlier)
    assert CacheFolder(tmp_path, 100).make_room(0) == 0
    assert names(tmp_path) == {current.name}


def test_what_a_process_has_locked_stays(tmp_path, write):
    used, unused = write(f"pixels-{NAME * 2}.array", used=1), write(f"features-{NAME * 2}.array", used=2)
    with used.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert CacheFolder(tmp_path, 0).make_room(0) == 100
        assert names(tmp_path) == {used.name}
    assert not unused.exists()
    assert CacheFolder(tmp_path, 0).make_room(0) == 0
    assert names(tmp_path) == set()


def test_extracted_images_go_together_and_stay_while_their_lock_is_held(tmp_path, write):
    key = f"images-{NAME * 2}"
    write(f"{key}/a/0.jpg", 300, used=1)
    lock, whole = write(f"{key}.lock", 0, used=1), write(f"{key}.json", 50, used=1)
    other = write(f"features-{NAME * 2}.array", used=2)
    assert CacheFolder(tmp_path, 450).make_room(0) == 0
    assert {lock, whole, other} <= set(tmp_path.iterdir())
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert CacheFolder(tmp_path, 350).make_room(0) == 0
        assert names(tmp_path) == {key, lock.name, whole.name}
    assert CacheFolder(tmp_path, 349).make_room(0) == 0
    assert names(tmp_path) == set()


def test_files_of_others_are_neither_counted_nor_removed(tmp_path, write):
    others = [write(name, 1000) for name in ("photo.jpg", "model.onnx", "pixels-1.array", "notes.json", "a.pixels")]
    assert CacheFolder(tmp_path, 0).make_room(0) == 0
    assert names(tmp_path) == {path.name for path in others}


def test_digests_the_emulated_system_and_engines_count_and_stay(tmp_path, write):
    write("file-digests.sqlite3")
    write("engines/one.engine", 300)
    write("emulation/root", 50)
    backbone = write(f"{NAME * 2}-17.onnx")
    assert CacheFolder(tmp_path, 550).make_room(0) == 0
    assert backbone.exists()
    assert CacheFolder(tmp_path, 500).make_room(0) == 0
    assert names(tmp_path) == {"file-digests.sqlite3", "engines", "emulation"}
    assert CacheFolder(tmp_path, 400).make_room(0) == 50


def test_what_a_killed_process_left_unfinished_is_removed_after_a_day(tmp_path, write):
    unfinished, abandoned = write(".0123456789ab.part.onnx"), write(".ba9876543210.part.onnx")
    os.utime(unfinished)
    os.utime(abandoned, (time.time() - 48 * 3600,) * 2)
    CacheFolder(tmp_path).make_room(0)
    assert names(tmp_path) == {unfinished.name}


def test_a_folder_that_is_not_there_has_room_and_one_that_cannot_be_made_is_an_error(tmp_path, write):
    assert CacheFolder(tmp_path / "none", 100).make_room(100) == 0
    write("file")
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        CacheFolder(tmp_path / "file" / "cache").make()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500MB", 5e8),
        ("20GB", 2e10),
        ("20 gb", 2e10),
        ("1.5T", 1.5e12),
        (".5k", 500),
        ("512MiB", 2**29),
        ("1000", 1000),
        ("0", 0),
        ("12 B", 12),
    ],
)
def test_sizes(text, expected):
    assert parse_size(text, "--cache-size") == expected


@pytest.mark.parametrize("text", ["many", "nan", "-1", "", "GB", "5 apples", "1e9", "5MBB"])
def test_what_is_no_size_is_refused(text, monkeypatch):
    with pytest.raises(UsageError, match="bad --cache-size"):
        chosen_cache_folder(size=text)
    if text:
        monkeypatch.setenv("EDGECLF_CACHE_SIZE", text)
        with pytest.raises(UsageError, match="EDGECLF_CACHE_SIZE"):
            chosen_cache_folder()


def test_where_the_cache_is_and_how_large(monkeypatch, tmp_path):
    for name in ("EDGECLF_CACHE", "EDGECLF_CACHE_SIZE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "edgeclf"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_folder() == tmp_path / "xdg" / "edgeclf"
    monkeypatch.setenv("EDGECLF_CACHE", str(tmp_path / "mine"))
    assert default_cache_folder() == tmp_path / "mine"
    assert chosen_cache_folder() == CacheFolder(tmp_path / "mine", 20 * 10**9)
    monkeypatch.setenv("EDGECLF_CACHE_SIZE", "3GB")
    assert chosen_cache_folder().limit_bytes == 3 * 10**9
    assert chosen_cache_folder(tmp_path, "500MB") == CacheFolder(tmp_path, 5 * 10**8)
