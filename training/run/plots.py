"""The run folder's pictures: learning curves and the confusion matrix."""

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.runtime.metrics import ClassificationReport
from edgeclf.training.drawing import TRAINING_COLOUR, VALIDATION_COLOUR, new_figure, save_figure

# Beyond this many classes the numbers in the cells could not be read.
_MOST_NUMBERED_CLASSES = 25


def plot_curves(history: Sequence[dict[str, Any]], best_epoch: int, path: Path) -> None:
    """Draws loss and accuracy over the epochs.

    Args:
        history: One entry an epoch with `loss`, `accuracy`, `val_loss` and `val_accuracy`; where it has `stage`,
            a line marks each change of it.
        best_epoch: The epoch whose weights were kept, from 1; 0 where those from before the first were.
        path: The PNG file to write.
    """
    figure = new_figure((9.0, 3.6))
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    epochs = np.arange(1, len(history) + 1)
    changes = [row for before, row in itertools.pairwise(history) if before.get("stage") != row.get("stage")]
    for axes, name, title in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("Loss (cross-entropy)", "Accuracy"), strict=True
    ):
        marker = "o" if len(history) < 30 else None
        for key, label, colour in (
            (name, "training", TRAINING_COLOUR),
            (f"val_{name}", "validation", VALIDATION_COLOUR),
        ):
            axes.plot(epochs, [row[key] for row in history], color=colour, label=label, marker=marker, markersize=3)
        for row in changes:
            axes.axvline(row["epoch"] - 0.5, color="#94a3b8", linewidth=1)
            axes.annotate(
                str(row["stage"]),
                (row["epoch"] - 0.5, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                horizontalalignment="center",
                fontsize=8,
                color="#64748b",
            )
        axes.axvline(best_epoch, color="#94a3b8", linestyle="--", linewidth=1)
        # The names of stages stand between the title and the axes.
        axes.set_title(title, pad=14 if changes else 6)
        axes.set_xlabel(f"epoch (dashed: {best_epoch}, the one kept)")
        axes.set_xlim(min(1, best_epoch) - 0.5, len(history) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="best")
        axes.spines[["top", "right"]].set_visible(False)
    # Everything is inside the figure, and cropping it would draw it twice: it is drawn anew while training goes on.
    save_figure(figure, path, crop=False)


def plot_confusion(report: ClassificationReport, title: str, path: Path) -> None:
    """Draws a confusion matrix, each row scaled to the images of its class.

    Args:
        report: The figures.
        title: What they were measured on.
        path: The PNG file to write.
    """
    classes = len(report.labels)
    names = [_wrapped(label) for label in report.labels]
    matrix_inches = float(np.clip(0.45 * classes, 1.8, 14.0))
    font_size = float(np.clip(0.4 * 72 * matrix_inches / classes, 4.0, 9.0))
    longest = max(len(line) for name in names for line in name.split("\n"))
    upright = classes <= 3 and longest <= 8
    # A character is about 0.6 of the font's size wide; names take their room beside the matrix, never from it.
    names_inches = longest * 0.6 * font_size / 72
    below_inches = 0.2 if upright else names_inches
    figure = new_figure((matrix_inches + names_inches + 2.2, matrix_inches + below_inches + 1.3))
    axes = figure.subplots()
    totals = report.confusion.sum(axis=1, keepdims=True)
    shares = report.confusion / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap="Oranges", vmin=0.0, vmax=1.0)
    if classes <= _MOST_NUMBERED_CLASSES:
        for row in range(classes):
            for column in range(classes):
                axes.text(
                    column,
                    row,
                    str(report.confusion[row, column]),
                    ha="center",
                    va="center",
                    fontsize=9 if classes <= 12 else 6,
                    color="white" if shares[row, column] > 0.6 else "#1f2937",
                )
    # Names are not formulas, whatever dollar signs they have.
    axes.set_xticks(
        range(classes),
        names,
        rotation=0 if upright else 90,
        parse_math=False,
    )
    axes.set_yticks(range(classes), names, parse_math=False)
    axes.tick_params(labelsize=font_size, length=0)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{title}\naccuracy {report.accuracy:.4f} on {report.count} images", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    save_figure(figure, path)


def _wrapped(label: str) -> str:
    """The whole of a class name, on several lines where it is long."""
    return "\n".join(textwrap.wrap(label, 24, break_on_hyphens=False)) or label
