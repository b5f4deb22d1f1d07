"""Labelled image files of a data set: class folders, `train/` + `test/` folders, or a CSV.

Nothing is decoded here, and neither TensorFlow nor Keras is needed: `evaluate` and `verify` use this on devices.
"""

import csv
import hashlib
import io
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edgeclf.runtime.batch.sources import looks_like_image, walk
from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.files import read_text

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
# Of a run folder: the images with their splits, and where they lie.
SPLIT_NAME, FACTS_NAME = "split.csv", "run.json"
_LAYOUT = "a folder of class folders, train/ and test/ folders of class folders, or a CSV with path,label[,split]"
_NAME_ONE = "name the folder of the images, or a CSV that lists them"
_MAX_WORDS = 80


@dataclass(frozen=True)
class Sample:
    """One labelled image file.

    Attributes:
        path: Relative to the data set's root, with forward slashes.
        label: Its class.
        split: The split that its folder or CSV row names; None where neither does.
        digest: Digest of the file's bytes; None where it is not known.
    """

    path: str
    label: str
    split: Split | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled image files.

    Attributes:
        root: Absolute path that the samples' paths are relative to.
        samples: The files, sorted by path.
        source: Absolute path of the folder or CSV as given; None where it is not known.
    """

    root: Path
    samples: tuple[Sample, ...]
    source: Path | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names that occur, sorted."""
        return tuple(sorted({sample.label for sample in self.samples}))

    def count(self, split: Split | None) -> int:
        """Number of samples in a split."""
        return sum(sample.split == split for sample in self.samples)


def discover_dataset(data: Path | str, *, for_training: bool = True) -> Dataset:
    """Lists a data set's labelled images.

    Files that are not images by their suffix, and hidden files and folders, are passed over. A folder or a dangling
    link named like an image is listed: reading it fails later, in its own record, rather than vanishing here.

    Args:
        data: Folder or CSV.
        for_training: Whether the data must suit training: two classes or more, each in every split.

    Raises:
        DatasetError: There is nothing there, no image, no class, classes whose names clash, or - for training - only
            one class, splits with different classes, or too few images.
    """
    data = Path(data)
    try:
        if not data.exists():
            raise DatasetError(f"cannot find data {data}", got="no such path", expected=_LAYOUT, hint="check the path")
        samples = _from_folder(data) if data.is_dir() else _from_csv(data)
        root = folder_of(data).resolve()
    except OSError as error:
        raise DatasetError(
            f"cannot list data {data}",
            got=(error.strerror or type(error).__name__).lower(),
            expected="folders that can be read",
            hint="check the path and its permissions",
        ) from error
    if not samples:
        raise DatasetError(
            f"no labelled images in {data}",
            got=_describe_folder(data),
            expected=_LAYOUT,
            hint="sort the images by class",
        )
    dataset = Dataset(root, tuple(sorted(samples, key=lambda sample: sample.path)), data.absolute())
    _check_names(dataset.labels, data)
    if for_training:
        _check_trainable(dataset, data)
        if data.is_dir():
            _check_no_class_is_empty(dataset, data)
    return dataset


def folder_of(data: Path) -> Path:
    """Folder that the paths of a data set are relative to: its own, that of its CSV, or that of a run's images.

    Raises:
        DatasetError: It is the split of a run whose images are not there.
    """
    return data if data.is_dir() else _csv_root(data)


