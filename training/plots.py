"""The run folder's pictures: learning curves, the confusion matrix, reliability, a learning-rate sweep."""

import itertools
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.errors import MissingPackageError
from edgeclf.runtime.metrics import (
    CALIBRATION_BINS,
    Z_95,
    ClassificationReport,
    calibration_bins,
    expected_calibration_error,
    wilson_interval,
)
from edgeclf.training.fit.lr_finder import LrSweep

_TRAIN_COLOUR, _VAL_COLOUR = "#7a8ba3", "#c2410c"
# Beyond this many classes the numbers in the cells could not be read.
_MOST_NUMBERED_CLASSES = 25
# From here on a bar of one image would vanish on a linear axis.
_MOST_LINEAR_IMAGES = 50


def plot_curves(history: Sequence[dict[str, Any]], best_epoch: int, path: Path) -> None:
    """Draws loss and accuracy over the epochs.

    Args:
        history: One entry an epoch with `loss`, `accuracy`, `val_loss` and `val_accuracy`; where it has `stage`,
            a line marks each change of it.
        best_epoch: The epoch whose weights were kept, from 1; 0 where those from before the first were.
        path: The PNG file to write.
    """
    figure = _figure((9.0, 3.6))
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    epochs = np.arange(1, len(history) + 1)
    changes = [row for before, row in itertools.pairwise(history) if before.get("stage") != row.get("stage")]
    for axes, name, title in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("Loss (cross-entropy)", "Accuracy"), strict=True
    ):
        marker = "o" if len(history) < 30 else None
        for key, label, colour in ((name, "training", _TRAIN_COLOUR), (f"val_{name}", "validation", _VAL_COLOUR)):
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
    _save(figure, path, crop=False)


def plot_recipes(points: Sequence[tuple[str, float, float, bool]], min_agreement: float, path: Path) -> None:
    """Draws what int8 recipes cost and what they keep.

    Args:
        points: Name, latency as a multiple of fp32, share of images with the same label as the reference, and whether no
            other is better in both, of each model.
        min_agreement: The share that was asked for.
        path: The PNG file to write.
    """
    figure = _figure((7.5, 4.0))
    axes = figure.subplots()
    axes.axhline(min_agreement, color="#94a3b8", linestyle="--", linewidth=1)
    for number, (name, ratio, agreement, best) in enumerate(points, start=1):
        colour = _VAL_COLOUR if best else _TRAIN_COLOUR
        # Names of layers are not formulas, whatever dollar signs they have.
        label = f"{number}  {textwrap.shorten(name, 60).replace('$', chr(92) + '$')}{' (none better)' if best else ''}"
        axes.plot([ratio], [agreement], "o", color=colour, label=label)
        axes.annotate(str(number), (ratio, agreement), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("latency, fp32 = 1")
    axes.set_ylabel("same label as the reference")
    axes.set_title(f"int8 recipes (dashed: {min_agreement:g}, asked for)")
    axes.grid(alpha=0.25)
    axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.16))
    _save(figure, path)


def plot_layers(layers: Sequence[tuple[int, float | None, float | None]], path: Path) -> None:
    """Draws the signal-to-quantization-noise ratios of an int8 file's layers.

    Args:
        layers: Position from 1, ratio of the weights and of the outputs in decibels, None where there is none, of each.
        path: The PNG file to write.
    """
    figure = _figure((9.0, 3.6))
    axes = figure.subplots()
    for column, label, colour in ((1, "weights", _TRAIN_COLOUR), (2, "outputs", _VAL_COLOUR)):
        values = [(item[0], item[column]) for item in layers if item[column] is not None]
        axes.plot([x for x, _ in values], [y for _, y in values], color=colour, label=label, marker="o", markersize=3)
    axes.set_xlabel("layer, in order of execution")
    axes.set_ylabel("signal to noise (dB)")
    axes.set_title("Precision of the int8 layers next to float")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
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


