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
