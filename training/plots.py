"""The run folder's pictures: learning curves and the confusion matrix."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.runtime.errors import MissingPackageError
from edgeclf.runtime.metrics import ClassificationReport

_TRAIN_COLOUR, _VAL_COLOUR = "#7a8ba3", "#c2410c"
# Beyond this many classes the numbers in the cells could not be read.
_MOST_NUMBERED_CLASSES = 25


def plot_curves(history: Sequence[dict[str, float]], best_epoch: int, path: Path) -> None:
    """Draws loss and accuracy over the epochs.

    Args:
        history: One entry an epoch with `loss`, `accuracy`, `val_loss` and `val_accuracy`.
        best_epoch: The epoch whose weights were kept, from 1.
        path: The PNG file to write.
    """
    figure = _figure((9.0, 3.6))
    epochs = np.arange(1, len(history) + 1)
    for axes, name, title in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("Loss (cross-entropy)", "Accuracy"), strict=True
    ):
        marker = "o" if len(history) < 30 else None
        for key, label, colour in ((name, "training", _TRAIN_COLOUR), (f"val_{name}", "validation", _VAL_COLOUR)):
            axes.plot(epochs, [row[key] for row in history], color=colour, label=label, marker=marker, markersize=3)
        axes.axvline(best_epoch, color="#94a3b8", linestyle="--", linewidth=1)
        axes.annotate(
            f"kept: epoch {best_epoch}",
            (best_epoch, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3 if best_epoch <= len(history) / 2 else -3, -10),
            textcoords="offset points",
            horizontalalignment="left" if best_epoch <= len(history) / 2 else "right",
            fontsize=8,
            color="#64748b",
        )
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="best")
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


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
    figure = _figure((matrix_inches + names_inches + 2.2, matrix_inches + below_inches + 1.3))
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
    _save(figure, path)


def _wrapped(label: str) -> str:
    """The whole of a class name, on several lines where it is long."""
    return "\n".join(textwrap.wrap(label, 24, break_on_hyphens=False)) or label


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401
    with warnings.catch_warnings():
        # A character that matplotlib's font lacks becomes a box, which is nothing to stop or to tell a user about.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, dpi=120, bbox_inches="tight", pad_inches=0.12)


def import_figure() -> Any:  # noqa: ANN401 - matplotlib's class, used only here
    """Imports what the pictures are drawn with, so that a missing package is known before there is anything to draw.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "matplotlib cannot be loaded",
            got=str(error),
            expected="the packages of the extra [train]",
            do='run pip install "edgeclf[headless,train]"',
        ) from error
    return Figure


def _figure(size_inches: tuple[float, float]) -> Any:  # noqa: ANN401
    # A Figure without pyplot draws with the Agg backend, needs no display, and leaves no global state.
    return import_figure()(figsize=size_inches, layout="constrained")
