"""The reliability diagram: accuracy per bin of confidence, before and after temperature scaling."""

from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import FloatArray, IntArray
from edgeclf.runtime.metrics import (
    CALIBRATION_BINS,
    Z_95,
    calibration_bins,
    expected_calibration_error,
    wilson_interval,
)
from edgeclf.training.drawing import TRAINING_COLOUR, VALIDATION_COLOUR, new_figure, save_figure

# From here on a bar of one image would vanish on a linear axis.
_MOST_LINEAR_IMAGES = 50


def plot_reliability(
    before: FloatArray,
    after: FloatArray,
    true_indices: IntArray,
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
    figure = new_figure((5.4, 6.0))
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color="#94a3b8", linestyle="--", linewidth=1)
    width = 1.0 / CALIBRATION_BINS
    most = 0
    for probabilities, name, colour, shift in (
        (before, "before", TRAINING_COLOUR, -0.5),
        (after, "after", VALIDATION_COLOUR, 0.5),
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
    save_figure(figure, path, crop=False)
