"""The training data: the readable images of a data set in the cache, the class of each, and which split it belongs to."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.arrays import FloatArray, IntArray
from edgeclf.runtime.errors import DatasetError, RunFolderError
from edgeclf.runtime.files import parse_failure
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.pixels import CachedImages, cached_images, equal_pictures
from edgeclf.training.data.class_folders import layout_sentence
from edgeclf.training.data.dataset import SPLITS, Dataset, Sample, Split, fingerprint
from edgeclf.training.data.loader import Subset
from edgeclf.training.data.split import contradiction_sentence, divide, group_keys, shared_sentences
from edgeclf.training.options import TrainOptions


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The readable images of a data set, their classes and splits.

    Attributes:
        labels: Class names in output order.
        samples: All samples with their split, readable or not, each readable one with its digest.
        cached: The preprocessed images.
        true_indices: (N,) int64, the class of each cached image.
        positions: Positions of the cached images of `train`, `val` and `test`, each (n,) int64.
        features: (N, F) float32 of a frozen backbone, for each cached image; None where no fit takes features.
        notes: What a user has to know of the splits, one sentence each.
    """

    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    cached: CachedImages
    true_indices: IntArray
    positions: Mapping[Split, IntArray]
    features: ArrayFile | FloatArray | None = None
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have images."""
        return tuple(split for split in SPLITS if len(self.positions[split]))

    @property
    def fingerprint(self) -> str:
        """A digest of the images that have a say in the model: those that train and those that choose."""
        used = np.concatenate([self.positions["train"], self.positions["val"]])
        return fingerprint((self.labels[self.true_indices[row]], self.cached.digests[row]) for row in used)

    def subset(self, split: Split, *, features: bool = False) -> Subset:
        """The images of a split, or their features, with their classes."""
        inputs = self.features if features else self.cached.images
        if inputs is None:
            raise ValueError("these data have no features")
        positions = self.positions[split]
        return Subset(inputs, positions, self.true_indices[positions])


def prepare_training_data(
    dataset: Dataset,
    preprocess: Preprocess,
    options: TrainOptions,
    *,
    earlier: Mapping[str, Split],
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> TrainingData:
    """Preprocesses the images of a data set and assigns their splits.

    Args:
        dataset: The labelled images.
        preprocess: Input size and fit mode.
        options: Seed and fractions of the split.
        earlier: Splits of images in an earlier training, by digest; they stay in them where the data set leaves a
            choice, so that nothing the network was fitted to is ever tested on.
        cache_folder: Where preprocessed images are kept; None takes the default.
        progress: Called with how many files are read and decoded.

    Raises:
        UsageError: A fraction is out of range.
        DatasetError: The data set is too small, or a class has no readable image.
        InputError: No image can be read.
        OutputError: The cache cannot be written.
    """

    def draw(digests: Mapping[int, str], copies: Sequence[Sequence[int]]) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
        keys, pictures = group_keys(dataset.samples, digests, copies)
        division = divide(
            dataset,
            val_fraction=options.val_fraction,
            test_fraction=options.test_fraction,
            seed=options.seed,
            earlier={position: earlier[digest] for position, digest in digests.items() if digest in earlier},
            keys=keys,
        )
        filled = division.sentence()
        found = (
            contradiction_sentence(dataset.samples, pictures),
            *shared_sentences(dataset.samples, pictures),
            filled,
            layout_sentence(dataset.samples),
        )
        notes = tuple(sentence for sentence in found if sentence is not None)
        return tuple(replace(sample, digest=digests.get(n)) for n, sample in enumerate(division.samples)), notes

    # What can be refused is refused before any image is read.
    draw({}, ())
    paths = [dataset.root / sample.path for sample in dataset.samples]
    cached = cached_images(paths, preprocess, cache_folder=cache_folder, progress=progress)
    digests = dict(zip(cached.rows, cached.digests, strict=True))
    samples, notes = draw(digests, equal_pictures(cached, paths))
    return replace(_arrange(samples, dataset.labels, cached), notes=notes)


def _arrange(samples: tuple[Sample, ...], labels: Sequence[str], cached: CachedImages) -> TrainingData:
    readable = [samples[row] for row in cached.rows]
    index = {label: position for position, label in enumerate(labels)}
    positions: dict[Split, IntArray] = {
        split: np.array([i for i, sample in enumerate(readable) if sample.split == split], np.int64) for split in SPLITS
    }
    check_every_class_is_readable(readable, labels, len(cached.unreadable))
    true = np.array([index[sample.label] for sample in readable], np.int64)
    return TrainingData(tuple(labels), samples, cached, true, positions)


def check_every_class_is_readable(readable: Sequence[Sample], labels: Sequence[str], unreadable: int) -> None:
    """Refuses data of which a class has no image left to train on, or to choose by.

    Args:
        readable: The images that can be read, with their splits.
        labels: All classes.
        unreadable: Number of images that cannot be read.

    Raises:
        DatasetError: A class has no readable training or validation image.
    """
    needed: tuple[Split, ...] = ("train", "val")
    counts = Counter((sample.split, sample.label) for sample in readable)
    for split in needed:
        for label in labels:
            if not counts[split, label]:
                raise DatasetError(
                    f"class {label!r} has no readable {split} image",
                    got=f"{unreadable} unreadable files",
                    expected="at least one",
                    hint="replace the unreadable files",
                )


def split_to_csv(samples: Sequence[Sample]) -> str:
    """The split as the text of `split.csv`: path, label, split, digest (empty where the file could not be read).

    File names that are not Unicode keep their bytes when the text is encoded with `errors="surrogateescape"`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "split", "digest"))
    writer.writerows((sample.path, sample.label, sample.split, sample.digest) for sample in samples)
    return text.getvalue()


def read_split(path: Path) -> tuple[Sample, ...]:
    """Reads what `split_to_csv` wrote.

    Raises:
        RunFolderError: The file is missing or damaged.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            samples = tuple(
                Sample(row["path"], row["label"], row["split"], row.get("digest") or None)  # type: ignore[arg-type] # checked below
                for row in csv.DictReader(file)
            )
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise RunFolderError(
            f"cannot read {path}", got=parse_failure(error), expected="path,label,split", hint="train again"
        ) from error
    if any(
        not isinstance(value, str) or "\0" in value
        for sample in samples
        for value in (sample.path, sample.label, sample.split)
    ):
        raise RunFolderError(
            f"cannot read {path}", got="a row that is cut off", expected="path,label,split", hint="train again"
        )
    if not samples or any(sample.split not in SPLITS for sample in samples):
        raise RunFolderError(
            f"cannot use {path}", got="rows without a split", expected="train, val or test", hint="train again"
        )
    return samples
