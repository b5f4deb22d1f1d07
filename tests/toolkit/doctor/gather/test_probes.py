"""The doctor's experiments: a linear probe as baseline, and perturbed images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from edgeclf.toolkit.doctor.gather.probes import PERTURBATIONS, measure_linear_probe, perturb_images


def features(seed, count=120, classes=2, apart=2.0, width=400):
    """More features than images, as a pretrained network gives; a few of them tell the classes apart."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    vectors = rng.normal(0, 1, (count, width))
    vectors[:, :classes] += apart * np.eye(classes)[labels] * 2
    return vectors.astype(np.float32), labels, np.arange(count) < count * 2 // 3


@settings(derandomize=True, max_examples=30)
@given(seed=st.integers(0, 1 << 30), classes=st.integers(2, 5))
def test_classes_that_features_tell_apart_are_told_apart_and_shuffled_ones_are_not(seed, classes):
    vectors, labels, training = features(seed, 300, classes, 4.0, 60)
    found = measure_linear_probe(vectors, labels, training, classes)
    assert found["training_accuracy"] > 0.9
    assert found["validation_accuracy"] > 0.9
    assert (found["training_images"], found["validation_images"]) == (200, 100)
    shuffled = np.random.default_rng(seed).permutation(labels)
    guessing = measure_linear_probe(vectors, shuffled, training, classes)
    assert guessing["training_accuracy"] < 1 / classes + 0.2


def test_the_left_out_figures_are_those_of_leaving_out():
    vectors, labels, training = features(1, 40, 3)
    found = measure_linear_probe(vectors, labels, training, 3)
    # By hand, with the same ridge, centre and scale.
    own = vectors[training]
    scaled = ((own - own.mean(axis=0)) / (own.std(axis=0) + 1e-6)).astype(np.float64)
    targets = np.eye(3)[labels[training]]
    ridge = 0.1 * np.trace(scaled @ scaled.T) / len(scaled)
    right = 0
    for row in range(len(scaled)):
        rest = np.arange(len(scaled)) != row
        gram = scaled[rest] @ scaled[rest].T + ridge * np.eye(rest.sum())
        dual = np.linalg.solve(gram, targets[rest] - targets.mean(axis=0))
        scores = scaled[row] @ scaled[rest].T @ dual + targets.mean(axis=0)
        right += scores.argmax() == labels[training][row]
    assert found["training_accuracy"] == pytest.approx(right / len(scaled))


def test_no_validation_images_are_no_obstacle():
    vectors, labels, _ = features(2, 50)
    found = measure_linear_probe(vectors, labels, np.ones(50, bool), 2)
    assert "validation_accuracy" not in found


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("side", [32, 120, 224])
def test_changes_are_mild_and_do_what_they_say(name, side):
    rng = np.random.default_rng(0)
    photo = data.astronaut()
    top, left = rng.integers(0, 512 - side, 2)
    image = np.stack([photo[top : top + side, left : left + side], photo[:side, :side]])
    before = image.copy()
    changed = perturb_images(image, name, seed=3)
    assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, before)
    assert not np.array_equal(changed, image)
    assert np.array_equal(changed, perturb_images(image, name, seed=3))
    assert 10 * np.log10(255**2 / np.mean((changed.astype(float) - image) ** 2)) > 20 or name.startswith(
        ("shift", "crop", "bright")
    )
    ratio = changed.mean() / image.mean()
    wanted = {"brightness x0.8": 0.8, "brightness x1.25": 1.25}.get(name, 1.0)
    assert ratio == pytest.approx(wanted, rel=0.15)
    # Colours stay in their places.
    assert np.argmax(np.abs(changed.mean(axis=(0, 1, 2)) / wanted - image.mean(axis=(0, 1, 2)))) in {0, 1, 2}
    assert np.abs(changed.mean(axis=(0, 1, 2)) / wanted - image.mean(axis=(0, 1, 2))).max() < 25
