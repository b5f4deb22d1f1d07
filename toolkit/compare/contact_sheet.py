"""Contact sheet of the images that changed, each with its class and both answers."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.files import replacing
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.spec import Preprocess
from edgeclf.toolkit.compare.comparison import ChangedImage
from edgeclf.toolkit.console import printable
from edgeclf.training.drawing import new_figure, save_figure

# A sheet that one sees at a glance; the list has all images.
MOST_IMAGES = 40
_COLUMNS = 5
_THUMBNAIL = Preprocess((192, 192), "letterbox", pad_value=255)
# Distinguishable for every kind of colour vision (Okabe and Ito).
_COLOURS = {"lost": "#D55E00", "won": "#0072B2", "wrong in both": "#666666"}


def draw_contact_sheet(changed: Sequence[ChangedImage], title: str, path: Path) -> None:
    """Draws the images that changed, at most 40: those that B loses first, then those that it wins.

    Args:
        changed: The images, in the order they are drawn.
        title: Title of the sheet.
        path: The PNG file to write.

    Raises:
        OutputError: The file cannot be written.
        MissingPackageError: matplotlib is not installed.
    """
    shown = list(changed[:MOST_IMAGES])
    rows = max(1, math.ceil(len(shown) / _COLUMNS))
    figure = new_figure((1.9 * _COLUMNS, 2.45 * rows + 0.5))
    rest = f" (the first {len(shown)} of {len(changed)})" if len(changed) > len(shown) else ""
    figure.suptitle(f"{title}{rest}" if shown else f"{title}: none", fontsize=11, parse_math=False)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for number, axes in enumerate(grid.flat):
        axes.set_xticks([])
        axes.set_yticks([])
        if number >= len(shown):
            axes.set_axis_off()
            continue
        item = shown[number]
        colour = _COLOURS[item.change]
        thumbnail = _thumbnail(item.path)
        if thumbnail is not None:
            axes.imshow(thumbnail)
        for spine in axes.spines.values():
            spine.set_color(colour)
            spine.set_linewidth(2.5)
        axes.set_title(f"{item.change}: {_short(item.label)}", fontsize=8.5, color=colour, parse_math=False)
        answers = [
            f"{letter}: {_short(answer.label)} {answer.confidence:.2f}"
            for letter, answer in zip("AB", item.answers, strict=True)
        ]
        axes.set_xlabel("\n".join(answers), fontsize=8, parse_math=False)
    with replacing(path) as temporary:
        save_figure(figure, temporary)


def _short(label: str) -> str:
    label = printable(label)
    return textwrap.shorten(label, 22, placeholder="…") if " " in label else label[:22]


def _thumbnail(path: Path) -> UInt8Array | None:
    """(192, 192, 3) uint8 RGB; None where the file has gone since it was classified."""
    try:
        return preprocess_bgr(load_image(path), _THUMBNAIL)
    except EdgeclfError:
        return None
