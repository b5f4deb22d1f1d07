"""Facts of data sets of every layout, broken ones among them."""

import os

import cv2
import numpy as np
import pytest

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.progress import no_progress
from edgeclf.toolkit.doctor.facts import NO_SPLIT, THUMBNAIL, Facts
from edgeclf.toolkit.doctor.gather import thumbnails
from edgeclf.toolkit.doctor.gather.data import gather_data, sample_rows
from edgeclf.toolkit.doctor.gather.properties import PROPERTIES
from edgeclf.toolkit.doctor.gather.thumbnails import ScanCache, scan_images


def test_every_image_has_a_row(write_folder, gather):
    root = write_folder({"train/cat": 5, "train/dog": 4, "test/cat": 3, "test/dog": 2})
    data = gather(root).data
    images = data.images
    assert data.classes == ("cat", "dog")
    assert data.has_splits
    assert data.refusal is None
    assert [len(images.rows_of(part)) for part in ("train", "val", "test")] == [9, 0, 5]
    assert [data.classes[label] for label in images.labels] == [path.split("/")[1] for path in images.paths]
    assert set(images.properties) == set(PROPERTIES)
    row = int(np.random.default_rng(0).integers(len(images)))
    picture = cv2.imread(str(root / images.paths[row]))
    assert images.properties["brightness"][row] == pytest.approx(
        cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).mean(), abs=1
    )
    expected = cv2.resize(picture, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    assert np.array_equal(images.thumbnails[row], expected)


def test_files_that_cannot_be_read_are_listed_with_the_reason(write_folder, gather):
    root = write_folder({"cat": 6, "dog": 6})
    good = (root / "cat/0000.jpg").read_bytes()
    (root / "cat/short.jpg").write_bytes(good[: len(good) // 2])
    (root / "cat/empty.jpg").write_bytes(b"")
    (root / "dog/text.jpg").write_text("nothing")
    (root / "dog/folder.jpg").mkdir()
    (root / "dog/dangling.jpg").symlink_to(root / "nowhere.jpg")
    data = gather(root).data
    reasons = dict(data.unreadable)
    assert reasons["cat/empty.jpg"] == "0 bytes"
    assert reasons["cat/short.jpg"].startswith("a truncated JPEG")
    assert reasons["dog/text.jpg"] == "text"
    assert reasons["dog/folder.jpg"] == "a folder"
    assert reasons["dog/dangling.jpg"] == "a dangling link"
    assert len(reasons) == 5
    assert len(data.images) == len(data.images.thumbnails) == len(data.images.digests) == 12
    assert all(len(values) == 12 for values in data.images.properties.values())


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert thumbnails.scan_image(tmp_path / "pipe.jpg") == "a device or a pipe"


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"cat": 5}, "has one class only"),
        ({"train/cat": 5, "train/dog": 5, "test/cat": 5}, "have different classes"),
        ({"cat": 5, "dog": 5, "Cat": 5}, "have the same name"),
        ({"cat": 5, "dog": 0}, "has one class only"),
        ({"cat": 5, "dog": 5, "cow": 0}, "has no image"),
        ({"cat": 2, "dog": 9}, "too few images of class 'cat'"),
        ({"": 5}, "no labelled images"),
        ({"train/cat": 5, "test/cat": 5, "other": 5}, "mixes train/, test/ and other folders"),
    ],
)
def test_what_training_refuses_is_a_fact(write_folder, gather, counts, sentence):
    root = write_folder(counts)
    data = gather(root).data
    assert sentence in data.refusal
    assert len(data.images) == sum(counts.values())


def test_a_class_that_has_no_readable_image_left_is_refused(write_folder, gather):
    root = write_folder({"train/cat": 5, "train/dog": 5, "test/cat": 5, "test/dog": 5})
    assert gather(root).data.refusal is None
    for path in (root / "train/dog").iterdir():
        path.write_bytes(b"no image")
    assert "class 'dog' has no readable train image" in gather(root).data.refusal


def test_images_without_classes_have_rows_without_labels(write_folder, gather):
    data = gather(write_folder({"": 5})).data
    assert data.classes == ()
    assert set(data.images.labels.tolist()) == {-1}
    assert set(data.images.splits.tolist()) == {NO_SPLIT}


def test_nothing_to_look_at_is_an_error(tmp_path, gather):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no data set")
    for name in ("empty", "missing", "notes.txt", "x" * 3000):
        with pytest.raises(DatasetError):
            gather(tmp_path / name)


