"""Drawing: matplotlib figures without a display, the colours of training and validation, saving as PNG."""

import warnings
from pathlib import Path
from typing import Any, TypeAlias

from edgeclf.runtime.errors import MissingPackageError

# A class of matplotlib, or an instance of it: the package is imported late.
Figure: TypeAlias = Any

TRAINING_COLOUR, VALIDATION_COLOUR = "#7a8ba3", "#c2410c"


def import_figure() -> Figure:
    """Imports matplotlib's `Figure`, so that a missing package is reported before there is anything to draw.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "matplotlib cannot be loaded",
            got=str(error),
            expected="the package matplotlib",
            hint="run pip install matplotlib, which the extras [train], [bench] and [doctor] bring along",
        ) from error
    return Figure


def new_figure(size_inches: tuple[float, float]) -> Figure:
    """An empty figure, (width, height) in inches.

    A Figure without pyplot draws with the Agg backend, needs no display, and leaves no global state.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    return import_figure()(figsize=size_inches, layout="constrained")


def save_figure(figure: Figure, path: Path, *, crop: bool = True) -> None:
    """Writes a figure as PNG.

    Args:
        figure: The figure.
        path: The file; PNG whatever its suffix.
        crop: Whether white margins are cut off, which draws the figure twice.
    """
    with warnings.catch_warnings():
        # A character that matplotlib's font lacks becomes a box, which is nothing to stop or to tell a user about.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, dpi=120, format="png", **({"bbox_inches": "tight", "pad_inches": 0.12} if crop else {}))
