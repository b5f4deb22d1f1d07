import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.spec import ModelSpec, Preprocess
from edgeclf.training.data.dataset import Sample
from edgeclf.training.run.export_inputs import export_images

from ...randomness import fresh_rng

LABELS = ("day", "night")
SPEC = ModelSpec(LABELS, Preprocess((16, 24)), architecture="tiny")


@pytest.fixture
def samples(tmp_path):
    """Twelve images: six to train, four to validate, two to test; of each split half are of either class."""
    rng = fresh_rng()
    samples = []
    for number, split in enumerate(["train"] * 6 + ["val"] * 4 + ["test"] * 2):
        label = LABELS[number % 2]
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 256, (20, 30, 3), np.uint8))
        samples.append(Sample(f"{number}.png", label, split))
    return samples


def images_of(samples, root):
    return export_images(samples, root, SPEC, cache_folder=CacheFolder(root / "cache"))


def pixels(path):
    return preprocess_bgr(load_image(path), SPEC.preprocess)


def test_images_are_those_of_each_split_with_their_classes(samples, tmp_path):
    images = images_of(samples, tmp_path)
    for split, numbers in ((images.validation, range(6, 10)), (images.test, range(10, 12))):
        np.testing.assert_array_equal(split.images_rgb[:], [pixels(tmp_path / f"{number}.png") for number in numbers])
        assert split.true_indices.tolist() == [number % 2 for number in numbers]
    np.testing.assert_array_equal(images.training_rgb[2:4], [pixels(tmp_path / f"{number}.png") for number in (2, 3)])
    np.testing.assert_array_equal(images.training_rgb[np.array([5, 0])][1], pixels(tmp_path / "0.png"))
    assert list(images.held_out()) == ["validation", "test"]
    assert images.unreadable == ()


def test_training_images_are_sampled_without_repetition_and_alike_each_time(samples, tmp_path):
    images = images_of(samples, tmp_path)
    sample = images.sample_training(4)
    assert sample.shape == (4, 16, 24, 3)
    assert len({image.tobytes() for image in sample}) == 4
    assert {image.tobytes() for image in sample} <= {
        pixels(tmp_path / f"{number}.png").tobytes() for number in range(6)
    }
    np.testing.assert_array_equal(sample, images.sample_training(4))
    assert len(images.sample_training(99)) == 6


def test_unreadable_images_are_listed_and_their_neighbours_keep_their_classes(samples, tmp_path):
    (tmp_path / "7.png").write_bytes(b"no image")
    (tmp_path / "10.png").unlink()
    (tmp_path / "11.png").unlink()
    images = images_of(samples, tmp_path)
    assert sorted(path.name for path, _ in images.unreadable) == ["10.png", "11.png", "7.png"]
    assert images.validation.true_indices.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(images.validation.images_rgb[1:2][0], pixels(tmp_path / "8.png"))
    # A split without images is none.
    assert list(images.held_out()) == ["validation"]


def digest_of(path):
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def test_images_that_changed_are_left_out_and_counted(samples, tmp_path):
    samples = [replace(sample, digest=digest_of(tmp_path / sample.path)) for sample in samples]
    assert images_of(samples, tmp_path).changed == 0
    for number in (0, 7, 11):
        cv2.imwrite(str(tmp_path / f"{number}.png"), fresh_rng().integers(0, 256, (20, 30, 3), np.uint8))
    images = images_of(samples, tmp_path)
    assert images.changed == 3
    assert (images.training_count, len(images.validation), len(images.test)) == (5, 3, 1)
    np.testing.assert_array_equal(images.validation.images_rgb[:], [pixels(tmp_path / f"{n}.png") for n in (6, 8, 9)])
    assert images.validation.true_indices.tolist() == [0, 0, 1]
    # An earlier version recorded no digests: nothing can be said.
    assert images_of([replace(sample, digest=None) for sample in samples], tmp_path).changed == 0


def test_files_that_were_renamed_are_what_their_content_was_in_the_training(samples, tmp_path):
    samples = [replace(sample, digest=digest_of(tmp_path / sample.path)) for sample in samples]
    before = images_of(samples, tmp_path)
    # A training image takes the name of a validation image of the other class, and the other way round.
    first, second = tmp_path / "0.png", tmp_path / "9.png"
    first.rename(tmp_path / "aside.png")
    second.rename(first)
    (tmp_path / "aside.png").rename(second)
    images = images_of(samples, tmp_path)
    assert images.changed == 0
    known = {
        pixels.tobytes(): true
        for pixels, true in zip(before.validation.images_rgb[:], before.validation.true_indices, strict=True)
    }
    now = {
        pixels.tobytes(): true
        for pixels, true in zip(images.validation.images_rgb[:], images.validation.true_indices, strict=True)
    }
    assert now == known
    assert images.training_count == 6
