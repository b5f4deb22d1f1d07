"""Time and memory of the search for copies among many images, and how many of the copies it finds.

    python benchmarks/doctor/copies.py [--images 5000 100000 1000000] [--share 1.0] [--exhaustive 20000] [--quick] [--json]

Thumbnails are drawn, so that a million need no disk; one in a hundred is a copy of another one, in turns mirrored, turned by a
quarter, cropped by 7 % and made darker. With a share below 1 the search ends after so many of the images and its time is
extrapolated: every image costs the same. Times are those of all CPUs together. Memory is the peak of the process, less that before.
"""

import resource
import sys
import time
from pathlib import Path
from typing import cast

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.toolkit.doctor.checks.duplicates.candidates import EXHAUSTIVE, find_candidates
from edgeclf.toolkit.doctor.facts import THUMBNAIL

# Patterns of each scale that thumbnails are sums of, and their cells and amplitudes.
_PATTERNS = 4_096
_SCALES = ((3, 40.0), (6, 30.0), (12, 20.0), (24, 12.0))
_COPIED = 100


class _Enough(Exception):  # noqa: N818 - no error
    """The share that was asked for has been compared."""


class DrawnThumbnails:
    """Thumbnails that are drawn when they are read, as if they were an array; the last hundredth are copies."""

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.count, self.first_copy = count, count - count // _COPIED
        self._patterns = [_patterns(rng, cells, amplitude) for cells, amplitude in _SCALES]
        self._drawn = rng.integers(0, _PATTERNS, (count, len(_SCALES)), np.int16)

    def __getitem__(self, row: int) -> UInt8Array:
        if row < self.first_copy:
            return self._draw(row)
        image = self._draw(self.source_of(row))
        kind = row % 4
        if kind == 0:
            return np.ascontiguousarray(image[:, ::-1])
        if kind == 1:
            return np.ascontiguousarray(np.rot90(image))
        if kind == 2:
            return np.asarray(np.rint(image * 0.7), np.uint8)
        top, left = row % 5, row % 3
        side = round(0.93 * THUMBNAIL)
        return np.asarray(cv2.resize(image[top : top + side, left : left + side], (THUMBNAIL, THUMBNAIL)), np.uint8)

    def source_of(self, row: int) -> int:
        """Row of the image that this one is a copy of."""
        return (row - self.first_copy) * (self.first_copy // (self.count - self.first_copy))

    def _draw(self, row: int) -> UInt8Array:
        total = sum(
            patterns[number].astype(np.int16) for patterns, number in zip(self._patterns, self._drawn[row], strict=True)
        )
        luma = np.clip(np.asarray(total) + 120, 0, 255).astype(np.uint8)
        return np.repeat(luma[..., None], 3, axis=2)


def _patterns(
    rng: np.random.Generator, cells: int, amplitude: float
) -> "np.ndarray[tuple[int, ...], np.dtype[np.int8]]":
    coarse = (amplitude * rng.normal(size=(_PATTERNS, cells, cells))).astype(np.float32)
    smooth = [cv2.resize(each, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_CUBIC) for each in coarse]
    return np.stack([np.clip(each, -127, 127).astype(np.int8) for each in smooth])


def measure(count: int, share: float, exhaustive: int) -> dict[str, float | None]:
    """CPU seconds until comparing begins and for comparing all, peak memory in MB, and the share of the copies found."""
    thumbnails = DrawnThumbnails(count)
    before = _peak_mb()
    started = time.process_time()
    times: dict[str, float] = {}
    compared = 0

    def progress(stage: str, done: int, _total: int) -> None:
        nonlocal compared
        if stage == "copies: compared":
            times.setdefault("began", time.process_time() - started)
            compared = done
            if done >= share * count > 0 and share < 1:
                raise _Enough

    recall = None
    try:
        rows = np.arange(count)
        found, _ = find_candidates(
            cast("UInt8Array", thumbnails), rows, np.zeros(count, np.int64), progress, exhaustive
        )
        pairs = {(min(c.outer, c.inner), max(c.outer, c.inner)) for c in found}
        copies = range(thumbnails.first_copy, count)
        recall = sum((thumbnails.source_of(row), row) in pairs for row in copies) / len(copies)
    except _Enough:
        pass
    comparing = (time.process_time() - started - times["began"]) * count / max(1, compared)
    return {
        "images": count,
        "described_s": times["began"],
        "compared_s": comparing,
        "extrapolated_from": min(share, 1.0),
        "memory_mb": _peak_mb() - before,
        "found": recall,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints a row for each number of images."""
    arguments = Arguments(__doc__, quick={"images": [400], "exhaustive": 100})
    arguments.add_argument("--images", type=int, nargs="+", default=[5_000, 100_000, 1_000_000])
    arguments.add_argument("--share", type=float, default=1.0, help="of the images to compare (default: all)")
    arguments.add_argument(
        "--exhaustive", type=int, default=EXHAUSTIVE, help="most images that are all compared (default: %(default)s)"
    )
    given = arguments.parse()
    report = Report(given)
    report.columns(
        {"images": ">10", "described, CPU s": ">17.1f", "compared, CPU s": ">16.1f", "MB": ">8.0f", "found": ">8"}
    )
    rows = []
    for count in given.images:
        row = measure(count, given.share, given.exhaustive)
        found = "" if row["found"] is None else f"{row['found']:.3f}"
        report.row(row["images"], row["described_s"], row["compared_s"], row["memory_mb"], found)
        rows.append({name: value for name, value in row.items() if value is not None})
    report.close({"rows": rows})


if __name__ == "__main__":
    main()
