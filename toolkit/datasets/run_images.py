"""The images of a finished run, preprocessed, as an export needs them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeclf.export.verify.gate import HeldOutImages
from edgeclf.runtime.errors import DatasetError, EdgeclfError
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.pixels import cached_images

if TYPE_CHECKING:
    from edgeclf.export.cache_folder import CacheFolder
    from edgeclf.runtime.arrays import IntArray, UInt8Array
    from edgeclf.runtime.progress import Progress
    from edgeclf.training.run.folder import Run


@dataclass(frozen=True, eq=False)
class RunImages:
    """What a run's images are for in an export.

    Attributes:
        held_out: Validation and, where there are any, test images.
        images: (N, H, W, 3) uint8 RGB, all readable images of the run.
        training_rows: Which of them the network was fitted to.
        unreadable: Files that can no longer be read.
    """

    held_out: tuple[HeldOutImages, ...]
    images: ArrayFile
    training_rows: "IntArray"
    unreadable: tuple[tuple[Path, EdgeclfError], ...]

    @property
    def nothing(self) -> "UInt8Array":
        """(0, H, W, 3): no images."""
        return self.images[:0]

    def sample_training(self, count: int, seed: int = 0) -> "UInt8Array":
        """At most `count` training images drawn at random, (n, H, W, 3) uint8 RGB."""
        order = np.random.default_rng(seed).permutation(self.training_rows)
        return self.images.take(order[:count])


def sample_held_out(parts: Sequence[HeldOutImages], count: int, seed: int = 0) -> tuple[HeldOutImages, ...]:
    """At most `count` images of each part, drawn at random."""
    sampled = []
    for part in parts:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(part.images_rgb))[:count])
        rows = part.images_rgb.select(chosen) if isinstance(part.images_rgb, ArrayFile) else part.images_rgb[:][chosen]
        sampled.append(replace(part, images_rgb=rows, true_indices=part.true_indices[chosen]))
    return tuple(sampled)


def load_run_images(
    run: "Run", data: Path | None, cache_folder: "CacheFolder | None", progress: "Progress"
) -> RunImages:
    """Finds the images of a run, in the cache or where they lie.

    Args:
        run: The run.
        data: Where its data folder is now; None where it was.
        cache_folder: Where preprocessed images are kept; None takes the default.
        progress: Told how many are decoded.

    Raises:
        DatasetError: The data folder is gone, or no validation image can be read.
    """
    root = run.data_root if data is None else (data if data.is_dir() else data.parent)
    if not root.is_dir() or (data is not None and not data.exists()):
        raise DatasetError(
            f"cannot find the images of {run.folder}",
            got=f"no folder {root}",
            expected="the folder it was trained on",
            do="pass --data with its present place",
        )
    cached = cached_images(
        [root / sample.path for sample in run.split], run.spec.preprocess, cache_folder=cache_folder, progress=progress
    )
    samples = [run.split[row] for row in cached.rows]
    index = {label: position for position, label in enumerate(run.spec.labels)}
    held_out = []
    for split, part in (("val", "validation"), ("test", "test")):
        rows = np.array([i for i, sample in enumerate(samples) if sample.split == split], np.int64)
        true = np.array([index[samples[row].label] for row in rows], np.int64)
        if len(rows):
            held_out.append(HeldOutImages(part, cached.images.select(rows), true, decides=split == "val"))
    if not any(part.decides for part in held_out):
        raise DatasetError(
            f"no validation image of {run.folder} can be read",
            got=f"{len(cached.unreadable)} unreadable files",
            expected="the images it was trained on",
            do="pass --data with their present place",
        )
    training = np.array([i for i, sample in enumerate(samples) if sample.split == "train"], np.int64)
    return RunImages(tuple(held_out), cached.images, training, cached.unreadable)
