"""The pixel cache: what hits, what misses, what is rebuilt, and what a full disk leaves."""

import os
import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest
from skimage import data as photographs

import edgeclf.training.cache.pixels as cache_module
from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import InputError, OutputError
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.pixels import cached_images, equal_pictures

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


def stored_rows(folder):
    """Rows in each array of pixels."""
    return sorted(path.stat().st_size // 24 for path in folder.glob("pixels-*.index"))


def test_the_cache_holds_what_preprocessing_gives_in_the_order_asked(files, cache):
    calls = []
    got = cached_images(files[::-1], SMALL, cache_folder=CacheFolder(cache), progress=lambda *call: calls.append(call))
    expected = np.stack([preprocess_bgr(load_image(path), SMALL) for path in files[::-1]])
    np.testing.assert_array_equal(got.images, expected)
    assert (got.rows, got.unreadable) == (tuple(range(6)), ())
    assert len(set(got.digests)) == 6
    assert [call for call in calls if call[0] == "decode"][-1] == ("decode", 6, 6)
    assert [call for call in calls if call[0] == "read"][-1] == ("read", 6, 6)


def test_a_second_run_decodes_nothing_and_reads_no_image(files, cache, no_decoding):
    first = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    no_decoding()
    stages = []
    second = cached_images(
        files, SMALL, cache_folder=CacheFolder(cache), progress=lambda stage, *_: stages.append(stage)
    )
    np.testing.assert_array_equal(first.images, second.images)
    assert second.digests == first.digests
    assert stages == []


def test_a_moved_data_set_hits(files, cache, tmp_path, no_decoding):
    first = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    moved = files[0].parent.rename(tmp_path / "elsewhere")
    no_decoding()
    second = cached_images([moved / path.name for path in files], SMALL, cache_folder=CacheFolder(cache))
    np.testing.assert_array_equal(first.images, second.images)


def test_a_changed_pixel_and_another_preprocessing_miss_and_another_order_hits(files, cache):
    cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    assert stored_rows(cache) == [6]
    image = cv2.imread(str(files[2]))
    image[:40] = 0
    cv2.imwrite(str(files[2]), image)
    changed = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    np.testing.assert_array_equal(changed.images[2], preprocess_bgr(load_image(files[2]), SMALL))
    assert stored_rows(cache) == [7]
    for number, preprocess in enumerate(
        (Preprocess((40, 32)), Preprocess((32, 40), "crop"), Preprocess((32, 40), "letterbox"))
    ):
        other = cached_images(files, preprocess, cache_folder=CacheFolder(cache))
        np.testing.assert_array_equal(other.images[0], preprocess_bgr(load_image(files[0]), preprocess))
        assert stored_rows(cache) == [6] * (number + 1) + [7]
    reordered = cached_images(files[1:] + files[:1], SMALL, cache_folder=CacheFolder(cache))
    np.testing.assert_array_equal(reordered.images, np.roll(changed.images, -1, axis=0))
    assert stored_rows(cache) == [6, 6, 6, 7]


def test_another_version_of_opencv_misses(files, cache, monkeypatch, decoded):
    first = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    monkeypatch.setattr("cv2.__version__", "5.99.0")
    second = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    assert len(decoded) == 12
    # What is computed from the pixels is keyed by this.
    assert first.key != second.key
    assert stored_rows(cache) == [6, 6]


def test_files_of_equal_size_and_time_that_were_swapped_are_seen(tmp_path, cache):
    first, second = tmp_path / "first.bmp", tmp_path / "second.bmp"
    for path, value in ((first, 10), (second, 200)):
        cv2.imwrite(str(path), np.full((32, 40, 3), value, np.uint8))
        os.utime(path, ns=(10**18, 10**18))
    before = cached_images([first, second], SMALL, cache_folder=CacheFolder(cache))
    assert [image.max() for image in before.images[:]] == [10, 200]
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    for path in (first, second):
        os.utime(path, ns=(10**18, 10**18))
    after = cached_images([first, second], SMALL, cache_folder=CacheFolder(cache))
    assert [image.max() for image in after.images[:]] == [200, 10]
    # In place, within the same inode.
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)
    for path in (first, second):
        os.utime(path, ns=(10**18, 10**18))
    again = cached_images([first, second], SMALL, cache_folder=CacheFolder(cache))
    assert [image.max() for image in again.images[:]] == [10, 200]


def test_copies_of_an_image_share_a_row(files, cache):
    copy = files[0].with_name("copy.jpg")
    copy.write_bytes(files[0].read_bytes())
    for _ in range(2):
        got = cached_images([*files, copy], SMALL, cache_folder=CacheFolder(cache))
        assert got.rows == tuple(range(7))
        np.testing.assert_array_equal(got.images[6], got.images[0])
    assert stored_rows(cache) == [6]


