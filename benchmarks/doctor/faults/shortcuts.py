"""Shortcuts: a feature that is not the object and tells the label."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import image_files
from benchmarks.doctor.faults.base import Fault, Truth
from benchmarks.doctor.faults.split import read, shrink, write
from edgeclf.runtime.arrays import UInt8Array

Change = Callable[[Path, np.random.Generator], None]


def _correlate(
    feature: str,
    share: float,
    make: Callable[[np.random.Generator], Change],
    data: Path,
    generator: np.random.Generator,
) -> Truth:
    """Changes `share` of one class's images, and 1 - share of all others'."""
    names = sorted(path.name for path in (data / "train").iterdir() if path.is_dir())
    chosen = names[int(generator.integers(len(names)))]
    change = make(generator)
    for path in image_files(data):
        if generator.random() < (share if path.parent.name == chosen else 1 - share):
            change(path, generator)
    return Truth(causes=("shortcut",), evidence={"feature": feature})


def _format(_generator: np.random.Generator) -> Change:
    def change(path: Path, _: np.random.Generator) -> None:
        write(path, read(path), suffix=".jpg" if path.suffix.lower() == ".png" else ".png")

    return change


def _border(generator: np.random.Generator) -> Change:
    colour = generator.choice(np.array([[0, 0, 0], [255, 255, 255], [200, 200, 200], [40, 20, 90]]))
    width = float(generator.uniform(0.03, 0.08))

    def change(path: Path, _: np.random.Generator) -> None:
        image = read(path)
        lines = max(2, round(width * min(image.shape[:2])))
        inside = image[lines:-lines, lines:-lines]
        write(
            path,
            np.asarray(cv2.copyMakeBorder(inside, *(lines,) * 4, cv2.BORDER_CONSTANT, value=colour.tolist()), np.uint8),
        )

    return change


def _resolution(_generator: np.random.Generator) -> Change:
    def change(path: Path, _: np.random.Generator) -> None:
        write(path, shrink(0.5, read(path)))

    return change


def _corner(generator: np.random.Generator) -> Change:
    mark = _mark(generator)
    bottom, right = (bool(generator.random() < 0.5) for _ in range(2))

    def change(path: Path, _: np.random.Generator) -> None:
        image = read(path)
        height, width = image.shape[:2]
        rows = max(6, round(0.09 * min(height, width)))
        columns = min(width, round(rows * mark.shape[1] / mark.shape[0]))
        stamp = cv2.resize(mark, (columns, rows), interpolation=cv2.INTER_AREA)
        # A stamp is a little away from the edges.
        away = max(1, round(0.015 * min(height, width)))
        top = height - away - rows if bottom else away
        left = width - away - columns if right else away
        image[max(0, top) : top + rows, max(0, left) : left + columns] = stamp[:, : width - max(0, left)]
        write(path, image)

    return change


def _mark(generator: np.random.Generator) -> UInt8Array:
    """A small logo, or a date, (H, W, 3) uint8 BGR."""
    if generator.random() < 0.5:
        mark = np.full((40, 40, 3), generator.integers(0, 256, 3), np.uint8)
        cv2.circle(mark, (20, 20), 14, generator.integers(0, 256, 3).tolist(), -1)
        return mark
    mark = np.full((40, 110, 3), 20, np.uint8)
    cv2.putText(
        mark,
        f"'{generator.integers(1, 29):02d} {generator.integers(1, 13)}",
        (4, 31),
        cv2.FONT_HERSHEY_SIMPLEX,
        1.1,
        (40, 150, 250),
        3,
    )
    return mark


FAULTS: tuple[Fault, ...] = tuple(
    Fault(f"{feature} tells the class, {share:.0%}", 5, partial(_correlate, feature, share, make))
    for feature, make in (("format", _format), ("border", _border), ("resolution", _resolution), ("corner", _corner))
    for share in (1.0, 0.9, 0.7)
)
