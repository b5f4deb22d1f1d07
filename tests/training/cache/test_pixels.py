"""The pixel cache: what hits, what misses, what is rebuilt, and what a full disk leaves."""

import json
import os
import resource
import subprocess
import sys
import time
import zlib

import cv2
import numpy as np
import pytest
from skimage import data as photographs

import edgeclf.training.cache.pixels as cache_module
from edgeclf.runtime.errors import InputError, OutputError, UsageError
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.pixels import cached_images, default_cache_folder

SMALL = Preprocess((32, 40))


@pytest.fixture
def files(tmp_path):
    """Six JPEGs cut from photographs, in `images/`."""
    folder = tmp_path / "images"
    folder.mkdir()
    paths = []
    for name in ("astronaut", "chelsea", "coffee"):
        image = cv2.cvtColor(getattr(photographs, name)(), cv2.COLOR_RGB2BGR)
        for number in (0, 1):
            paths.append(folder / f"{name}{number}.jpg")
            cv2.imwrite(str(paths[-1]), image[number * 60 : number * 60 + 120, 50:210])
    return paths


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(path, **_):
        raise AssertionError(f"{path} was decoded")

    return lambda: monkeypatch.setattr(cache_module, "load_image", refuse)


def entries(folder):
    return sorted(
        path.name for path in folder.iterdir() if path.suffix in {".pixels", ".json"} and not path.name.startswith(".")
    )


def test_the_cache_holds_what_preprocessing_gives_in_the_order_asked(files, cache):
    calls = []
    got = cached_images(files[::-1], SMALL, cache_folder=cache, progress=lambda *call: calls.append(call))
    expected = np.stack([preprocess_bgr(load_image(path), SMALL) for path in files[::-1]])
    np.testing.assert_array_equal(got.images, expected)
    assert (got.rows, got.unreadable) == (tuple(range(6)), ())
    assert len(set(got.digests)) == 6
    assert [call for call in calls if call[0] == "decode"][-1] == ("decode", 6, 6)
    assert [call for call in calls if call[0] == "read"][-1] == ("read", 6, 6)


def test_a_second_run_decodes_nothing_and_reads_no_image(files, cache, no_decoding):
    first = cached_images(files, SMALL, cache_folder=cache)
    no_decoding()
    stages = []
    second = cached_images(files, SMALL, cache_folder=cache, progress=lambda stage, *_: stages.append(stage))
    np.testing.assert_array_equal(first.images, second.images)
    assert second.digests == first.digests
    assert set(stages) <= {"check"}


def test_a_moved_data_set_hits(files, cache, tmp_path, no_decoding):
    first = cached_images(files, SMALL, cache_folder=cache)
    moved = files[0].parent.rename(tmp_path / "elsewhere")
    no_decoding()
    second = cached_images([moved / path.name for path in files], SMALL, cache_folder=cache)
    np.testing.assert_array_equal(first.images, second.images)


def test_a_changed_pixel_another_preprocessing_and_another_order_miss(files, cache):
    cached_images(files, SMALL, cache_folder=cache)
    assert len(entries(cache)) == 2
    image = cv2.imread(str(files[2]))
    image[:40] = 0
    cv2.imwrite(str(files[2]), image)
    changed = cached_images(files, SMALL, cache_folder=cache)
    np.testing.assert_array_equal(changed.images[2], preprocess_bgr(load_image(files[2]), SMALL))
    assert len(entries(cache)) == 4
    for number, preprocess in enumerate(
        (Preprocess((40, 32)), Preprocess((32, 40), "crop"), Preprocess((32, 40), "letterbox"))
    ):
        other = cached_images(files, preprocess, cache_folder=cache)
        np.testing.assert_array_equal(other.images[0], preprocess_bgr(load_image(files[0]), preprocess))
        assert len(entries(cache)) == 6 + 2 * number
    reordered = cached_images(files[1:] + files[:1], SMALL, cache_folder=cache)
    np.testing.assert_array_equal(reordered.images, np.roll(changed.images, -1, axis=0))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))