def test_a_picture_in_another_format_is_equal_and_one_that_differs_in_a_pixel_is_not(tmp_path, cache, rng):
    image = rng.integers(0, 256, (64, 80, 3), np.uint8)
    # Preprocessing averages 2 x 2 pixels: what it rounds away is no reason to call two pictures one.
    nearly = image.copy()
    nearly[0, 0] ^= 1
    twin = rng.integers(0, 256, (64, 80, 3), np.uint8)
    pictures = {"a.png": image, "b.bmp": image, "c.png": nearly, "d.png": twin, "e.ppm": twin, "f.png": image[::-1]}
    paths = [tmp_path / name for name in pictures]
    for path, pixels in zip(paths, pictures.values(), strict=True):
        cv2.imwrite(str(path), pixels)
    # The very bytes of another file: found by its digest, not here.
    paths.append(tmp_path / "g.png")
    paths[-1].write_bytes(paths[0].read_bytes())
    unreadable = tmp_path / "0.png"
    unreadable.write_bytes(b"no picture")
    paths.insert(0, unreadable)
    for _ in range(2):
        cached = cached_images(paths, SMALL, cache_folder=CacheFolder(cache))
        assert sorted(equal_pictures(cached, paths)) == [[1, 2], [4, 5]]
    assert not list(cache.glob("copies-*"))


def test_pictures_with_one_checksum_that_differ_are_not_equal(tmp_path, cache):
    """What preprocessing makes alike is compared at its full size."""
    one = np.zeros((64, 80, 3), np.uint8)
    other = one.copy()
    other[0, 0] = 1
    paths = [tmp_path / "one.png", tmp_path / "other.png"]
    for path, pixels in zip(paths, (one, other), strict=True):
        cv2.imwrite(str(path), pixels)
    cached = cached_images(paths, SMALL, cache_folder=CacheFolder(cache))
    np.testing.assert_array_equal(cached.images[0], cached.images[1])
    assert equal_pictures(cached, paths) == []
    # Gone since: no longer compared, and no error.
    cv2.imwrite(str(paths[1]), one, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    cached = cached_images(paths, SMALL, cache_folder=CacheFolder(cache))
    assert equal_pictures(cached, paths) == [[0, 1]]
    paths[0].unlink()
    assert equal_pictures(cached, paths) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("suffix", [".array", ".index"])
@pytest.mark.parametrize(
    "damage", [cut, flip, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x"), lambda p: p.unlink()]
)
def test_damaged_rows_are_computed_again(files, cache, suffix, damage, no_decoding):
    first = np.array(cached_images(files, SMALL, cache_folder=CacheFolder(cache)).images)
    (path,) = cache.glob(f"pixels-*{suffix}")
    damage(path)
    again = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    np.testing.assert_array_equal(again.images, first)
    assert again.rows == tuple(range(6))
    no_decoding()
    np.testing.assert_array_equal(cached_images(files, SMALL, cache_folder=CacheFolder(cache)).images, first)


def test_a_damaged_row_of_an_image_that_is_gone_is_an_error(files, cache):
    images = cached_images(files, SMALL, cache_folder=CacheFolder(cache)).images
    (path,) = cache.glob("pixels-*.array")
    flip(path)
    files[0].unlink()
    with pytest.raises(InputError, match="is damaged"):
        images.take(np.array([0]))
    np.testing.assert_array_equal(images[1], preprocess_bgr(load_image(files[1]), SMALL))


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"", None])
def test_a_damaged_memory_of_digests_costs_only_time(files, cache, content):
    cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    memo = cache / "file-digests.sqlite3"
    memo.unlink()
    memo.mkdir() if content is None else memo.write_bytes(content)
    assert cached_images(files, SMALL, cache_folder=CacheFolder(cache)).rows == tuple(range(6))
    assert cached_images(files, SMALL, cache_folder=CacheFolder(cache)).rows == tuple(range(6))


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
        got = cached_images(mixed, SMALL, cache_folder=CacheFolder(cache))
        assert got.rows == (1, 4, 5, 6, 7, 8)
        assert len(got.images) == len(got.digests) == 6
        assert [path for path, _ in got.unreadable] == bad
        words = ["0 bytes", "truncated", "text", "a folder", "dangling link"]
        assert [word in str(error) for word, (_, error) in zip(words, got.unreadable, strict=True)] == [True] * 5
        np.testing.assert_array_equal(got.images[0], preprocess_bgr(load_image(files[0]), SMALL))
    # Once mended, they count.
    bad[0].write_bytes(files[0].read_bytes())
    assert cached_images(mixed, SMALL, cache_folder=CacheFolder(cache)).rows == (0, 1, 4, 5, 6, 7, 8)