def check_place(data: Path) -> None:
    """Refuses what cannot be the place of a data set, without listing it.

    Raises:
        DatasetError: It is neither a folder nor a file of text.
    """
    if not data.is_dir():
        _csv_text(data)


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
    splits = {child: _SPLIT_FOLDERS.get(child.name.lower()) for child in children}
    others = [child for child in children if splits[child] is None]
    if {"train", "test"} <= set(splits.values()) or {"train", "val"} <= set(splits.values()):
        _check_splits_only(root, others)
        children = [child for child in children if child not in others]
    if children and all(splits[child] for child in children) and "train" in splits.values():
        clash = [split for split, count in Counter(splits.values()).items() if count > 1]
        if clash:
            raise DatasetError(
                f"{root} has two {clash[0]} folders",
                got=", ".join(child.name for child in children),
                expected="one of each",
                hint="merge them",
            )
        return [
            sample
            for child in children
            for label_folder in _folders(child)
            for sample in _class_samples(root, label_folder, splits[child])
        ]
    # A lone test/ folder is evaluation data laid out like its training set.
    if len(children) == 1 and splits[children[0]] is not None:
        (child,) = children
        return [s for folder in _folders(child) for s in _class_samples(root, folder, splits[child])]
    return [sample for folder in children for sample in _class_samples(root, folder, None)]


def _check_splits_only(root: Path, others: Sequence[Path]) -> None:
    """Refuses images beside train/ and test/: they belong to no split, and taking all folders for classes would be worse."""
    with_images = [folder.name for folder in others if any(looks_like_image(path) for path in walk(folder))]
    if with_images:
        raise DatasetError(
            f"{root} mixes train/, test/ and other folders",
            got=f"{', '.join(repr(name) for name in with_images[:5])} beside them",
            expected="train/ with val/ or test/ and nothing else, or class folders only",
            hint="move the other folders elsewhere",
        )


def _folders(folder: Path) -> list[Path]:
    return sorted(
        child
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and not looks_like_image(child)
    )


def _class_samples(root: Path, folder: Path, split: Split | None) -> list[Sample]:
    return [
        Sample(path.relative_to(root).as_posix(), folder.name, split)
        for path in walk(folder)
        # A folder that may not be listed is one unreadable sample: what is in it must not vanish without a word.
        if looks_like_image(path) or path.is_dir()
    ]


def _from_csv(path: Path) -> list[Sample]:
    text = _csv_text(path)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DatasetError(f"cannot read {path}", got=str(error), expected=_LAYOUT, hint=_NAME_ONE) from error
    if not {"path", "label"} <= set(columns):
        first = text.split("\n", 1)[0].strip()
        separator = next((mark for mark in (";", "\t", "|") if {"path", "label"} <= set(first.split(mark))), None)
        raise DatasetError(
            f"cannot use {path} as a data set",
            got=f"the first line {first[:_MAX_WORDS]!r}" if text.strip() else "an empty file",
            expected="path,label[,split] in the first line",
            hint="name the columns so" if separator is None else f"separate them by commas, not by {separator!r}",
        )
    samples: dict[str, tuple[int, Sample]] = {}
    for line, row in rows:
        sample = _csv_sample(path, line, row)
        if sample.path in samples:
            raise DatasetError(
                f"{path} line {line} repeats an image",
                got=f"{sample.path}, also in line {samples[sample.path][0]}",
                expected="each image once",
                hint="remove one of the lines",
            )
        samples[sample.path] = (line, sample)
    return [sample for _, sample in samples.values()]


def _csv_root(path: Path) -> Path:
    """The folder that a CSV's paths are relative to: its own, or of a run's split that of the images it was made from."""
    if path.name != SPLIT_NAME or not (path.parent / FACTS_NAME).is_file():
        return path.parent
    try:
        root = Path(json.loads((path.parent / FACTS_NAME).read_text(encoding="utf-8"))["data_root"])
    except (ValueError, KeyError, TypeError):
        return path.parent
    if not root.is_dir():
        raise DatasetError(
            f"cannot find the images of {path}",
            got=f"no folder {root}",
            expected="the folder that the run was trained on",
            hint=f"copy {path.name} into the folder where they are now, and name that copy",
        )
    return root


def _csv_text(path: Path) -> str:
    return read_text(
        path, what=f"cannot use {path} as a data set", expected=_LAYOUT, hint=_NAME_ONE, error_class=DatasetError
    )


