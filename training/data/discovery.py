"""Discovery of a data set: class folders, `train/` + `test/` folders, or a CSV, checked for evaluation or training.

Nothing is decoded here, and neither TensorFlow nor Keras is needed: `evaluate` and `verify` use this on devices.
"""

import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.batch.listing import count_kinds, is_left_behind, looks_like_image, unread_sentence, walk
from edgeclf.runtime.errors import DatasetError, UsageError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.training.data.class_folders import ClassFolders, describe_without_images, read_class_folders
from edgeclf.training.data.dataset import SPLIT_NAME, Dataset, Sample, Split, read_run_facts
from edgeclf.training.data.packed.dataset import is_packed, packed_root, read_packed, restore_images
from edgeclf.training.data.packed.shards import MARKS, SUFFIXES
from edgeclf.training.data.table import LAYOUT, check_text, read_table
from edgeclf.training.data.table_files import TableOptions, table_root
from edgeclf.training.options import TrainOptions


def discover_dataset(
    data: Path | str,
    *,
    for_training: bool = True,
    table: TableOptions | None = None,
    group_by: str | None = None,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> Dataset:
    """Lists a data set's labelled images.

    Files that are not images by their suffix are counted; hidden files and folders, what systems leave behind and run
    folders are passed over; links to folders are followed, see `walk_all`. A folder or a dangling link named like an
    image is listed: reading it fails later, in its own record, rather than vanishing here. Images in Parquet and Arrow files
    are extracted into the cache.

    Args:
        data: Folder, CSV, Parquet or Arrow file, or a folder of these.
        for_training: Whether the data must suit training: two classes or more, each in every split.
        table: What the user says of a table; None for nothing.
        group_by: Column of a table, or regular expression on paths, that says what each image belongs to; None for none.
        cache_folder: Where images are extracted to; None takes the default.
        progress: Receives the numbers of packed files read and of images extracted.

    Raises:
        UsageError: Something is said of a CSV, and the data are a folder; the folder of its images is not there; or
            `group_by` is neither a column nor an expression that some path matches.
        DatasetError: There is nothing there, no image, no class, classes whose names clash, or - for training - only
            one class, splits with different classes, or too few images. Or its folders are no classes: look like splits,
            but are not named plainly, or hold images and annotations. Or a Parquet or Arrow file cannot be read, or its
            columns cannot be told.
        OutputError: The cache cannot be written.
        MissingPackageError: There are Parquet or Arrow files, and pyarrow is not installed.
    """
    data = Path(data)
    folders: ClassFolders | None = None
    try:
        if not data.exists():
            raise DatasetError(f"cannot find data {data}", got="no such path", expected=LAYOUT, hint="check the path")
        if _holds_packed(data):
            root, listed = read_packed(data, table, group_by, cache_folder=cache_folder, progress=progress)
            samples: Sequence[Sample] = listed
        elif data.is_dir():
            _refuse_idle_options(table, data)
            root, folders = data.resolve(), read_class_folders(data)
            samples = folders.samples
        else:
            _restore_images_of_run(data)
            root, samples = table_root(data).resolve(), read_table(data, table, group_by)
        if not samples:
            raise DatasetError(
                f"no labelled images in {data}",
                got="no rows" if folders is None else describe_without_images(data),
                expected=LAYOUT,
                hint=_hint_without_images(data),
            )
    except OSError as error:
        raise DatasetError(
            f"cannot list data {data}",
            got=(error.strerror or type(error).__name__).lower(),
            expected="folders that can be read",
            hint="check the path and its permissions",
        ) from error
    if group_by is not None and not any(sample.group is not None for sample in samples):
        samples = _grouped(samples, group_by)
    not_read = {} if folders is None else folders.not_read
    dataset = Dataset(root, tuple(sorted(samples, key=lambda sample: sample.path)), data.absolute(), not_read)
    _check_names(dataset.labels, data)
    if for_training:
        _check_no_names_alike(dataset.labels, data, is_folder=folders is not None)
        _check_trainable(dataset, data)
        if folders is not None:
            _check_no_class_is_empty(dataset, folders.folders, data)
    return dataset


def _holds_packed(data: Path) -> bool:
    """Whether images lie in Parquet or Arrow files there: in `data` itself, or in those of a folder without image files."""
    if not data.is_dir():
        return data.suffix.lower() in SUFFIXES and is_packed(data)
    if any((data / name).is_file() for name in MARKS) and is_packed(data):
        return True
    has_parquet = False
    # Folders of images, which may be large, are left at the first image.
    for _, _, names in os.walk(data):
        files = [Path(name) for name in names if not is_left_behind(name)]
        if any(map(looks_like_image, files)):
            return False
        has_parquet = has_parquet or any(file.suffix.lower() == ".parquet" for file in files)
    # That walk has followed no links.
    return has_parquet and not any(map(looks_like_image, walk(data)))


def _refuse_idle_options(table: TableOptions | None, data: Path) -> None:
    if table is not None and table.given:
        raise UsageError(
            f"{next(iter(table.given))} is for a CSV",
            got=f"the folder {data}",
            expected="a CSV that lists the images",
            hint="leave it out, or name the CSV",
        )


def _grouped(samples: Sequence[Sample], expression: str) -> list[Sample]:
    """The samples with what a regular expression finds in their paths as their groups."""
    expected = "a column of the table, or a regular expression that paths match"
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"bad --group-by {expression}", got=str(error), expected=expected) from error
    matches = [pattern.search(sample.path) for sample in samples]
    names = [match and "/".join(filter(None, match.groups() or (match[0],))) for match in matches]
    if not any(names):
        raise UsageError(
            f"--group-by {expression!r} finds nothing"
            if not expression.strip()
            else f"--group-by {expression} finds nothing",
            got=f"{'only empty matches' if any(matches) else 'no match'} in {len(samples)} paths such as {samples[0].path}",
            expected=expected,
            hint="check it, or leave it out",
        )
    return [replace(sample, group=name or None) for sample, name in zip(samples, names, strict=True)]