def change_facts(**changes):
    def change(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".pixels", cut),
        (".pixels", flip),
        (".pixels", lambda path: path.write_bytes(b"")),
        (".pixels", lambda path: path.unlink()),
        (".json", cut),
        (".json", lambda path: path.write_text("[]")),
        (".json", lambda path: path.write_text("{}")),
        (".json", lambda path: path.write_bytes(b"\xff")),
        (".json", lambda path: path.unlink()),
        (".json", change_facts(rows=[])),
        (".json", change_facts(rows=[0, 1, 2, 3, 4, 9])),
        (".json", change_facts(rows=[0, 1, 2, 3, 3, 4])),
        (".json", change_facts(rows=["a"] * 6)),
        (".json", change_facts(digests=["x"] * 5)),
        (".json", change_facts(crc32=None)),
    ],
)
def test_a_damaged_entry_is_rebuilt(files, cache, suffix, damage):
    first = np.array(cached_images(files, SMALL, cache_folder=cache).images)
    (path,) = cache.glob(f"*{suffix}")
    damage(path)
    again = cached_images(files, SMALL, cache_folder=cache)
    np.testing.assert_array_equal(again.images, first)
    assert again.rows == tuple(range(6))
    (facts,) = cache.glob("*.json")
    assert json.loads(facts.read_text())["crc32"] == zlib.crc32(first.tobytes())


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"", None])
def test_a_damaged_memory_of_digests_costs_only_time(files, cache, content):
    cached_images(files, SMALL, cache_folder=cache)
    memo = cache / "digests.sqlite3"
    memo.unlink()
    memo.mkdir() if content is None else memo.write_bytes(content)
    assert cached_images(files, SMALL, cache_folder=cache).rows == tuple(range(6))
    assert cached_images(files, SMALL, cache_folder=cache).rows == tuple(range(6))


def test_unreadable_files_are_listed_with_their_errors_the_first_time_and_every_time(files, cache):
    folder = files[0].parent
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "short.jpg").write_bytes(files[0].read_bytes()[:900])
    (folder / "text.jpg").write_text("no image at all")
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    bad = [folder / f"{name}.jpg" for name in ("empty", "short", "text", "folder", "dangling")]
    mixed = [bad[0], files[0], bad[1], bad[2], *files[1:], bad[3], bad[4]]
    for _ in range(2):
        got = cached_images(mixed, SMALL, cache_folder=cache)
        assert got.rows == (1, 4, 5, 6, 7, 8)
        assert len(got.images) == len(got.digests) == 6
        assert [path for path, _ in got.unreadable] == bad
        words = ["0 bytes", "truncated", "text", "directory", "dangling link"]
        assert [word in str(error) for word, (_, error) in zip(words, got.unreadable, strict=True)] == [True] * 5
        np.testing.assert_array_equal(got.images[0], preprocess_bgr(load_image(files[0]), SMALL))
    # Once mended, they count.
    bad[0].write_bytes(files[0].read_bytes())
    assert cached_images(mixed, SMALL, cache_folder=cache).rows == (0, 1, 4, 5, 6, 7, 8)


def test_a_file_that_failed_in_passing_is_tried_again(files, cache, monkeypatch):
    failures = [files[3]]

    def fail_once(path, **options):
        if path in failures:
            failures.remove(path)
            raise InputError(f"cannot read {path}", got="input/output error")
        return load_image(path, **options)

    monkeypatch.setattr(cache_module, "load_image", fail_once)
    first = cached_images(files, SMALL, cache_folder=cache)
    assert [(path, "changed while it was read" in str(e)) for path, e in first.unreadable] == [(files[3], True)]
    second = cached_images(files, SMALL, cache_folder=cache)
    assert (second.rows, second.unreadable) == (tuple(range(6)), ())


def test_no_readable_image_is_an_error_and_leaves_nothing(files, cache):
    for path in files:
        path.write_bytes(b"")
    with pytest.raises(
        InputError, match=r"none of the 6 images can be read: got the first with: .*astronaut0\.jpg, 0 bytes"
    ):
        cached_images(files, SMALL, cache_folder=cache)
    assert not [path for path in cache.iterdir() if "pixels" in path.name or path.suffix == ".json"]


def test_file_names_need_not_be_unicode(files, cache, tmp_path):
    odd = files[0].rename(tmp_path / "images" / "caf\udce9.jpg")
    for _ in range(2):
        assert cached_images([odd, *files[1:]], SMALL, cache_folder=cache).rows == tuple(range(6))


def test_entries_not_used_for_longest_are_pruned(files, cache, monkeypatch):
    one_entry = 6 * 32 * 40 * 3
    sizes = [Preprocess((32, 40)), Preprocess((40, 32)), Preprocess((16, 80))]
    for preprocess in sizes[:2]:
        cached_images(files, preprocess, cache_folder=cache)
    old, kept = sorted(cache.glob("*.pixels"), key=lambda path: path.stat().st_mtime_ns)
    os.utime(old, (1, 1))
    os.utime(kept, (2, 2))
    unfinished, abandoned = cache / ".123.part.pixels", cache / ".456.part.pixels"
    for path in (unfinished, abandoned):
        path.write_bytes(b"x" * 100)
    os.utime(abandoned, (time.time() - 48 * 3600,) * 2)
    monkeypatch.setenv("EDGECLF_CACHE_GB", str(2.5 * one_entry / 1e9))
    cached_images(files, sizes[2], cache_folder=cache)
    left = {path.stem for path in cache.glob("*.pixels")}
    assert old.stem not in left
    assert kept.stem in left
    assert unfinished.exists()
    assert not abandoned.exists()
    assert {path.stem for path in cache.glob("*.json")} == {s for s in left if not s.startswith(".")}
    # A limit below one entry keeps the entry that is in use.
    monkeypatch.setenv("EDGECLF_CACHE_GB", "0")
    assert cached_images(files, Preprocess((8, 8)), cache_folder=cache).images.shape == (6, 8, 8, 3)
    assert len(entries(cache)) == 2