def test_a_file_that_failed_in_passing_is_tried_again(files, cache, monkeypatch):
    failures = [files[3]]

    def fail_once(path, **options):
        if path in failures:
            failures.remove(path)
            raise InputError(f"cannot read {path}", got="input/output error")
        return load_image(path, **options)

    monkeypatch.setattr(cache_module, "load_image", fail_once)
    first = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    assert [(path, "input/output error" in str(e)) for path, e in first.unreadable] == [(files[3], True)]
    second = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    assert (second.rows, second.unreadable) == (tuple(range(6)), ())


def test_a_file_that_changes_while_it_is_read_is_not_kept_under_its_old_digest(files, cache, monkeypatch):
    def change_and_load(path, **options):
        if path == files[3] and path.stat().st_size != files[4].stat().st_size:
            path.write_bytes(files[4].read_bytes())
        return load_image(path, **options)

    monkeypatch.setattr(cache_module, "load_image", change_and_load)
    first = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    assert [(path, "changed while it was read" in str(e)) for path, e in first.unreadable] == [(files[3], True)]
    second = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    assert (second.rows, second.unreadable) == (tuple(range(6)), ())
    np.testing.assert_array_equal(second.images[3], second.images[4])


def test_no_readable_image_is_an_error_and_leaves_nothing(files, cache):
    for path in files:
        path.write_bytes(b"")
    with pytest.raises(
        InputError, match=r"none of the 6 images can be read: got the first with: .*astronaut0\.jpg, 0 bytes"
    ):
        cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    assert stored_rows(cache) == [0]


def test_file_names_need_not_be_unicode(files, cache, tmp_path):
    odd = files[0].rename(tmp_path / "images" / "caf\udce9.jpg")
    for _ in range(2):
        assert cached_images([odd, *files[1:]], SMALL, cache_folder=CacheFolder(cache)).rows == tuple(range(6))


def test_a_cache_that_cannot_be_made_is_an_output_error(files, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        cached_images(files, SMALL, cache_folder=CacheFolder(tmp_path / "file" / "cache"))


SCRIPT = """
import resource, sys
from pathlib import Path
from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.pixels import cached_images
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
paths = [Path(p) for p in sys.argv[3:]]
try:
    images = cached_images(paths, Preprocess((64, 64)), cache_folder=CacheFolder(Path(sys.argv[2]))).images
except EdgeclfError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(int(__import__('numpy').asarray(images).astype(int).sum()))
"""


def test_a_full_disk_is_an_output_error_and_leaves_nothing_half_written(files, cache):
    # No file may pass 40,000 bytes; six images of 64 x 64 x 3 need 73,728.
    command = [sys.executable, "-c", SCRIPT, "40000", str(cache), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("OutputError: cannot write ")
    assert "free some space" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.stat().st_size for path in sorted(cache.glob("pixels-*"))] == [0, 0]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 40000


def test_three_processes_at_once_store_each_image_once(files, cache):
    command = [sys.executable, "-c", SCRIPT, "0", str(cache), *map(str, files)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=600)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(outputs) == 1
    assert stored_rows(cache) == [6]


@pytest.fixture
def decoded(monkeypatch):
    names = []

    def count(path, **options):
        names.append(path.name)
        return load_image(path, **options)

    monkeypatch.setattr(cache_module, "load_image", count)
    return names


def test_only_images_without_a_row_are_decoded(files, cache, decoded):
    first = cached_images(files[:4], SMALL, cache_folder=CacheFolder(cache))
    assert sorted(decoded) == sorted(path.name for path in files[:4])
    decoded.clear()
    more = cached_images([files[5], *files[1:4], files[4]], SMALL, cache_folder=CacheFolder(cache))
    assert sorted(decoded) == sorted([files[4].name, files[5].name])
    np.testing.assert_array_equal(more.images[1:4], first.images[1:4])
    np.testing.assert_array_equal(more.images[0], preprocess_bgr(load_image(files[5]), SMALL))
    decoded.clear()
    fewer = cached_images(files[2:], SMALL, cache_folder=CacheFolder(cache))
    assert decoded == []
    expected = np.stack([preprocess_bgr(load_image(path), SMALL) for path in files[2:]])
    np.testing.assert_array_equal(fewer.images, expected)
    # Another preprocessing shares nothing.
    cached_images(files[:2], Preprocess((16, 16)), cache_folder=CacheFolder(cache))
    assert len(decoded) == 2


def test_a_damaged_row_is_not_given_to_another_data_set(files, cache, decoded):
    cached_images(files[:4], SMALL, cache_folder=CacheFolder(cache))
    (pixels,) = cache.glob("pixels-*.array")
    flip(pixels)
    decoded.clear()
    again = cached_images(files, SMALL, cache_folder=CacheFolder(cache))
    assert len(decoded) == 2
    np.testing.assert_array_equal(again.images[0], preprocess_bgr(load_image(files[0]), SMALL))
    assert len(decoded) == 3
