"""Measures what one photograph more costs a data set whose pixels are cached: seconds and bytes written.

    python benchmarks/training/cache_growth.py [--images 50000] [--size 120] [--quick] [--json]

`edgeclf train --show-augmentation` prepares the images as a training does, and ends: once with an empty cache, once with
nothing changed, once with one photograph more. Bytes are those that the process has had written to files (ru_oublock),
the picture of some kB and an unchanged run's bytes counted; growth is the difference of what the cache folder holds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.training.memory import write_images

_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Prepared:
    """What one preparation of the images cost.

    Attributes:
        run: What it was.
        seconds: From the start of the process to its end.
        written_mb: Written to files by the process, MB.
        growth_mb: By how much the cache folder is larger afterwards, MB.
    """

    run: str
    seconds: float
    written_mb: float
    growth_mb: float


def prepare(run: str, folder: Path, size: int) -> Prepared:
    """Prepares the images in `folder/data` with the cache in `folder/cache`."""
    command = [
        sys.executable,
        "-m",
        "edgeclf.toolkit",
        "train",
        folder / "data",
        "--show-augmentation",
        folder / "a.png",
    ]
    options = ["--arch", "small-cnn", "--augment", "light", "--image-size", str(size)]
    before = _folder_bytes(folder / "cache")
    started = time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command), *options],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "EDGECLF_CACHE": str(folder / "cache")},
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    growth = _folder_bytes(folder / "cache") - before
    return Prepared(run, seconds, usage.ru_oublock * _BLOCK_BYTES / 1e6, growth / 1e6)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Prints a line for each preparation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=120)
    parser.add_argument("--quick", action="store_true", help="300 images")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    count = 300 if given.quick else given.images
    with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as name:
        folder = Path(name)
        write_images(folder / "data", count, given.size)
        done = [prepare(run, folder, given.size) for run in ("empty cache", "unchanged")]
        noise = np.random.default_rng(0).integers(0, 256, (given.size, given.size, 3), np.uint8)
        cv2.imwrite(str(folder / "data" / "plain" / "one more.png"), noise)
        done.append(prepare("one more", folder, given.size))
    if given.json:
        print(json.dumps({"images": count, "size_px": given.size, "runs": [asdict(item) for item in done]}, indent=2))
        return
    print(f"{count} images of {given.size} px")
    for item in done:
        print(
            f"{item.run:12}{item.seconds:9.2f} s{item.written_mb:12.3f} MB written{item.growth_mb:12.3f} MB more in the cache"
        )


if __name__ == "__main__":
    main()
