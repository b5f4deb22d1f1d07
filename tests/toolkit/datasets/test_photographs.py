"""Photographs for the export of others' models: which are read, and that names and folders do not matter."""

import shutil

import cv2
import numpy as np
import pytest

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import DatasetError, InputError
from edgeclf.runtime.spec import ModelSpec, Preprocess
from edgeclf.toolkit.export import photographs
from edgeclf.toolkit.export.photographs import load_photographs
from edgeclf.training.data.dataset import Sample
from edgeclf.training.data.seen_images import record_images

SPEC = ModelSpec(("day", "night"), Preprocess((8, 8)))


def write(folder, rng, count):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03d}.png"), rng.integers(0, 256, (10, 12, 3), np.uint8))
    return folder


def load(data, tmp_path, spec=SPEC, precision="int8", **options):
    cache = CacheFolder(tmp_path / "cache")
    return load_photographs(
        data, spec, precision=precision, calibration_images=256, cache_folder=cache, **options
    ).images


def contents(rows):
    return {image.tobytes() for image in rows[:]}


def parts(images):
    return [contents(images.training_rgb), contents(images.validation.images_rgb), contents(images.test.images_rgb)]


def test_names_folders_and_copies_do_not_change_the_division(tmp_path, rng):
    data = write(tmp_path / "one", rng, 40)
    before = load(data, tmp_path)
    assert [len(part) for part in parts(before)] == [16, 16, 8]
    assert before.validation.true_indices is None
    other = tmp_path / "other" / "deep"
    other.mkdir(parents=True)
    for number, file in enumerate(rng.permutation(sorted(data.iterdir()))):
        shutil.copy(file, other / f"p{number}.png")
        if number % 3 == 0:
            shutil.copy(file, other.parent / f"again{number}.png")
    assert parts(load(other.parent, tmp_path)) == parts(before)


def test_of_many_files_only_some_are_read_the_same_whatever_they_are_called(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(photographs, "_MOST_READ", 20)
    read = []
    digest_files = photographs.digest_files
    monkeypatch.setattr(
        photographs, "digest_files", lambda paths, *rest: read.append(len(paths)) or digest_files(paths, *rest)
    )
    data = write(tmp_path / "one", rng, 60)
    before = parts(load(data, tmp_path))
    assert read == [20]
    assert [len(part) for part in before] == [8, 8, 4]
    for number, file in enumerate(rng.permutation(sorted(data.iterdir()))):
        shutil.move(file, data / f"renamed{number}.png")
    assert parts(load(data, tmp_path)) == before


def test_what_trained_the_model_calibrates_and_what_it_never_saw_is_reported(tmp_path, rng):
    data = write(tmp_path / "data", rng, 30)
    files = sorted(data.iterdir())
    splits = ["train"] * 14 + ["val"] * 8 + [None] * 8
    digests = [file.digest for file in photographs.digest_files(files, tmp_path / "memo", 1, lambda *_: None)]
    samples = [Sample(str(file), "day", *its) for file, *its in zip(files, splits, digests, strict=True)]
    spec = SPEC.with_changes(seen_images=record_images(samples))
    images = load(data, tmp_path, spec)
    assert [len(part) for part in parts(images)] == [14, 8, 8]
    assert images.seen_images == spec.seen_images


def test_fp32_reads_no_image_to_calibrate_on_and_takes_few(tmp_path, rng):
    data = write(tmp_path / "data", rng, 3)
    images = load(data, tmp_path, precision="fp32")
    assert (images.training_count, images.seen_images, len(images.held_out()["validation"])) == (0, None, 2)
    with pytest.raises(DatasetError, match="got 3 different images, expected at least 10"):
        load(data, tmp_path)


def test_files_that_cannot_be_read_are_listed_and_never_alone(tmp_path, rng):
    data = write(tmp_path / "data", rng, 20)
    (data / "dangling.png").symlink_to(data / "nowhere.png")
    (data / "text.png").write_text("no image")
    images = load(data, tmp_path)
    assert {path.name for path, _ in images.unreadable} == {"dangling.png", "text.png"}
    for file in data.glob("0*.png"):
        file.write_text(f"no image {file.name}")
    with pytest.raises(InputError, match="can be read"):
        load(data, tmp_path)