def test_looking_an_entry_up_counts_as_using_it(files, cache):
    cached_images(files, SMALL, cache_folder=cache)
    (pixels,) = cache.glob("*.pixels")
    os.utime(pixels, (1, 1))
    cached_images(files, SMALL, cache_folder=cache)
    assert pixels.stat().st_mtime > time.time() - 3600


@pytest.mark.parametrize("text", ["many", "nan", "-1"])
def test_a_limit_that_is_no_size_is_refused_before_any_work(files, cache, monkeypatch, no_decoding, text):
    monkeypatch.setenv("EDGECLF_CACHE_GB", text)
    no_decoding()
    with pytest.raises(UsageError, match="EDGECLF_CACHE_GB"):
        cached_images(files, SMALL, cache_folder=cache)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("EDGECLF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "edgeclf"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_folder() == tmp_path / "xdg" / "edgeclf"
    monkeypatch.setenv("EDGECLF_CACHE", str(tmp_path / "mine"))
    assert default_cache_folder() == tmp_path / "mine"


def test_a_cache_that_cannot_be_made_is_an_output_error(files, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        cached_images(files, SMALL, cache_folder=tmp_path / "file" / "cache")


SCRIPT = """
import resource, sys
from pathlib import Path
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.pixels import cached_images
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
paths = [Path(p) for p in sys.argv[3:]]
try:
    images = cached_images(paths, Preprocess((64, 64)), cache_folder=Path(sys.argv[2])).images
except EdgeclfError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(int(__import__('numpy').asarray(images).astype(int).sum()))
"""


def test_a_full_disk_is_an_output_error_and_leaves_nothing(files, cache):
    # No file may pass 40,000 bytes; six images of 64 x 64 x 3 need 73,728.
    command = [sys.executable, "-c", SCRIPT, "40000", str(cache), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("OutputError: cannot write ")
    assert "free some space" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path.name for path in cache.iterdir()} <= {"digests.sqlite3"}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 40000


def test_two_processes_at_once_make_one_entry(files, cache):
    command = [sys.executable, "-c", SCRIPT, "0", str(cache), *map(str, files)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(entries(cache)) == 2
    assert not list(cache.glob(".*"))


@pytest.fixture
def decoded(monkeypatch):
    names = []

    def count(path, **options):
        names.append(path.name)
        return load_image(path, **options)

    monkeypatch.setattr(cache_module, "load_image", count)
    return names


def test_only_images_that_no_earlier_entry_has_are_decoded(files, cache, decoded):
    first = cached_images(files[:4], SMALL, cache_folder=cache)
    assert sorted(decoded) == sorted(path.name for path in files[:4])
    decoded.clear()
    more = cached_images([files[5], *files[1:4], files[4]], SMALL, cache_folder=cache)
    assert sorted(decoded) == sorted([files[4].name, files[5].name])
    np.testing.assert_array_equal(more.images[1:4], first.images[1:4])
    np.testing.assert_array_equal(more.images[0], preprocess_bgr(load_image(files[5]), SMALL))
    decoded.clear()
    fewer = cached_images(files[2:], SMALL, cache_folder=cache)
    assert decoded == []
    expected = np.stack([preprocess_bgr(load_image(path), SMALL) for path in files[2:]])
    np.testing.assert_array_equal(fewer.images, expected)
    # Another preprocessing shares nothing.
    cached_images(files[:2], Preprocess((16, 16)), cache_folder=cache)
    assert len(decoded) == 2


def test_a_damaged_earlier_entry_gives_no_rows(files, cache, decoded):
    cached_images(files[:4], SMALL, cache_folder=cache)
    (pixels,) = cache.glob("*.pixels")
    flip(pixels)
    decoded.clear()
    again = cached_images(files, SMALL, cache_folder=cache)
    assert len(decoded) == 6
    np.testing.assert_array_equal(again.images[0], preprocess_bgr(load_image(files[0]), SMALL))