def plot_find_lr(sweep: LrSweep, path: Path) -> None:
    """Draws a learning-rate sweep: the loss of each step, its running mean, and the suggestion.

    Args:
        sweep: The sweep.
        path: The PNG file to write.
    """
    figure = _figure((6.5, 3.8))
    axes = figure.subplots()
    axes.plot(
        sweep.learning_rates, sweep.losses, color=_TRAIN_COLOUR, alpha=0.4, linewidth=1, label="loss of the batch"
    )
    axes.plot(sweep.learning_rates, sweep.smoothed, color=_VAL_COLOUR, label="running mean")
    axes.axvline(sweep.suggestion, color="#94a3b8", linestyle="--", linewidth=1)
    axes.annotate(
        f"suggested: {sweep.suggestion:.1e}",
        (sweep.suggestion, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, -10),
        textcoords="offset points",
        fontsize=8,
        color="#64748b",
    )
    # The explosion at the end must not flatten what comes before it.
    bottom, top = float(sweep.smoothed.min()), float(max(sweep.smoothed[0], np.percentile(sweep.losses, 75)))
    margin = 0.25 * (top - bottom) + 1e-6
    axes.set_ylim(max(bottom - margin, -0.1 * margin), top + margin)
    axes.set_xscale("log")
    axes.set(title="Learning-rate sweep", xlabel="learning rate", ylabel="loss (cross-entropy)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower left", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_reliability(
    before: npt.NDArray[np.float32],
    after: npt.NDArray[np.float32],
    true_indices: npt.NDArray[np.int64],
    title: str,
    path: Path,
) -> None:
    """Draws how often predictions of each confidence are right, before and after the temperature.

    Each dot is a bin of confidences; its bar is the 95 % interval (Wilson 1927) of the share that would be right among
    many such images, so that a bin of few looks like one.

    Args:
        before: (N, C) probabilities at temperature 1.
        after: (N, C) probabilities at the fitted temperature.
        true_indices: (N,) the class of each image.
        title: What they were measured on.
        path: The PNG file to write.
    """
    figure = _figure((5.4, 6.0))
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color="#94a3b8", linestyle="--", linewidth=1)
    width = 1.0 / CALIBRATION_BINS
    most = 0
    for probabilities, name, colour, shift in (
        (before, "before", _TRAIN_COLOUR, -0.5),
        (after, "after", _VAL_COLOUR, 0.5),
    ):
        confidences, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == true_indices
        counts, means, shares = calibration_bins(confidences, correct)
        error = expected_calibration_error(confidences, correct)
        there = counts > 0
        intervals = [
            wilson_interval(share * count, int(count), z=Z_95)
            for share, count in zip(shares[there], counts[there], strict=True)
        ]
        lows, highs = np.transpose(intervals)
        upper.vlines(means[there], lows, highs, color=colour, linewidth=1.5, alpha=0.35)
        upper.plot(means[there], shares[there], color=colour, linewidth=1, alpha=0.6)
        upper.scatter(
            means[there],
            shares[there],
            s=8 + 60 * counts[there] / counts.max(),
            color=colour,
            alpha=0.8,
            linewidths=0,
            zorder=3,
            clip_on=False,
        )
        # A handle of its own: the dots have different sizes.
        upper.plot([], [], "o-", color=colour, linewidth=1, label=f"{name} temperature: calibration error {error:.4f}")
        centres = (np.arange(CALIBRATION_BINS) + 0.5) * width
        lower.bar(centres + shift * 0.4 * width, counts, 0.4 * width, color=colour)
        most = max(most, int(counts.max()))
    upper.set(ylabel="share that is right", xlim=(0, 1.01), ylim=(0, 1.01))
    figure.suptitle(f"{title}: {len(true_indices)} images", fontsize=10)
    # Beside the diagram: inside, a curve may go anywhere.
    upper.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, fontsize=8)
    lower.set(xlabel="confidence", ylabel="images")
    if most > _MOST_LINEAR_IMAGES:
        lower.set_yscale("symlog", linthresh=10)
        lower.set_ylim(0, 2 * most)
        lower.yaxis.get_major_locator().set_params(numticks=6)
    else:
        lower.yaxis.get_major_locator().set_params(integer=True)
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path, crop=False)


def _wrapped(label: str) -> str:
    """The whole of a class name, on several lines where it is long."""
    return "\n".join(textwrap.wrap(label, 24, break_on_hyphens=False)) or label


def _save(figure: Any, path: Path, *, crop: bool = True) -> None:  # noqa: ANN401
    with warnings.catch_warnings():
        # A character that matplotlib's font lacks becomes a box, which is nothing to stop or to tell a user about.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, dpi=120, **({"bbox_inches": "tight", "pad_inches": 0.12} if crop else {}))


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
