"""Measures the cost of one more photograph in a data set whose pixels are cached: seconds and bytes written.

    python benchmarks/training/cache_growth.py [--images 50000] [--size 120] [--quick] [--json]

`edgeclf train --show-augmentation` prepares the images as a training does, and ends: once with an empty cache, once with
nothing changed, once with one photograph more. `written MB` is what the process has had written to files (ru_oublock), the
picture of about 1 MB counted; `growth MB` by how much the cache folder is larger afterwards.
"""

import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, cache_environment, edgeclf_command, run_process, working_folder
from benchmarks.training.memory import write_images

_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Prepared:
    """Cost of one preparation of the images.

    Attributes:
        run: Its name.
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
    options = ("--arch", "small-cnn", "--augment", "light", "--image-size", size)
    command = edgeclf_command("train", folder / "data", "--show-augmentation", folder / "grid.png", *options)
    size_before, blocks_before = _folder_bytes(folder / "cache"), _blocks_written()
    done = run_process(command, cache_environment(folder / "cache"))
    written = (_blocks_written() - blocks_before) * _BLOCK_BYTES
    growth = _folder_bytes(folder / "cache") - size_before
    return Prepared(run, done.seconds, written / 1e6, growth / 1e6)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _blocks_written() -> int:
    """Blocks that the ended children of this process have had written."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock


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
