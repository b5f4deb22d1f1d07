"""Which images there are and what they are labelled: class folders, `train/` + `test/` folders, or a CSV.

Nothing is decoded here, and neither TensorFlow nor Keras is needed: `evaluate` and `verify` use this on devices.
"""

import csv
import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.preprocess import IMAGE_SUFFIXES

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_LAYOUT = "a folder of class folders, train/ and test/ folders of class folders, or a CSV with path,label[,split]"


@dataclass(frozen=True)
class Sample:
    """One labelled image file.

    Attributes:
        path: Relative to the data set's root, with forward slashes.
        label: Its class.
        split: The part it was put into by its folder or its CSV row, None where it was not.
    """

    path: str
    label: str
    split: Split | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled image files.

    Attributes:
        root: Absolute path that the samples' paths are relative to.
        samples: The files, sorted by path.
    """

    root: Path
    samples: tuple[Sample, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names that occur, sorted."""
        return tuple(sorted({sample.label for sample in self.samples}))

    def count(self, split: Split | None) -> int:
        """Number of samples in a part."""
        return sum(sample.split == split for sample in self.samples)


def discover_dataset(data: Path | str, *, for_training: bool = True) -> Dataset:
    """Lists a data set's labelled images.

    Files that are not images by their suffix, and hidden files and folders, are passed over. A folder or a dangling
    link named like an image is listed: reading it fails later, in its own record, rather than vanishing here.

    Args:
        data: Folder or CSV.
        for_training: Whether the data must be fit to train on: two classes, each in every part.

    Raises:
        DatasetError: There is nothing there, no image, no class, classes whose names clash, or - for training - only
            one class, parts with different classes, or too few images.
    """
    data = Path(data)
    if not data.exists():
        raise DatasetError(f"cannot find data {data}", got="no such path", expected=_LAYOUT, do="check the path")
    samples = _from_folder(data) if data.is_dir() else _from_csv(data)
    root = (data if data.is_dir() else data.parent).resolve()
    if not samples:
        raise DatasetError(
            f"no labelled images in {data}", got=_describe_folder(data), expected=_LAYOUT, do="sort the images by class"
        )
    dataset = Dataset(root, tuple(sorted(samples, key=lambda sample: sample.path)))
    _check_names(dataset.labels, data)
    if for_training:
        _check_trainable(dataset, data)
    return dataset


def fingerprint(labels_and_digests: Iterable[tuple[str, str]]) -> str:
    """A digest of a data set's content: which images it has under which label, wherever they lie.

    Args:
        labels_and_digests: For each image its label and the digest of its bytes, in any order.
    """
    digest = hashlib.blake2b(digest_size=16)
    for label, content in sorted(labels_and_digests):
        digest.update(f"{label}\0{content}\n".encode())
    return f"blake2b:{digest.hexdigest()}"


def _from_folder(root: Path) -> list[Sample]:
    children = _folders(root)
    parts = {child: _SPLIT_FOLDERS.get(child.name.lower()) for child in children}
    if children and all(parts.values()) and "train" in parts.values():
        clash = [split for split, count in Counter(parts.values()).items() if count > 1]
        if clash:
            raise DatasetError(
                f"{root} has two {clash[0]} folders",
                got=", ".join(child.name for child in children),
                expected="one of each",
                do="merge them",
            )
        return [
            sample
            for child, split in parts.items()
            for label_folder in _folders(child)
            for sample in _class_samples(root, label_folder, split)
        ]
    # A lone test/ folder is evaluation data laid out like its training set.
    if len(children) == 1 and parts[children[0]] is not None:
        (child,) = children
        return [s for folder in _folders(child) for s in _class_samples(root, folder, parts[child])]
    return [sample for folder in children for sample in _class_samples(root, folder, None)]


def _folders(folder: Path) -> list[Path]:
    return sorted(
        child
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and not _looks_like_image(child)
    )


