"""Measures what one photograph more costs a data set whose pixels are cached: seconds and bytes written.

    python benchmarks/training/cache_growth.py [--images 50000] [--size 120] [--quick] [--json]

`edgeclf train --show-augmentation` prepares the images as a training does, and ends: once with an empty cache, once with
nothing changed, once with one photograph more. `written MB` is what the process has had written to files (ru_oublock), the
picture of about 1 MB counted; `growth MB` by how much the cache folder is larger afterwards.
"""

import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, cache_environment, edgeclf_command, working_folder
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
    """Prepares the images in `folder/data` with the cache in `folder/cache`.

    Raises:
        SystemExit: The command failed.
    """
    options = ("--arch", "small-cnn", "--augment", "light", "--image-size", size)
    command = edgeclf_command("train", folder / "data", "--show-augmentation", folder / "grid.png", *options)
    before = _folder_bytes(folder / "cache")
    started = time.perf_counter()
    process = subprocess.Popen(command, env=cache_environment(folder / "cache"), stderr=subprocess.DEVNULL)
    # The resources of this child alone, which subprocess does not give.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    growth = _folder_bytes(folder / "cache") - before
    return Prepared(run, seconds, usage.ru_oublock * _BLOCK_BYTES / 1e6, growth / 1e6)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Prints a row for each preparation."""
    arguments = Arguments(__doc__, quick={"images": 300, "size": 32})
    arguments.add_argument("--images", type=int, default=50_000)
    arguments.add_argument("--size", type=int, default=120, help="height and width in pixels (default: %(default)s)")
    given = arguments.parse()
    report = Report(given)
    report.columns({"run": "<14", "seconds": ">9.2f", "written MB": ">13.3f", "growth MB": ">12.3f"})
    done = []
    with working_folder() as folder:
        write_images(folder / "data", given.images, given.size)
        for run in ("empty cache", "unchanged", "one more"):
            if run == "one more":
                noise = np.random.default_rng(0).integers(0, 256, (given.size, given.size, 3), np.uint8)
                cv2.imwrite(str(folder / "data" / "plain" / "one more.png"), noise)
            done.append(prepare(run, folder, given.size))
            report.row(*asdict(done[-1]).values())
    report.close({"images": given.images, "size_px": given.size, "runs": [asdict(item) for item in done]})


if __name__ == "__main__":
    main()
