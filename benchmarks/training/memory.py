"""Measures the peak memory of a training on many generated images.

    python benchmarks/training/memory.py [--images 50000] [--size 120] [--limit-gb 2] [--quick] [--json] [-- options of edgeclf train]

Without options it trains a small-cnn for one epoch. The peak is the largest resident set of
the process (ru_maxrss), which counts pages of mapped files as well. Exit code 1 when it is above the limit.
"""

import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, run_edgeclf, working_folder

_DEFAULT = ["--arch", "small-cnn", "--epochs", "1"]


def write_images(folder: Path, count: int, size: int) -> None:
    """Writes JPEG files of two classes: smooth colour fields, stripes over one half of them."""
    for label in ("plain", "striped"):
        (folder / label).mkdir(parents=True)

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        field = cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
        striped = number % 2 == 1
        if striped:
            field[:, :: int(rng.integers(4, 12))] = rng.integers(0, 256, 3)
        cv2.imwrite(str(folder / ("striped" if striped else "plain") / f"{number:06d}.jpg"), field)

    cv2.setNumThreads(1)
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(write, range(count)):
            pass


def main() -> int:
    """Prints the peak, or JSON."""
    arguments = Arguments(__doc__, quick={"images": 60, "size": 32}, train_options=_DEFAULT)
    arguments.add_argument("--images", type=int, default=50_000)
    arguments.add_argument("--size", type=int, default=120)
    arguments.add_argument("--limit-gb", type=float, default=2.0)
    given = arguments.parse()
    with working_folder() as folder:
        write_images(folder / "data", given.images, given.size)
        run = ("--run", folder / "run", "--image-size", given.size)
        done = run_edgeclf("train", folder / "data", *run, *given.train_options, cache=folder / "cache")
    # The children of this process are that one and none larger; the unit is KiB on Linux.
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    figures = {
        "images": given.images,
        "pixels_gb": given.images * given.size * given.size * 3 / 1e9,
        "options": given.train_options,
        "peak_gb": peak_gb,
        "seconds": done.seconds,
    }
    report = Report(given)
    for key, value in figures.items():
        report.line(f"{key}: {value}")
    report.close(figures)
    return int(not given.quick and peak_gb > given.limit_gb)


if __name__ == "__main__":
    raise SystemExit(main())
