"""Plot of latency distributions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.errors import MissingPackageError, install_hint
from edgeclf.runtime.files import replacing
from edgeclf.toolkit.console import printable

# Distinguishable for every kind of colour vision (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_INK, _PALE = "#222222", "#cccccc"


@dataclass(frozen=True)
class Curve:
    """Latencies of one model or scenario.

    Attributes:
        label: Name in the legend.
        latencies_ms: (queries,) milliseconds, in any order; at least one.
        mark_ms: Reported latency, marked by a dot; None for none.
        mark_label: Name of the mark, such as `p90`.
        bound_ms: Latency bound, drawn as a dotted line; None for none.
    """

    label: str
    latencies_ms: Float64Array
    mark_ms: float | None = None
    mark_label: str = ""
    bound_ms: float | None = None


def check_plot() -> None:
    """Checks, before anything is measured, that a plot can be drawn.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "matplotlib cannot be loaded",
            got=str(error),
            expected="the package matplotlib",
            hint=install_hint("bench"),
        ) from error


def draw_curves(path: Path, curves: Sequence[Curve], *, title: str) -> None:
    """Draws complementary cumulative distributions of latency, one line per curve.

    The fraction of slower queries is on a logarithmic axis, so that p50, p90, p99 and p99.9 are evenly spaced.

    Args:
        path: PNG file to write.
        curves: The distributions.
        title: Heading.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    most = max((curve.latencies_ms.size for curve in curves), default=1)
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        ordered = np.sort(curve.latencies_ms)
        # Of n queries, n - k take longer than the k-th fastest.
        slower = 1 - np.arange(ordered.size) / ordered.size
        # In the legend: labels beside the dots would overlap.
        mark = "" if curve.mark_ms is None else f": {curve.mark_label} {curve.mark_ms:.3g} ms (dot)"
        bound = "" if curve.bound_ms is None else f", bound {curve.bound_ms:g} ms (dotted)"
        # Of names that begin with an underscore Matplotlib keeps the legend free.
        name = printable(f" {curve.label}" if curve.label.startswith("_") else curve.label)
        axes.step(ordered, slower, where="post", color=colour, linewidth=1.8, label=f"{name}{mark}{bound}")
        if curve.mark_ms is not None:
            fraction = max(float((ordered >= curve.mark_ms).mean()), 1 / ordered.size)
            axes.plot([curve.mark_ms], [fraction], "o", color=colour, markersize=6)
        if curve.bound_ms is not None:
            axes.axvline(curve.bound_ms, color=colour, linestyle=":", linewidth=1.4)
    values = np.concatenate([curve.latencies_ms for curve in curves])
    if values.max() > 8 * values.min():
        axes.set_xscale("log")
        # Plain numbers, not powers of ten, and enough of them where there is less than a decade.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yscale("log")
    axes.set_ylim(0.8 / most, 1.15)
    ticks = [(0.5, "p50"), (0.1, "p90"), (0.01, "p99"), (0.001, "p99.9"), (0.0001, "p99.99")]
    shown = [(share, name) for share, name in ticks if share * most >= 0.8]
    axes.set_yticks([share for share, _ in shown], [name for _, name in shown])
    axes.minorticks_off()
    axes.set_xlabel("latency in ms")
    axes.set_ylabel("share of queries within it")
    axes.set_title(printable(title), loc="left", fontsize=12, color=_INK, parse_math=False)
    axes.grid(color=_PALE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(frameon=False, fontsize=9, loc="outside lower left")
    for text in legend.get_texts():
        # Names of files are no formulas, whatever dollar signs they have.
        text.set_parse_math(False)
    with replacing(path) as temporary:
        figure.savefig(temporary)
