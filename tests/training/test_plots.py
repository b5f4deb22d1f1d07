"""The pictures of a run: whole, legible, and with every name on them."""

import cv2
import numpy as np
import pytest

from edgeclf.runtime.metrics import classification_report
from edgeclf.training.plots import plot_confusion, plot_curves


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


@pytest.mark.parametrize("epochs", [1, 2, 60])
def test_curves_are_drawn_whole(tmp_path, epochs):
    path = tmp_path / "curves.png"
    history = [
        {"loss": 1 / n, "accuracy": 1 - 1 / (n + 1), "val_loss": 0.5 + n / 50, "val_accuracy": 0.7}
        for n in range(1, epochs + 1)
    ]
    plot_curves(history, 1, path)
    image = cv2.imread(str(path))
    assert image.shape[1] > 2 * image.shape[0] > 600
    assert min(margins(image)) >= 4
    # Both curves are there, in their colours (BGR).
    for colour in ((0xA3, 0x8B, 0x7A), (0x0C, 0x41, 0xC2)):
        assert (np.abs(image.astype(int) - colour).sum(axis=2) < 30).sum() > 20
