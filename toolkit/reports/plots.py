"""Plots of `edgeclf export --plot` and `edgeclf verify --plot`: recipes compared, precision by layer."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from edgeclf.runtime.files import replacing
from edgeclf.training.drawing import TRAINING_COLOUR, VALIDATION_COLOUR, new_figure, save_figure


def plot_recipes(points: Sequence[tuple[str, float, float, bool]], min_agreement: float | None, path: Path) -> None:
    """Draws the agreement of int8 recipes against their latency.

    Args:
        points: Of each model the name, the latency as a multiple of fp32, the top-1 agreement with the reference, 0..1, and
            whether it is on the Pareto front.
        min_agreement: The lowest agreement asked for, 0..1; None draws no line.
        path: The PNG file to write.

    Raises:
        OutputError: The file cannot be written.
        MissingPackageError: matplotlib is not installed.
    """
    figure = new_figure((7.5, 4.0))
    axes = figure.subplots()
    if min_agreement is not None:
        axes.axhline(min_agreement, color="#94a3b8", linestyle="--", linewidth=1)
    for number, (name, ratio, agreement, best) in enumerate(points, start=1):
        colour = VALIDATION_COLOUR if best else TRAINING_COLOUR
        # Names of layers are not formulas, whatever dollar signs they have.
        label = f"{number}  {textwrap.shorten(name, 60).replace('$', chr(92) + '$')}{' (none better)' if best else ''}"
        axes.plot([ratio], [agreement], "o", color=colour, label=label)
        axes.annotate(str(number), (ratio, agreement), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("latency, fp32 = 1")
    axes.set_ylabel("same label as the reference")
    axes.set_title("int8 recipes" + ("" if min_agreement is None else f" (dashed: {min_agreement:g}, asked for)"))
    axes.grid(alpha=0.25)
    axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.16))
    with replacing(path) as temporary:
        save_figure(figure, temporary)


def plot_layers(layers: Sequence[tuple[int, float | None, float | None]], path: Path) -> None:
    """Draws the signal-to-quantization-noise ratios of an int8 file's layers.

    Args:
        layers: Position from 1, ratio of the weights and of the outputs in decibels, None where there is none, of each.
        path: The PNG file to write.

    Raises:
        OutputError: The file cannot be written.
        MissingPackageError: matplotlib is not installed.
    """
    figure = new_figure((9.0, 3.6))
    axes = figure.subplots()
    for column, label, colour in ((1, "weights", TRAINING_COLOUR), (2, "outputs", VALIDATION_COLOUR)):
        values = [(item[0], item[column]) for item in layers if item[column] is not None]
        axes.plot([x for x, _ in values], [y for _, y in values], color=colour, label=label, marker="o", markersize=3)
    axes.set_xlabel("layer, in order of execution")
    axes.set_ylabel("signal to noise (dB)")
    axes.set_title("Precision of the int8 layers next to float")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        save_figure(figure, temporary)
