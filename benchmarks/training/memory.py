"""Measures the peak memory of a training on many generated images.

    python benchmarks/training/memory.py [--images 50000] [--size 120] [--limit-gb 2] [--json] [-- options of edgeclf train]

Without options it trains a small-cnn for one epoch. The peak is the largest resident set of the process (ru_maxrss), which counts pages of mapped files as well. Exit code 1
when it is above the limit.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import parse_with_train_options

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
    """Prints the peak."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=120)
    parser.add_argument("--limit-gb", type=float, default=2.0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given, options = parse_with_train_options(parser)
    options = options or _DEFAULT
    with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as name:
        folder = Path(name)
        write_images(folder / "data", given.images, given.size)
        command = [sys.executable, "-m", "edgeclf.toolkit", "train", str(folder / "data"), "--run", str(folder / "run")]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--image-size", str(given.size), *options],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "EDGECLF_CACHE": str(folder / "cache")},
        )
        seconds = time.perf_counter() - started
    # The children of this process are that one and none larger; the unit is KiB on Linux.
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    figures = {
        "images": given.images,
        "pixels_gb": given.images * given.size * given.size * 3 / 1e9,
        "options": options,
        "peak_gb": peak_gb,
        "seconds": seconds,
    }
    if given.json:
        print(json.dumps(figures, indent=2))
    else:
        for key, value in figures.items():
            print(f"{key}: {value}")
    return int(peak_gb > given.limit_gb)


if __name__ == "__main__":
    raise SystemExit(main())
