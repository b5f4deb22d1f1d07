"""Image files with their splits, such as those of a finished run, preprocessed as an export takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.source.images import ExportImages, LabelledImages
from edgeclf.runtime.arrays import IntArray, UInt8Array
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import ModelSpec
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.pixels import cached_images
from edgeclf.training.data.dataset import SPLITS, Sample


def export_images(
    samples: Sequence[Sample],
    root: Path,
    spec: ModelSpec,
    *,
    are_labelled: bool = True,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> ExportImages:
    """Preprocesses images, or finds them in the cache.

    A file whose bytes are no longer those that its sample's digest was taken of is what these bytes were in the training:
    files may have been renamed. Where they were nothing, the image has changed and is left out, so that none that trained
    the network under another name, or that nobody has looked at, decides.

    Args:
        samples: The images with their splits, `train`, `val` and `test`, and digests where these are known; paths relative
            to `root`.
        root: Folder of the images.
        spec: Labels and preprocessing of the classifier.
        are_labelled: Whether the samples' labels are those of the images; where not, they are not looked at.
        cache_folder: Folder of the cache of preprocessed images; None takes the default.
        progress: Called with the number of images decoded.

    Raises:
        InputError: None of the files is a readable image.
        OutputError: The cache cannot be written.
    """
    cached = cached_images(
        [root / sample.path for sample in samples], spec.preprocess, cache_folder=cache_folder, progress=progress
    )
    by_digest = {sample.digest: sample for sample in sorted(samples, key=_last_use) if sample.digest is not None}
    readable: list[Sample | None] = []
    for row, digest in zip(cached.rows, cached.digests, strict=True):
        is_same = samples[row].digest in {None, digest}
        readable.append(samples[row] if is_same else by_digest.get(digest))
    index = {label: position for position, label in enumerate(spec.labels)}

    def labelled(split: str) -> LabelledImages:
        its = [
            (row, sample.label) for row, sample in enumerate(readable) if sample is not None and sample.split == split
        ]
        rows = np.array([row for row, _ in its], np.int64)
        true = np.array([index[label] for _, label in its], np.int64) if are_labelled else None
        return LabelledImages(_Subset(cached.images, rows), true)

    return ExportImages(
        labelled("val"),
        labelled("test"),
        labelled("train").images_rgb,
        cached.unreadable,
        changed=readable.count(None),
    )


def _last_use(sample: Sample) -> int:
    """Order by which, of copies that had several splits, that of the first use - training, validation, test - is the last."""
    return -SPLITS.index(sample.split or "test")


@dataclass(frozen=True, eq=False)
class _Subset:
    """Some rows of a file, read only as they are asked for."""

    images_rgb: ArrayFile
    rows: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | IntArray, /) -> UInt8Array:
        return self.images_rgb.take(self.rows[rows])
