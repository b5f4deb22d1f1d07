"""A data set made ready for training: images in the cache, each with its class and what it is for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.pixels import CachedImages, cached_images
from edgeclf.training.data.dataset import SPLITS, Dataset, Sample, Split, fingerprint
from edgeclf.training.data.loader import LabelledRows
from edgeclf.training.data.split import assign_splits
from edgeclf.training.options import TrainOptions


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The readable images of a data set and what each is for.

    Attributes:
        labels: Class names in output order.
        samples: All samples with their split, readable or not, each readable one with its digest.
        cached: The preprocessed images.
        true_indices: (N,) int64, the class of each cached image.
        rows: The cached images of `train`, `val` and `test`, each (n,) int64.
    """

    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    cached: CachedImages
    true_indices: npt.NDArray[np.int64]
    rows: dict[Split, npt.NDArray[np.int64]]

    @property
    def parts(self) -> tuple[Split, ...]:
        """The parts that have images."""
        return tuple(part for part in SPLITS if len(self.rows[part]))

    @property
    def fingerprint(self) -> str:
        """Of the images that have a say in the model: those that train and those that choose."""
        used = np.concatenate([self.rows["train"], self.rows["val"]])
        return fingerprint((self.labels[self.true_indices[row]], self.cached.digests[row]) for row in used)

    def part(self, part: Split, inputs: ArrayFile | npt.NDArray[Any] | None = None) -> LabelledRows:
        """The images of a part, or the rows of `inputs` that belong to them."""
        rows = self.rows[part]
        return LabelledRows(self.cached.images if inputs is None else inputs, rows, self.true_indices[rows])


def prepare_data(
    dataset: Dataset,
    preprocess: Preprocess,
    options: TrainOptions,
    *,
    known: Mapping[str, Split],
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> TrainingData:
    """Preprocesses a data set's images and says what each is for.

    Args:
        dataset: The labelled images.
        preprocess: Input size and fit mode.
        options: Seed and fractions of the split.
        known: Parts that images had in an earlier training, by digest; they stay in them where the data set leaves a
            choice, so that nothing the network was fitted to is ever tested on.
        cache_folder: Where preprocessed images are kept; None takes the default.
        progress: Told of each stage.

    Raises:
        UsageError: A fraction is out of range.
        DatasetError: The data set is too small, or a class has no readable image.
        InputError: No image can be read.
        OutputError: The cache cannot be written.
    """
    # What can be refused is refused before any image is read.
    samples = assign_splits(
        dataset, val_fraction=options.val_fraction, test_fraction=options.test_fraction, seed=options.seed
    )
    cached = cached_images(
        [dataset.root / sample.path for sample in samples], preprocess, cache_folder=cache_folder, progress=progress
    )
    digests = dict(zip(cached.rows, cached.digests, strict=True))
    if known:
        samples = assign_splits(
            dataset,
            val_fraction=options.val_fraction,
            test_fraction=options.test_fraction,
            seed=options.seed,
            known={position: known[digest] for position, digest in digests.items() if digest in known},
        )
    samples = tuple(replace(sample, digest=digests.get(position)) for position, sample in enumerate(samples))
    return _arrange(samples, dataset.labels, cached)


def _arrange(samples: tuple[Sample, ...], labels: Sequence[str], cached: CachedImages) -> TrainingData:
    readable = [samples[row] for row in cached.rows]
    index = {label: position for position, label in enumerate(labels)}
    rows = {
        split: np.array([i for i, sample in enumerate(readable) if sample.split == split], np.int64) for split in SPLITS
    }
    check_every_class_is_readable(readable, labels, len(cached.unreadable))
    true = np.array([index[sample.label] for sample in readable], np.int64)
    return TrainingData(tuple(labels), samples, cached, true, rows)


def check_every_class_is_readable(readable: Sequence[Sample], labels: Sequence[str], unreadable: int) -> None:
    """Refuses data of which a class has no image left to train on, or to choose by.

    Args:
        readable: The images that can be read, with their parts.
        labels: All classes.
        unreadable: Number of images that cannot be read.

    Raises:
        DatasetError: A class has no readable training or validation image.
    """
    needed: tuple[Split, ...] = ("train", "val")
    there = Counter((sample.split, sample.label) for sample in readable)
    for split in needed:
        for label in labels:
            if not there[split, label]:
                raise DatasetError(
                    f"class {label!r} has no readable {split} image",
                    got=f"{unreadable} unreadable files",
                    expected="at least one",
                    do="replace the unreadable files",
                )
