"""Shards: the Parquet or Arrow files of a packed data set, in their order, and the split that each belongs to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeclf.runtime.batch.listing import walk
from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.files import kind_of, parse_failure
from edgeclf.runtime.spec.json_documents import read_json
from edgeclf.training.data.class_folders import split_of_folder
from edgeclf.training.data.dataset import Split

SUFFIXES = frozenset((".parquet", ".arrow"))
# What `datasets` writes into the folder of a data set, and around the folders of its splits.
_STATE_NAME, _SPLITS_NAME = "state.json", "dataset_dict.json"
MARKS = (_STATE_NAME, _SPLITS_NAME)
# `train-00000-of-00004.parquet`, in older files with a digest behind.
_NUMBERED = re.compile(r"(.+?)-\d{5,}-of-\d{5,}(?:-[0-9a-f]+)?")
# A folder that says nothing of what is in it.
_PLAIN_FOLDER = "data"


@dataclass(frozen=True)
class Shard:
    """One file of a packed data set.

    Attributes:
        path: The file.
        name: Its path in the data set without suffix, with forward slashes.
        split: The split that it is of; None where the data set has none.
    """

    path: Path
    name: str
    split: Split | None = None


def is_packed_file(data: Path) -> bool:
    """Whether a path is named like a Parquet or an Arrow file."""
    return data.suffix.lower() in SUFFIXES and kind_of(data) == "file"


def is_saved_dataset(data: Path) -> bool:
    """Whether a path is a folder that `save_to_disk` of `datasets` wrote."""
    return kind_of(data / _SPLITS_NAME) == "file" or _is_saved_split(data)


def _is_saved_split(folder: Path) -> bool:
    return kind_of(folder / _STATE_NAME) == "file" and any(folder.glob("*.arrow"))


def find_shards(data: Path) -> tuple[Shard, ...]:
    """Lists the shards of a packed data set.

    Args:
        data: A Parquet or Arrow file, a folder that `save_to_disk` of `datasets` wrote, or a folder of Parquet files.

    Returns:
        The shards in the order of their rows; none where a folder has none.

    Raises:
        DatasetError: Files of a saved data set are missing or damaged, only some files name a split, a split has a name
            that says no part, or the folder has several data sets.
        OSError: The folder cannot be listed.
    """
    if is_packed_file(data):
        return (Shard(data, data.stem),)
    if kind_of(data / _SPLITS_NAME) == "file":
        return _of_one_part(_saved_splits(data))
    if is_saved_dataset(data):
        return _saved_shards(data, "", None)
    paths = [path for path in walk(data) if path.suffix.lower() == ".parquet"]
    _check_one_dataset(data, paths)
    shards = [
        Shard(path, path.relative_to(data).with_suffix("").as_posix(), _split_of_file(path.relative_to(data)))
        for path in paths
    ]
    odd = [shard for shard in shards if shard.split is None]
    if 0 < len(odd) < len(shards):
        raise DatasetError(
            f"only some files of {data} say which split they are",
            got=odd[0].path.name,
            expected="names such as train-00000-of-00004.parquet and test.parquet, or no split at all",
            hint="rename it, or name one file",
        )
    return _of_one_part(shards)


def _of_one_part(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """The shards, without their split where all have the same: they are then divided as any other data set is."""
    if len({shard.split for shard in shards}) > 1:
        return tuple(shards)
    return tuple(replace(shard, split=None) for shard in shards)


def _split_of_file(path: Path) -> Split | None:
    """The split that a file's name says, or a folder around it."""
    numbered = _NUMBERED.fullmatch(path.stem)
    for name in (numbered[1] if numbered else path.stem, *reversed(path.parent.parts)):
        split = split_of_folder(name)
        if split is not None:
            return split
    return None


def _check_one_dataset(data: Path, paths: Sequence[Path]) -> None:
    """Refuses a folder with the files of several configurations, which have the same images or other columns."""
    folders = {
        "/".join(part for part in path.relative_to(data).parent.parts if split_of_folder(part) is None)
        for path in paths
    } - {"", _PLAIN_FOLDER}
    if len(folders) > 1:
        raise DatasetError(
            f"{data} has Parquet files of several data sets",
            got=", ".join(sorted(folders)[:5]),
            expected="one data set, its files in one folder or in those of its splits",
            hint=f"name one of them, such as {data / min(folders)}",
        )


def _saved_splits(data: Path) -> list[Shard]:
    names = _read_json(data / _SPLITS_NAME).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _damaged(data / _SPLITS_NAME, "no list of splits")
    splits = {name: split_of_folder(name) for name in names}
    odd = [name for name, split in splits.items() if split is None]
    if odd and len(names) > 1:
        raise DatasetError(
            f"{data} has a split of another name",
            got=repr(odd[0]),
            expected="train, validation and test",
            hint=f"name the folder of one, such as {data / names[0]}",
        )
    return [shard for name in names for shard in _saved_shards(data / name, f"{name}/", splits[name])]


def _saved_shards(folder: Path, before: str, split: Split | None) -> tuple[Shard, ...]:
    state = _read_json(folder / _STATE_NAME)
    if state.get("_indices_data_files"):
        raise DatasetError(
            f"cannot use {folder} as a data set",
            got="a selection of rows beside the rows, of an old version of datasets",
            expected="the rows themselves",
            hint="load and save it with a newer version of datasets",
        )
    entries = state.get("_data_files")
    found = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    names = [name for name in found if isinstance(name, str)]
    files = [folder / name for name in names]
    if not files:
        raise _damaged(folder / _STATE_NAME, "no list of data files")
    if missing := [name for name, path in zip(names, files, strict=True) if kind_of(path) != "file"]:
        raise _damaged(folder / _STATE_NAME, f"{missing[0]!r} among its data files, and no such file")
    return tuple(Shard(path, f"{before}{path.stem}", split) for path in files)


def _read_json(path: Path) -> dict[str, object]:
    try:
        document: dict[str, object] = read_json(path, {})
    except (OSError, ValueError) as error:
        raise _damaged(path, parse_failure(error)) from error
    return document


def _damaged(path: Path, got: str) -> DatasetError:
    return DatasetError(
        f"cannot read {path}", got=got, expected="what save_to_disk of datasets wrote", hint="save the data set again"
    )
