"""The images of a finished run, preprocessed, as an export takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.inputs import ExportImages, LabelledImages
from edgeclf.runtime.arrays import IntArray, UInt8Array
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import ModelSpec
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.pixels import cached_images
from edgeclf.training.data.dataset import Sample


@dataclass(frozen=True, eq=False)
class RunImages(ExportImages):
    """The images of a run.

    Attributes:
        unreadable: Image files that can no longer be read, each with its error.
    """

    unreadable: tuple[tuple[Path, EdgeclfError], ...] = ()


def export_images(
    samples: Sequence[Sample],
    root: Path,
    spec: ModelSpec,
    *,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> RunImages:
    """Preprocesses the images of a run, or finds them in the cache.

    Args:
        samples: The images with their splits, `train`, `val` and `test`; paths relative to `root`.
        root: Folder of the images.
        spec: The run's labels and preprocessing.
        cache_folder: Folder of the cache of preprocessed images; None takes the default.
        progress: Called with the number of images decoded.

    Raises:
        InputError: None of the files is a readable image.
        OutputError: The cache cannot be written.
    """
    cached = cached_images(
        [root / sample.path for sample in samples], spec.preprocess, cache_folder=cache_folder, progress=progress
    )
    readable = [samples[row] for row in cached.rows]
    index = {label: position for position, label in enumerate(spec.labels)}

    def labelled(split: str) -> LabelledImages:
        rows = np.array([row for row, sample in enumerate(readable) if sample.split == split], np.int64)
        true = np.array([index[readable[row].label] for row in rows], np.int64)
        return LabelledImages(_Subset(cached.images, rows), true)

    return RunImages(labelled("val"), labelled("test"), labelled("train").images_rgb, cached.unreadable)


@dataclass(frozen=True, eq=False)
class _Subset:
    """Some rows of a file, read only as they are asked for."""

    images_rgb: ArrayFile
    rows: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | IntArray, /) -> UInt8Array:
        return self.images_rgb.take(self.rows[rows])