def _class_samples(root: Path, folder: Path, split: Split | None) -> list[Sample]:
    return [
        Sample(path.relative_to(root).as_posix(), folder.name, split)
        for path in _walk(folder)
        if _looks_like_image(path)
    ]


def _walk(folder: Path) -> Iterable[Path]:
    """Files below a folder, and folders named like an image, without hidden ones; links to folders are not followed."""
    for child in sorted(folder.iterdir()):
        if child.name.startswith("."):
            continue
        if child.is_dir() and not child.is_symlink() and not _looks_like_image(child):
            yield from _walk(child)
        else:
            yield child


def _looks_like_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _from_csv(path: Path) -> list[Sample]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
            columns = set(rows[0]) if rows else set()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"cannot read {path}", got=str(error), expected=_LAYOUT) from error
    if not {"path", "label"} <= columns:
        raise DatasetError(
            f"cannot use {path} as a data set",
            got=f"columns {', '.join(sorted(str(c) for c in columns)) or 'none'}",
            expected="path,label[,split] in the first line",
            do="name the columns so",
        )
    return [_csv_sample(path, number, row) for number, row in enumerate(rows, start=2)]


def _csv_sample(path: Path, line: int, row: dict[str, str | None]) -> Sample:
    name, label, part = ((row.get(key) or "").strip() for key in ("path", "label", "split"))
    if not name or not label:
        raise DatasetError(
            f"{path} line {line} is incomplete",
            got=f"path {name!r}, label {label!r}",
            expected="both",
            do="fill them in",
        )
    if part and part.lower() not in _SPLIT_FOLDERS:
        raise DatasetError(
            f"{path} line {line} names an unknown part", got=repr(part), expected="train, val, test or nothing"
        )
    return Sample(Path(name).as_posix(), label, _SPLIT_FOLDERS[part.lower()] if part else None)


def _check_names(labels: Sequence[str], data: Path) -> None:
    """Two names that a person (or a file system) takes for one are two classes only by accident."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        alike[unicodedata.normalize("NFKC", label).casefold().strip()].append(label)
    for names in alike.values():
        if len(names) > 1:
            raise DatasetError(
                f"two classes of {data} have the same name",
                got=" and ".join(repr(name) for name in names),
                expected="names that differ by more than case, spaces or the spelling of accents",
                do="merge or rename them",
            )


def _check_trainable(dataset: Dataset, data: Path) -> None:
    labels = dataset.labels
    if len(labels) < 2:
        raise DatasetError(
            f"{data} has one class only",
            got=repr(labels[0]),
            expected="two or more classes",
            do="add another class folder",
        )
    if len(dataset.samples) < len(labels):
        raise DatasetError(
            f"{data} has fewer images than classes",
            got=f"{len(dataset.samples)} images",
            expected=f"{len(labels)} or more",
        )
    by_split: defaultdict[Split | None, set[str]] = defaultdict(set)
    for sample in dataset.samples:
        by_split[sample.split].add(sample.label)
    if None in by_split and len(by_split) > 1:
        raise DatasetError(
            f"only some images of {data} have a split", got=f"{dataset.count(None)} without", expected="all or none"
        )
    if None not in by_split and "train" not in by_split:
        raise DatasetError(f"{data} has no training part", got=", ".join(map(str, by_split)), expected="train/")
    for split in ("val", "test"):
        if split in by_split and by_split[split] != by_split["train"]:
            odd = sorted(by_split[split] ^ by_split["train"])
            raise DatasetError(
                f"train and {split} of {data} have different classes",
                got=f"{', '.join(repr(label) for label in odd[:5])} in one of them only",
                expected="the same classes in both",
                do="rename or move the folders",
            )


def _describe_folder(data: Path) -> str:
    if not data.is_dir():
        return "no rows"
    loose = sum(1 for child in data.iterdir() if child.is_file() and _looks_like_image(child))
    if loose:
        return f"{loose} images that lie in no class folder"
    folders = len(_folders(data))
    return f"{folders} folders without an image" if folders else "an empty folder"
