"""The picture of a learning-rate sweep."""

from pathlib import Path

import numpy as np

from edgeclf.training.drawing import TRAINING_COLOUR, VALIDATION_COLOUR, new_figure, save_figure
from edgeclf.training.fit.lr_finder import LrSweep


def plot_find_lr(sweep: LrSweep, path: Path) -> None:
    """Draws a learning-rate sweep: the loss of each step, its running mean, and the suggestion.

    Args:
        sweep: The sweep.
        path: The PNG file to write.
    """
    figure = new_figure((6.5, 3.8))
    axes = figure.subplots()
    axes.plot(
        sweep.learning_rates, sweep.losses, color=TRAINING_COLOUR, alpha=0.4, linewidth=1, label="loss of the batch"
    )
    axes.plot(sweep.learning_rates, sweep.smoothed, color=VALIDATION_COLOUR, label="running mean")
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
    save_figure(figure, path)