def table_options(options: TrainOptions) -> TableOptions:
    """What the options of a training say of a CSV."""
    return TableOptions(options.path_column, options.label_column, options.image_folder, options.image_suffix)


def folder_of(data: Path, path_column: str | None) -> Path:
    """Folder that the paths of a data set are relative to: its own, that of its CSV, of a run's images, or of extracted images.

    Args:
        data: As for `discover_dataset`.
        path_column: The column of images that a training was given, or the user names now; None for none.

    Raises:
        DatasetError: It is the split of a run whose images are not there.
        EdgeclfError: Images in Parquet or Arrow files cannot be extracted, see `read_packed`.
    """
    if _holds_packed(data):
        return packed_root(data, path_column)
    if data.is_dir():
        return data
    _restore_images_of_run(data)
    return table_root(data)


def _restore_images_of_run(split: Path) -> None:
    """Extracts the images of a run again whose split is named, where they lay in the cache and are gone."""
    try:
        facts = read_run_facts(split.parent)
        root, source, column = Path(facts["data_root"]), Path(facts["data"]), facts["options"].get("path_column")
    except (OSError, ValueError, KeyError):
        return
    if split.name == SPLIT_NAME:
        restore_images(root, source, column)


def check_place(data: Path) -> None:
    """Refuses what cannot be the place of a data set, without listing it.

    Raises:
        DatasetError: It is neither a folder nor a file of text, nor a Parquet or Arrow file.
    """
    if not data.is_dir() and not is_packed(data):
        check_text(data)


def _check_names(labels: Sequence[str], data: Path) -> None:
    for label in labels:
        # Control characters, and the stand-ins for bytes of a name that is not Unicode.
        if any(unicodedata.category(character) in {"Cc", "Cs"} for character in label):
            raise DatasetError(
                f"a class of {data} has a name that cannot be shown",
                got=ascii(label),
                expected="Unicode text without control characters",
                hint="rename it",
            )


def _check_no_names_alike(labels: Sequence[str], data: Path, *, is_folder: bool) -> None:
    """Two names that a person (or a file system) takes for one are two classes only by accident.

    In a CSV they may differ in case on purpose: ImageNet has the garment `cardigan` and the dog `Cardigan`.
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        # Without what is not seen: spaces of no width, marks of direction, variants of emoji.
        seen = (c for c in label if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
        name = " ".join(unicodedata.normalize("NFKC", "".join(seen)).split())
        alike[name.casefold() if is_folder else name].append(label)
    for names in alike.values():
        if len(names) > 1:
            raise DatasetError(
                f"two classes of {data} have the same name",
                got=" and ".join(repr(name) for name in names),
                expected=f"names that differ by more than {'case or ' if is_folder else ''}spaces",
                hint="merge or rename them, or list the images in a CSV, where names may differ in case",
            )


def _check_trainable(dataset: Dataset, data: Path) -> None:
    labels = dataset.labels
    if len(labels) < 2:
        raise DatasetError(
            f"{data} has one class only",
            got=repr(labels[0]),
            expected="two or more classes",
            hint=_hint_for_one_class(dataset, data),
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


def _hint_without_images(data: Path) -> str:
    """Where a table lies beside images that are not sorted, it may have their classes."""
    tables = (
        sorted(path.name for path in data.iterdir() if path.suffix.lower() in {".csv", ".tsv"}) if data.is_dir() else []
    )
    return (
        f"name {data / tables[0]} if it lists their classes, or sort them into folders"
        if tables
        else "sort the images by class"
    )


def _hint_for_one_class(dataset: Dataset, data: Path) -> str:
    """An archive unpacks into folders of its own, the first of which is then taken for the class."""
    folders = [sample.path.split("/")[:-1] for sample in dataset.samples]
    places = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
    shared = [names[0] for names in places]
    if data.is_dir() and shared and all(len(names) > len(shared) for names in folders):
        return f"name {data.joinpath(*shared)} if its folders are the classes"
    return "add another class folder" if data.is_dir() else "add images of another class"


def _check_no_class_is_empty(dataset: Dataset, names: Sequence[str], data: Path) -> None:
    """A class folder without an image would otherwise be a class that the model silently does not know."""
    used = {sample.path.rsplit("/", 1)[0] for sample in dataset.samples}
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
    others = count_kinds(path for name in empty for path in walk(data / name))
    unread = unread_sentence(others, "such folders")
    raise DatasetError(
        f"a class folder of {data} has no image",
        got=", ".join(repr(name) for name in empty[:5]),
        expected="images in every class folder",
        hint="add images or remove the folder" if unread is None else f"{unread}; convert them, or remove the folder",
    )