def _csv_sample(path: Path, line: int, row: dict[str, str | None]) -> Sample:
    name, label, split = ((row.get(key) or "").strip() for key in ("path", "label", "split"))
    if not name or not label:
        raise DatasetError(
            f"{path} line {line} is incomplete",
            got=f"path {name!r}, label {label!r}",
            expected="both",
            hint="fill them in",
        )
    if "\0" in name:
        raise DatasetError(f"{path} line {line} has an impossible path", got=repr(name), expected="a file name")
    if split and split.lower() not in _SPLIT_FOLDERS:
        raise DatasetError(
            f"{path} line {line} names an unknown split", got=repr(split), expected="train, val, test or nothing"
        )
    return Sample(Path(name).as_posix(), label, _SPLIT_FOLDERS[split.lower()] if split else None)


def _check_names(labels: Sequence[str], data: Path) -> None:
    """Two names that a person (or a file system) takes for one are two classes only by accident."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        # Control characters, and the stand-ins for bytes of a name that is not Unicode.
        if any(unicodedata.category(character) in {"Cc", "Cs"} for character in label):
            raise DatasetError(
                f"a class of {data} has a name that cannot be shown",
                got=ascii(label),
                expected="Unicode text without control characters",
                hint="rename it",
            )
        alike[unicodedata.normalize("NFKC", label).casefold().strip()].append(label)
    for names in alike.values():
        if len(names) > 1:
            raise DatasetError(
                f"two classes of {data} have the same name",
                got=" and ".join(repr(name) for name in names),
                expected="names that differ by more than case, spaces or the spelling of accents",
                hint="merge or rename them",
            )


def _check_trainable(dataset: Dataset, data: Path) -> None:
    labels = dataset.labels
    if len(labels) < 2:
        raise DatasetError(
            f"{data} has one class only",
            got=repr(labels[0]),
            expected="two or more classes",
            hint="add another class folder",
        )
    by_split: defaultdict[Split | None, set[str]] = defaultdict(set)
    for sample in dataset.samples:
        by_split[sample.split].add(sample.label)
    if None in by_split and len(by_split) > 1:
        raise DatasetError(
            f"only some images of {data} have a split", got=f"{dataset.count(None)} without", expected="all or none"
        )
    if None not in by_split and "train" not in by_split:
        raise DatasetError(f"{data} has no train split", got=", ".join(map(str, by_split)), expected="train/")
    for split in ("val", "test"):
        if split in by_split and by_split[split] != by_split["train"]:
            odd = sorted(by_split[split] ^ by_split["train"])
            raise DatasetError(
                f"train and {split} of {data} have different classes",
                got=f"{', '.join(repr(label) for label in odd[:5])} in one of them only",
                expected="the same classes in both",
                hint="rename or move the folders",
            )


def _check_no_class_is_empty(dataset: Dataset, data: Path) -> None:
    """A class folder without an image would otherwise be a class that the model silently does not know."""
    used = {sample.path.rsplit("/", 1)[0] for sample in dataset.samples}
    folders = _folders(data)
    if dataset.samples[0].split is not None:
        folders = [
            folder
            for split_folder in folders
            if split_folder.name.lower() in _SPLIT_FOLDERS
            for folder in _folders(split_folder)
        ]
    names = [folder.relative_to(data).as_posix() for folder in folders]
    empty = [name for name in names if not any(path == name or path.startswith(f"{name}/") for path in used)]
    if not empty:
        return
    if len(dataset.samples) < len({Path(name).name for name in names}):
        raise DatasetError(
            f"{data} has fewer images than classes",
            got=f"{len(dataset.samples)} images for {len(names)} class folders",
            expected="images of every class",
            hint="add images",
        )
    raise DatasetError(
        f"a class folder of {data} has no image",
        got=", ".join(repr(name) for name in empty[:5]),
        expected="images in every class folder",
        hint="add images or remove the folder",
    )


def _describe_folder(data: Path) -> str:
    if not data.is_dir():
        return "no rows"
    loose = sum(1 for child in data.iterdir() if child.is_file() and looks_like_image(child))
    if loose:
        return f"{loose} images that lie in no class folder"
    folders = len(_folders(data))
    return f"{folders} folders without an image" if folders else "an empty folder"
