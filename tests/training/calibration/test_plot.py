"""The reliability diagram: whole, and honest about bins of few images."""

import cv2
import numpy as np
import pytest

from edgeclf.training.calibration.plot import plot_reliability
from edgeclf.training.calibration.temperature import fit_temperature, with_temperature

from ..pictures import TRAINING_BGR, VALIDATION_BGR, inked, margins


def guesses(count, classes, spread, sharpness):
    """Probabilities of a classifier, as sharp as it should be times `sharpness`, and the classes."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, spread, (count, classes))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = (rng.random((count, 1)) > np.cumsum(chances, axis=1)).sum(axis=1).clip(0, classes - 1)
    powers = np.exp(sharpness * logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), true


@pytest.mark.parametrize(
    ("count", "classes", "spread", "sharpness"),
    [(800, 2, 3, 3), (5000, 100, 2, 2), (10, 3, 2, 3), (1, 2, 1, 1), (300, 2, 200, 1), (49, 5, 1, 0.3)],
)
def test_a_reliability_diagram_is_drawn_whole(tmp_path, count, classes, spread, sharpness):
    before, true = guesses(count, classes, spread, sharpness)
    path = tmp_path / "reliability.png"
    plot_reliability(before, with_temperature(before, fit_temperature(before, true)), true, "Test images", path)
    image = cv2.imread(str(path))
    assert 500 < image.shape[1] < image.shape[0] < 900
    assert min(margins(image)) >= 4
    # Bars of the histogram, dots and the legend's line, of both.
    for colour in (TRAINING_BGR, VALIDATION_BGR):
        assert inked(image, colour) > 200


def test_few_images_in_a_bin_are_drawn_as_uncertain(tmp_path):
    """The same shares, of ten and of a thousand images: intervals that are long and short."""
    inks = []
    for images in (10, 1000):
        confidences = np.full(images, 0.7, np.float32)
        probabilities = np.stack([confidences, 1 - confidences], axis=1)
        true = (np.arange(images) % 10 >= 7).astype(np.int64)
        path = tmp_path / f"{images}.png"
        plot_reliability(probabilities, probabilities, true, "Test images", path)
        image = cv2.imread(str(path)).astype(int)
        # Pale where only the interval is: neither grey nor the full colour.
        inks.append(int(((image[..., 2] - image[..., 0] > 40) & (image[..., 0] > 100)).sum()))
    assert inks[0] > 1.5 * inks[1]