def test_a_csv_is_data_and_a_broken_one_a_refusal(write_folder, gather):
    root = write_folder({"": 8})
    names = sorted(path.name for path in root.iterdir())
    rows = [f"{name},{'cat' if number % 2 else 'dog'}" for number, name in enumerate(names)]
    (root / "good.csv").write_text("\n".join(["path,label", *rows, "gone.jpg,cat"]))
    (root / "bad.csv").write_text("\n".join(["path,label", *rows, rows[0]]))
    data = gather(root / "good.csv").data
    assert (data.classes, len(data.images), data.unreadable[0][0]) == (("cat", "dog"), 8, "gone.jpg")
    data = gather(root / "bad.csv").data
    assert "repeats an image" in data.refusal
    assert (data.classes, len(data.images)) == ((), 0)


def test_a_sample_has_every_class_and_says_of_how_many(write_folder, gather):
    root = write_folder({"train/cat": 30, "train/dog": 6, "test/cat": 12, "test/dog": 3})
    data = gather(root, max_images=17).data
    assert data.sampled_from == 51
    assert len(data.images) <= 17
    assert {(p.split("/")[0], p.split("/")[1]) for p in data.images.paths} == {
        ("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog"),
    }  # fmt: skip
    assert gather(root, max_images=51).data.sampled_from is None


def test_samples_follow_the_seed_and_the_shares(rng):
    labels, parts = rng.integers(0, 3, 3000), rng.integers(0, 2, 3000)
    first, again, other = (sample_rows(labels, parts, 600, seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 590 <= len(first) <= 600
    assert np.array_equal(first, np.unique(first))
    for label in range(3):
        assert (labels[first] == label).mean() == pytest.approx((labels == label).mean(), abs=0.01)


def test_images_seen_before_are_not_measured_again(write_folder, monkeypatch):
    root = write_folder({"cat": 5, "dog": 5})
    scan_cache = ScanCache()
    paths = sorted(root.rglob("*.jpg"))
    first = scan_images(paths, no_progress, scan_cache)
    monkeypatch.setattr(thumbnails, "measure_properties", None)  # to be called would be an error
    second = scan_images(paths, no_progress, scan_cache)
    assert np.array_equal(first.thumbnails, second.thumbnails)
    assert all(np.array_equal(first.properties[k], second.properties[k], equal_nan=True) for k in PROPERTIES)


def test_thousands_of_images_take_bounded_memory(tmp_path, rng):
    import resource

    tile = rng.integers(0, 256, (300, 300, 3), np.uint8)
    (tmp_path / "cat").mkdir()
    data = cv2.imencode(".bmp", tile)[1].tobytes()  # 270 KB decoded and on disk, 135 MB for all
    for number in range(500):
        (tmp_path / "cat" / f"{number}.bmp").symlink_to(tmp_path / "tile.bmp")
    (tmp_path / "tile.bmp").write_bytes(data)
    paths = sorted((tmp_path / "cat").iterdir())
    scan_images(paths[:30], no_progress)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    looked = scan_images(paths, no_progress, None)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert len(looked.rows) == 500
    # The thumbnails are 6 MB on disk.
    assert grown_mb < 40


def test_features_are_those_of_the_images(write_folder, tmp_path):
    root = write_folder({"cat": 4, "dog": 4})
    scan_cache = ScanCache()
    data = gather_data(root, cache_folder=CacheFolder(tmp_path / "cache"), scan_cache=scan_cache, progress=no_progress)
    assert isinstance(Facts(data), Facts)
    assert data.features.vectors.shape == (8, 1280)
    assert data.features.rows.tolist() == list(range(8))
    # One image more: the others' vectors come from memory, in the right places.
    cv2.imwrite(str(root / "cat/0001b.jpg"), cv2.imread(str(root / "cat/0001.jpg"))[::-1])
    more = gather_data(root, cache_folder=CacheFolder(tmp_path / "cache2"), scan_cache=scan_cache, progress=no_progress)
    alone = gather_data(root, cache_folder=CacheFolder(tmp_path / "cache3"), progress=no_progress)
    assert more.images.paths[2] == "cat/0001b.jpg"
    assert np.allclose(more.features.vectors, alone.features.vectors, atol=1e-4)
    assert np.array_equal(np.delete(more.features.vectors, 2, axis=0), data.features.vectors)


def test_fewer_images_are_shown_than_looked_at(write_folder, tmp_path):
    root = write_folder({"cat": 6, "dog": 6})
    data = gather_data(root, max_features=4, cache_folder=CacheFolder(tmp_path / "cache"), progress=no_progress)
    assert len(data.images) == 12
    assert len(data.features.rows) == len(data.features.vectors) == 4
    assert set(data.images.labels[data.features.rows].tolist()) == {0, 1}
