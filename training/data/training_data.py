"""The training data: the readable images of a data set in the cache, the class of each, and which split it belongs to."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.arrays import FloatArray, IntArray
from edgeclf.runtime.errors import DatasetError, RunFolderError, UsageError
from edgeclf.runtime.files import parse_failure
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.pixels import CachedImages, cached_images
from edgeclf.training.data.dataset import SPLITS, Dataset, Sample, Split, fingerprint
from edgeclf.training.data.loader import Subset
from edgeclf.training.options import TrainOptions

# Where the data set brings its own test images, validation takes this share of the training images.
CARVED_VAL_FRACTION = 0.2
DEFAULT_VAL_FRACTION = 0.15
DEFAULT_TEST_FRACTION = 0.15


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
    """

    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    cached: CachedImages
    true_indices: IntArray
    positions: Mapping[Split, IntArray]
    features: ArrayFile | FloatArray | None = None

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
    # What can be refused is refused before any image is read.
    samples = assign_splits(
        dataset, val_fraction=options.val_fraction, test_fraction=options.test_fraction, seed=options.seed
    )
    cached = cached_images(
        [dataset.root / sample.path for sample in samples], preprocess, cache_folder=cache_folder, progress=progress
    )
    digests = dict(zip(cached.rows, cached.digests, strict=True))
    if earlier:
        samples = assign_splits(
            dataset,
            val_fraction=options.val_fraction,
            test_fraction=options.test_fraction,
            seed=options.seed,
            earlier={position: earlier[digest] for position, digest in digests.items() if digest in earlier},
        )
    samples = tuple(replace(sample, digest=digests.get(position)) for position, sample in enumerate(samples))
    return _arrange(samples, dataset.labels, cached)


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


def assign_splits(
    dataset: Dataset,
    *,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    earlier: Mapping[int, Split] | None = None,
) -> tuple[Sample, ...]:
    """Assigns every sample to `train`, `val` or `test`, class by class.

    Splits that the data set brings are kept; validation images are carved from `train` where it brings none, so that no
    choice is ever made on test images.

    Args:
        dataset: The samples.
        val_fraction: Share of the images that validate, in (0, 1); None takes 0.2 of the training images where a
            test split is given, else 0.15.
        test_fraction: Share that tests, in [0, 1); None takes 0.15. Has no say where the data set brings its splits.
        seed: Of the random choice within a class.
        earlier: Splits that some samples, by position, had in an earlier training: they stay in them where the data set
            leaves the choice. The fractions are kept as well as these allow.

    Returns:
        The samples in their order, each with its split.

    Raises:
        UsageError: A fraction is out of range, or a test fraction is given for data with splits of its own.
        DatasetError: A class has too few images to be in every split.
    """
    given = {sample.split for sample in dataset.samples}
    has_splits = given != {None}
    val, test = _fractions(given, val_fraction, test_fraction)
    if has_splits and "val" in given:
        return dataset.samples
    by_label: defaultdict[str, list[int]] = defaultdict(list)
    for position, sample in enumerate(dataset.samples):
        if sample.split in {None, "train"}:
            by_label[sample.label].append(position)
    samples = list(dataset.samples)
    for label, positions in by_label.items():
        chosen = _assign_class(label, positions, val=val, test=test, seed=seed, earlier=earlier or {})
        for position, split in chosen.items():
            samples[position] = replace(samples[position], split=split)
    return tuple(samples)


def _fractions(
    given: set[Split | None], val_fraction: float | None, test_fraction: float | None
) -> tuple[float, float]:
    """The shares of validation and test images to carve out, checked."""
    has_splits = given != {None}
    if has_splits and test_fraction is not None:
        raise UsageError(
            "a test fraction has no meaning here",
            got=f"--test-fraction {test_fraction:g} for data with splits of its own",
            expected="one or the other",
            hint="leave it out",
        )
    if "val" in given and val_fraction is not None:
        raise UsageError(
            "a validation fraction has no meaning here",
            got=f"--val-fraction {val_fraction:g} for data with a val split of its own",
            expected="one or the other",
            hint="leave it out",
        )
    val = val_fraction if val_fraction is not None else CARVED_VAL_FRACTION if has_splits else DEFAULT_VAL_FRACTION
    test = 0.0 if has_splits else DEFAULT_TEST_FRACTION if test_fraction is None else test_fraction
    if not (0.0 < val < 1.0 and 0.0 <= test < 1.0 and val + test < 1.0):
        raise UsageError(
            "bad fractions", got=f"val {val:g}, test {test:g}", expected="0 < val, 0 <= test, val + test < 1"
        )
    return val, test


def _assign_class(
    label: str, positions: Sequence[int], *, val: float, test: float, seed: int, earlier: Mapping[int, Split]
) -> dict[int, Split]:
    """The split of each image of a class."""
    splits = 3 if test else 2
    if len(positions) < splits:
        raise DatasetError(
            f"too few images of class {label!r}",
            got=str(len(positions)),
            expected=f"at least {splits}, one for each split",
            hint="add images",
        )
    test_count = min(max(1, round(len(positions) * test)), len(positions) - 2) if test else 0
    val_count = min(max(1, round(len(positions) * val)), len(positions) - test_count - 1)
    # A stream of its own for each class: adding images to one class, or a class, does not reshuffle the others.
    order = np.random.default_rng([seed, *label.encode()]).permutation(len(positions)).tolist()
    # Where the data set brings its test images, or there are none, an earlier test image is free.
    chosen = {p: earlier[p] for p in positions if p in earlier and (test or earlier[p] != "test")}
    wanted: dict[Split, int] = {"val": val_count, "test": test_count, "train": len(positions)}
    for given in chosen.values():
        wanted[given] -= 1
    for position in (positions[index] for index in order):
        if position not in chosen:
            split = next(split for split in wanted if wanted[split] > 0)
            chosen[position] = split
            wanted[split] -= 1
    return chosen


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
    if not samples or any(sample.split not in SPLITS for sample in samples):
        raise RunFolderError(
            f"cannot use {path}", got="rows without a split", expected="train, val or test", hint="train again"
        )
    return samples
