"""The pictures of a run: whole, legible, and with every name on them."""

import cv2
import numpy as np
import pytest

from edgeclf.runtime.metrics import classification_report
from edgeclf.training.run.plots import plot_confusion, plot_curves

from ..pictures import TRAINING_BGR, VALIDATION_BGR, inked, margins


def report(labels, images=20):
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(len(labels)), images)
    probabilities = rng.random((len(true), len(labels))) * 0.8
    probabilities[np.arange(len(true)), true] += 0.5
    return classification_report(probabilities / probabilities.sum(axis=1, keepdims=True), true, labels)


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
