"""Which images train, which choose, which only report."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeclf.runtime.errors import DatasetError, RunFolderError, UsageError
from edgeclf.training.data.dataset import SPLITS, Dataset, Sample, Split

# Where the data set brings its own test part, validation takes this share of the training images.
CARVED_VAL_FRACTION = 0.2
DEFAULT_VAL_FRACTION = 0.15
DEFAULT_TEST_FRACTION = 0.15


def assign_splits(
    dataset: Dataset,
    *,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    known: Mapping[int, Split] | None = None,
) -> tuple[Sample, ...]:
    """Puts every sample into `train`, `val` or `test`, class by class.

    Parts that the data set brings are kept; validation images are carved from `train` where it brings none, so that no
    choice is ever made on test images.

    Args:
        dataset: The samples.
        val_fraction: Share of the images that validate, in (0, 1); None takes 0.2 of the training images where a
            test part is given, else 0.15.
        test_fraction: Share that tests, in [0, 1); None takes 0.15. Has no say where the data set brings its parts.
        seed: Of the random choice within a class.
        known: Parts that some samples, by position, had in an earlier training: they stay in them where the data set
            leaves the choice. The fractions are kept as well as these allow.

    Returns:
        The samples in their order, each with its split.

    Raises:
        UsageError: A fraction is out of range, or a test fraction is given for data with parts of its own.
        DatasetError: A class has too few images to be in every part.
    """
    given = {sample.split for sample in dataset.samples}
    has_parts = given != {None}
    val, test = _fractions(given, val_fraction, test_fraction)
    if has_parts and "val" in given:
        return dataset.samples
    by_label: defaultdict[str, list[int]] = defaultdict(list)
    for position, sample in enumerate(dataset.samples):
        if sample.split in {None, "train"}:
            by_label[sample.label].append(position)
    samples = list(dataset.samples)
    for label, positions in by_label.items():
        chosen = _assign_class(label, positions, val=val, test=test, seed=seed, known=known or {})
        for position, split in chosen.items():
            samples[position] = replace(samples[position], split=split)
    return tuple(samples)


def _fractions(
    given: set[Split | None], val_fraction: float | None, test_fraction: float | None
) -> tuple[float, float]:
    """The shares of validation and test images to carve out, checked."""
    has_parts = given != {None}
    if has_parts and test_fraction is not None:
        raise UsageError(
            "a test fraction has no meaning here",
            got=f"--test-fraction {test_fraction:g} for data with parts of its own",
            expected="one or the other",
            do="leave it out",
        )
    if "val" in given and val_fraction is not None:
        raise UsageError(
            "a validation fraction has no meaning here",
            got=f"--val-fraction {val_fraction:g} for data with a validation part of its own",
            expected="one or the other",
            do="leave it out",
        )
    val = val_fraction if val_fraction is not None else CARVED_VAL_FRACTION if has_parts else DEFAULT_VAL_FRACTION
    test = 0.0 if has_parts else DEFAULT_TEST_FRACTION if test_fraction is None else test_fraction
    if not (0.0 < val < 1.0 and 0.0 <= test < 1.0 and val + test < 1.0):
        raise UsageError(
            "bad fractions", got=f"val {val:g}, test {test:g}", expected="0 < val, 0 <= test, val + test < 1"
        )
    return val, test


def _assign_class(
    label: str, positions: Sequence[int], *, val: float, test: float, seed: int, known: Mapping[int, Split]
) -> dict[int, Split]:
    """The part of each image of a class."""
    parts = 3 if test else 2
    if len(positions) < parts:
        raise DatasetError(
            f"too few images of class {label!r}",
            got=str(len(positions)),
            expected=f"at least {parts}, one for each part",
            do="add images",
        )
    test_count = min(max(1, round(len(positions) * test)), len(positions) - 2) if test else 0
    val_count = min(max(1, round(len(positions) * val)), len(positions) - test_count - 1)
    # A stream of its own for each class: adding images to one class, or a class, does not reshuffle the others.
    order = np.random.default_rng([seed, *label.encode()]).permutation(len(positions)).tolist()
    # Where the data set brings its test images, or there are none, an earlier test image is free.
    chosen = {p: known[p] for p in positions if p in known and (test or known[p] != "test")}
    wanted: dict[Split, int] = {"val": val_count, "test": test_count, "train": len(positions)}
    for split in chosen.values():
        wanted[split] -= 1
    for position in (positions[index] for index in order):
        if position not in chosen:
            split = next(part for part in wanted if wanted[part] > 0)
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
                Sample(row["path"], row["label"], row["split"], row.get("digest") or None)  # type: ignore[arg-type]
                for row in csv.DictReader(file)
            )
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise RunFolderError(
            f"cannot read {path}", got=str(error), expected="path,label,split", do="train again"
        ) from error
    if not samples or any(sample.split not in SPLITS for sample in samples):
        raise RunFolderError(
            f"cannot use {path}", got="rows without a split", expected="train, val or test", do="train again"
        )
    return samples
