"""Rows of packed data sets: the columns of images and labels found by their types, and read a few rows at a time."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeclf.runtime.errors import DatasetError, ImageError, MissingPackageError, install_hint
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.images.encoded_file import read_image_file
from edgeclf.runtime.images.header import begins_like_image
from edgeclf.runtime.images.preprocess import MAX_PIXELS
from edgeclf.training.data.class_folders import label_of, split_of_folder
from edgeclf.training.data.dataset import Split
from edgeclf.training.data.packed.shards import Shard

# Rows of images that are in memory at once.
_ROWS_AT_ONCE = 64
# What Arrow files begin with that are no streams.
_ARROW_FILE_MAGIC = b"ARROW1"
_SPLIT = "split"
# By which an image is told.
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Columns:
    """The columns of a packed data set that say what its images are, by name.

    Attributes:
        label: The classes.
        classes: Names of classes that are stored as numbers, in their order; None where the column has the names.
        split: The split of each row; None where there is none.
        group: What each row belongs to; None where nothing is asked for.
    """

    label: str
    classes: tuple[str, ...] | None
    split: str | None
    group: str | None


@dataclass(frozen=True)
class RowFacts:
    """What one row says of its image.

    Attributes:
        label: Its class.
        split: Its split; None where nothing says one.
        group: What it belongs to; None where nothing says it.
    """

    label: str
    split: Split | None
    group: str | None


def find_image_column(shards: Sequence[Shard], given: str | None = None) -> str:
    """The column of images: the one that is named, else `image`, else the only one that has encoded images.

    Args:
        shards: The files; the first one's columns are taken.
        given: Name of the column as the user says it; None for nothing.

    Raises:
        DatasetError: A file cannot be read, there is no such column, or several may be meant.
        MissingPackageError: pyarrow is not installed.
    """
    path = shards[0].path
    schema = _schema(path)
    features = _features(schema)
    return _chosen(
        path,
        schema.names,
        given=given,
        flag="--path-column",
        usual="image",
        kind="images",
        candidates=[name for name in schema.names if _holds_images(schema.field(name).type, features.get(name))],
    )


def find_columns(shards: Sequence[Shard], given: str | None = None, group_by: str | None = None) -> Columns:
    """Finds the column of labels - the one that is named, else `label`, else the only ClassLabel - and those of splits and groups.

    Args:
        shards: The files; the first one's columns are taken.
        given: Name of the column of labels as the user says it; None for nothing.
        group_by: Name of the column with what each row belongs to; passed over where there is no such column.

    Raises:
        DatasetError: As for `find_image_column`.
        MissingPackageError: pyarrow is not installed.
    """
    path = shards[0].path
    schema = _schema(path)
    features = _features(schema)
    names = list(schema.names)
    label = _chosen(
        path,
        names,
        given=given,
        flag="--label-column",
        usual="label",
        kind="labels",
        candidates=[name for name in names if features.get(name, {}).get("_type") == "ClassLabel"]
        or [name for name in names if name == "label"],
    )
    if not _holds_labels(schema.field(label).type):
        raise DatasetError(
            f"column {label} of {path} has no labels",
            got=str(schema.field(label).type),
            expected="text, whole numbers or ClassLabel of datasets, one for each image",
            hint="pass --label-column",
        )
    classes = features.get(label, {}).get("names")
    return Columns(
        label=label,
        classes=tuple(map(str, classes)) if isinstance(classes, list) else None,
        split=_SPLIT if _SPLIT in names and label != _SPLIT else None,
        group=group_by if group_by in names else None,
    )


def read_facts(shards: Sequence[Shard], columns: Columns) -> list[RowFacts]:
    """Labels, splits and groups of all rows, in their order.

    Raises:
        DatasetError: A file cannot be read or has other columns, or a row has no label or an unknown split.
    """
    wanted = [name for name in (columns.label, columns.split, columns.group) if name is not None]
    found: list[RowFacts] = []
    for shard in shards:
        for number, row in enumerate(_rows(shard.path, list(dict.fromkeys(wanted)))):
            split = shard.split
            if split is None and columns.split is not None:
                split = _split_of(row[columns.split], shard, number)
            group = None if columns.group is None else row[columns.group]
            label = _label_text(row[columns.label], columns, shard, number)
            found.append(RowFacts(label, split, None if group is None else str(group)))
    return found


def read_images(shard: Shard, column: str) -> Iterator[tuple[bytes, str | None]]:
    """The encoded images of a shard's rows, none for a row without, and the name of each one's file where it has one.

    Raises:
        DatasetError: The file cannot be read, or its rows name files instead of holding them.
    """
    for number, row in enumerate(_rows(shard.path, [column])):
        value = row[column]
        data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if not isinstance(data, bytes | None) or not isinstance(name, str | None):
            raise DatasetError(
                f"row {number:,} of {shard.path} has no image",
                got=f"{type(data).__name__} and {type(name).__name__} in column {column}",
                expected="the bytes of a file, and the text of its name",
                hint="save the data set with its images inside, as save_to_disk of datasets does",
            )
        yield (data if data is not None else _read_named(shard, number, name)), name


def count_rows(shard: Shard) -> int:
    """Number of rows of a shard.

    Raises:
        DatasetError: The file cannot be read.
    """
    with _reporting(shard.path):
        if _is_parquet(shard.path):
            return int(_parquet().read_metadata(shard.path).num_rows)
        with _pyarrow().memory_map(str(shard.path)) as file:
            return sum(batch.num_rows for batch in _whole_batches(_arrow_reader(file)))


def _read_named(shard: Shard, number: int, name: str | None) -> bytes:
    """The image file that a row names, wherever it lies, as a CSV names one; nothing of a file that is no image.

    What is no image stays where it is: its copy in the cache might be read by others than the file itself.
    """
    if not name:
        return b""
    path, cause = shard.path.parent / name, None
    try:
        if kind_of(path) != "other":
            data = read_image_file(path, MAX_PIXELS)
            return data if begins_like_image(data[:_HEAD_BYTES]) else b""
        got = "a device or a pipe"
    except ImageError as error:
        got, cause = error.got or error.what, error
    raise DatasetError(
        f"row {number:,} of {shard.path} names a file that cannot be read",
        got=f"{name}: {got}",
        expected="the bytes of the image in the row",
        hint="save the data set with its images inside, as save_to_disk of datasets does",
    ) from cause


def _label_text(value: object, columns: Columns, shard: Shard, number: int) -> str:
    # Unlabelled rows of `datasets` have the class -1.
    is_missing = value is None or value == "" or (columns.classes is not None and value == -1)
    if not is_missing and columns.classes is not None and isinstance(value, int):
        if 0 <= value < len(columns.classes):
            return label_of(columns.classes[value])
        is_missing = True
    if is_missing:
        raise DatasetError(
            f"row {number:,} of {shard.path} has no label",
            got=f"{value!r} in column {columns.label}",
            expected="a class in every row",
            hint="remove the rows without, or name the files that have labels",
        )
    return label_of(str(value))


def _split_of(value: object, shard: Shard, number: int) -> Split | None:
    split = None if value is None else split_of_folder(str(value))
    if split is None and value:
        raise DatasetError(
            f"row {number:,} of {shard.path} names an unknown split",
            got=repr(value),
            expected="train, val, test or nothing",
        )
    return split


def _chosen(
    path: Path, names: Sequence[str], *, given: str | None, flag: str, usual: str, kind: str, candidates: Sequence[str]
) -> str:
    """The column that the user names, else the one of the usual name, else the only one that may be meant."""
    if given is not None:
        if given in names:
            return given
        raise DatasetError(
            f"{path} has no column {given}",
            got=", ".join(names),
            expected=f"the column of {kind}",
            hint=f"check {flag}",
        )
    if usual in candidates:
        return usual
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise DatasetError(
            f"{path} has several columns of {kind}",
            got=", ".join(candidates),
            expected="one",
            hint=f"pass {flag} {candidates[0]}",
        )
    raise DatasetError(
        f"{path} has no column of {kind} that can be told",
        got=", ".join(names) or "no column",
        expected="encoded images and a label for each",
        hint=f"pass {flag} COLUMN",
    )


def _holds_images(column: Any, feature: Mapping[str, Any] | None) -> bool:  # noqa: ANN401 - pyarrow carries no types
    types = _pyarrow().types
    if feature is not None and feature.get("_type") == "Image":
        return True
    if types.is_struct(column):
        return any(column.field(number).name == "bytes" for number in range(column.num_fields))
    return bool(types.is_binary(column) or types.is_large_binary(column))


def _holds_labels(column: Any) -> bool:  # noqa: ANN401
    types = _pyarrow().types
    value = column.value_type if types.is_dictionary(column) else column
    tests = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean)
    return any(test(value) for test in tests)


def _features(schema: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """The features of `datasets` by column, from a file's own metadata; empty for a file that others wrote."""
    try:
        document = json.loads((schema.metadata or {})[b"huggingface"])
        features = document["info"]["features"]
        return {str(name): its for name, its in features.items() if isinstance(its, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _schema(path: Path) -> Any:  # noqa: ANN401
    with _reporting(path):
        if _is_parquet(path):
            return _parquet().read_schema(path)
        with _pyarrow().memory_map(str(path)) as file:
            return _arrow_reader(file).schema


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, each as values by column."""
    with _reporting(path):
        missing = [name for name in columns if name not in _schema(path).names]
        if missing:
            raise DatasetError(
                "the files of one data set have different columns",
                got=f"no {missing[0]} in {path}",
                expected="the same columns in all",
                hint="name the files that belong together",
            )
        for batch in _batches(path, columns):
            yield from batch.to_pylist()


def _batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    if _is_parquet(path):
        with _parquet().ParquetFile(path, memory_map=True) as file:
            yield from file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(columns), use_threads=False)
        return
    with _pyarrow().memory_map(str(path)) as file:
        for batch in _whole_batches(_arrow_reader(file)):
            few = batch.select(list(columns))
            for start in range(0, few.num_rows, _ROWS_AT_ONCE):
                yield few.slice(start, _ROWS_AT_ONCE)


def _whole_batches(reader: Any) -> Iterator[Any]:  # noqa: ANN401
    """The batches of an Arrow file or stream, memory-mapped."""
    if hasattr(reader, "get_batch"):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _arrow_reader(file: Any) -> Any:  # noqa: ANN401
    magic = file.read(len(_ARROW_FILE_MAGIC))
    file.seek(0)
    ipc = _pyarrow().ipc
    return ipc.open_file(file) if magic == _ARROW_FILE_MAGIC else ipc.open_stream(file)


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except (_pyarrow().ArrowException, OSError, ValueError) as error:
        raise DatasetError(
            f"cannot read {path}",
            got=str(error).split("\n", 1)[0][:200] or type(error).__name__,
            expected="a whole Parquet or Arrow file",
            hint="copy or download it again",
        ) from error


def _pyarrow() -> Any:  # noqa: ANN401
    return _imported("pyarrow")


def _parquet() -> Any:  # noqa: ANN401
    return _imported("pyarrow.parquet")


def _imported(name: str) -> Any:  # noqa: ANN401
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            "cannot read Parquet and Arrow files",
            got=str(error),
            expected="the package pyarrow",
            hint=install_hint("parquet") + ", or write the images into class folders, as docs/data-sets.md shows",
        ) from error
