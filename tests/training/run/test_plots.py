"""The pictures of a run: whole, legible, and with every name on them."""

import cv2
import numpy as np
import pytest

from edgeclf.runtime.metrics import classification_report
from edgeclf.training.calibration.temperature import fit_temperature, with_temperature
from edgeclf.training.fit.lr_finder import LrSweep
from edgeclf.training.plots import plot_confusion, plot_curves, plot_find_lr, plot_reliability

TRAINING_BGR, VALIDATION_BGR = (0xA3, 0x8B, 0x7A), (0x0C, 0x41, 0xC2)


def report(labels, images=20):
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(len(labels)), images)
    probabilities = rng.random((len(true), len(labels))) * 0.8
    probabilities[np.arange(len(true)), true] += 0.5
    return classification_report(probabilities / probabilities.sum(axis=1, keepdims=True), true, labels)


def margins(image):
    """Widths of the white borders: top, bottom, left, right."""
    ink = (image < 250).any(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return rows[0], image.shape[0] - 1 - rows[-1], columns[0], image.shape[1] - 1 - columns[-1]


@pytest.mark.parametrize(
    ("labels", "largest"),
    [
        (("cat", "dog"), 700),
        (tuple(f"class {n}" for n in range(12)), 1400),
        (tuple(f"class {n}" for n in range(40)), 2500),
        (("a long name of a class that somebody gave to a folder of photographs", "dog"), 1400),
        (("$not a formula_{$", "mu\u00dfte \u2713 \u732b"), 700),
        (tuple(f"an unusually long class name, number {n}" for n in range(12)), 1800),
    ],
)
def test_a_confusion_matrix_is_drawn_whole(tmp_path, labels, largest):
    path = tmp_path / "confusion.png"
    plot_confusion(report(labels), "Test images", path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    image = cv2.imread(str(path))
    assert min(image.shape[:2]) > 300
    assert max(image.shape[:2]) <= largest
    # Nothing that is cut off by the border: the border is white.
    assert min(margins(image)) >= 4
    # The largest share of the picture is the matrix, not white paper.
    assert (image < 250).any(axis=2).mean() > 0.15


def inked(image, colour_bgr):
    """How many pixels have nearly this colour."""
    return int((np.abs(image.astype(int) - colour_bgr).sum(axis=2) < 30).sum())


def curves(epochs, stages=("fit",)):
    return [
        {
            "epoch": n,
            "stage": stages[(n - 1) * len(stages) // epochs],
            "loss": 1 / n,
            "accuracy": 1 - 1 / (n + 1),
            "val_loss": 0.5 + n / 50,
            "val_accuracy": 0.7,
        }
        for n in range(1, epochs + 1)
    ]


@pytest.mark.parametrize(("epochs", "best"), [(1, 1), (2, 1), (60, 1), (60, 60), (4, 0)])
def test_curves_are_drawn_whole(tmp_path, epochs, best):
    path = tmp_path / "curves.png"
    plot_curves(curves(epochs), best, path)
    image = cv2.imread(str(path))
    assert image.shape[1] > 2 * image.shape[0] > 600
    assert min(margins(image)) >= 4
    for colour in (TRAINING_BGR, VALIDATION_BGR):
        assert inked(image, colour) > 20


def test_a_change_of_stage_is_a_line_in_both_curves(tmp_path):
    pictures = {}
    for stages in (("head",), ("head", "fine-tune")):
        path = tmp_path / f"{len(stages)}.png"
        plot_curves(curves(40, stages), 40, path)
        pictures[len(stages)] = cv2.imread(str(path))
    assert min(margins(pictures[2])) >= 4
    columns = {}
    for count, image in pictures.items():
        line = np.abs(image.astype(int) - (0xB8, 0xA3, 0x94)).sum(axis=2) < 60
        # The dashed line of the kept epoch has gaps.
        columns[count] = np.flatnonzero(line.mean(axis=0) > 0.68) / image.shape[1]
    assert len(columns[1]) == 0
    left, right = columns[2][columns[2] < 0.5], columns[2][columns[2] >= 0.5]
    assert 0.2 < left.mean() < 0.35
    assert 0.7 < right.mean() < 0.85


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


def test_a_sweep_is_drawn_whole_and_its_explosion_does_not_flatten_it(tmp_path):
    rates = np.geomspace(1e-6, 1, 100)
    position = np.log10(rates)
    losses = 0.7 - 0.5 / (1 + np.exp(-3 * (position + 3.5))) + np.where(position > -1, 40 * (position + 1) ** 2, 0)
    path = tmp_path / "lr.png"
    heights = []
    for end in (80, 100):
        plot_find_lr(LrSweep(rates[:end], losses[:end], losses[:end], 3e-4), path)
        image = cv2.imread(str(path))
        assert min(margins(image)) >= 4
        plot = image[:, image.shape[1] // 4 : image.shape[1] * 7 // 10]
        heights.append(np.ptp(np.flatnonzero((np.abs(plot.astype(int) - VALIDATION_BGR).sum(axis=2) < 30).any(axis=1))))
    assert heights[1] > 0.9 * heights[0] > 150
