"""A table of labelled images: a CSV with a column of paths, one of labels, and perhaps one of splits.

Tables come from spreadsheets, from pandas and from competitions: with `;` or tabs, with backslashes, empty rows and a byte-order
mark, with columns of other names and with ids in place of file names. What is plain is read; the rest is refused with the line.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime.batch.listing import is_left_behind, looks_like_image
from edgeclf.runtime.errors import DatasetError, UsageError
from edgeclf.runtime.files import kind_of, read_text
from edgeclf.training.data.class_folders import label_of
from edgeclf.training.data.dataset import FACTS_NAME, SPLIT_NAME, Sample, read_run_facts
from edgeclf.training.data.split_names import split_of_folder

if TYPE_CHECKING:
    import _csv

LAYOUT = "a folder of class folders, train/ and test/ folders of class folders, a CSV with path,label[,split], or Parquet files of images"
_NAME_ONE = "name the folder of the images, or a CSV that lists them"
_MAX_WORDS = 80
_SEPARATORS = (",", ";", "\t", "|")
# Excel's own first line: the separator that follows.
_SEPARATOR_LINE = re.compile(r"\s*sep=(.)\s*(?:\r\n|\r|\n)")
_WINDOWS_ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
# Names that columns of paths and of labels often have: what an error proposes, never what is taken without being asked.
_PATH_NAMES = [
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "image_name",
    "image_file",
    "img",
    "img_path",
    "image_id",
    "img_id",
    "id",
]
_LABEL_NAMES = [
    "label",
    "labels",
    "class",
    "class_name",
    "classname",
    "category",
    "target",
    "species",
    "breed",
    "type",
    "name",
    "y",
]
_PATH, _LABEL, _SPLIT, _GROUP = "path", "label", "split", "group"


@dataclass(frozen=True)
class TableOptions:
    """What a user says of a table.

    Attributes:
        path_column: Name of the column with the paths; None for `path`.
        label_column: Name of the column with the classes; None for `label`.
        image_folder: Folder that the paths are relative to, itself relative to the table's folder, or else to the current
            one; None for the table's folder.
        image_suffix: Suffix of the files where the table has bare ids, such as `.jpg`; None where it has whole names.
    """

    path_column: str | None = None
    label_column: str | None = None
    image_folder: str | None = None
    image_suffix: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """The options that are given, by flag."""
        flags = {
            "--path-column": self.path_column,
            "--label-column": self.label_column,
            "--image-folder": self.image_folder,
            "--image-suffix": self.image_suffix,
        }
        return {flag: value for flag, value in flags.items() if value is not None}


def read_table(path: Path, options: TableOptions | None = None, group_column: str | None = None) -> list[Sample]:
    """The images that a table lists.

    Args:
        path: The table.
        options: What the user says of it; None for nothing.
        group_column: Name of a column with what each image belongs to; passed over where there is no such column.

    Raises:
        DatasetError: It is no such table, a row is incomplete or repeated, or has more fields than the first line.
        UsageError: The folder of the images is not there.
    """
    options = options or TableOptions()
    text = check_text(path)
    if found := _SEPARATOR_LINE.match(text):
        separators: tuple[str, ...] = (found[1],)
        skipped_lines, text = 1, text[found.end() :]
    else:
        separators, skipped_lines = _SEPARATORS, 0
    names = {_PATH: options.path_column or _PATH, _LABEL: options.label_column or _LABEL, _SPLIT: _SPLIT}
    try:
        rows, columns = _rows(text, separators, names)
    except csv.Error as error:
        raise DatasetError(f"cannot read {path}", got=str(error), expected=LAYOUT, hint=_NAME_ONE) from error
    except _OpenQuoteError as error:
        raise DatasetError(
            f"{path} line {error.args[0] + skipped_lines} has a double quote that does not end",
            got="a value that goes on beyond its end",
            expected="a second one at its end",
            hint="add it, or write it twice where it is part of the value",
        ) from error
    places = {key: _place(columns, name, path) for key, name in names.items()}
    if places[_PATH] is None or places[_LABEL] is None:
        raise _other_columns(path, text, columns, names, options)
    places[_GROUP] = None if group_column is None else _place(columns, group_column, path)
    files = _Files(path, options)
    samples: dict[str, tuple[int, Sample]] = {}
    for number, row in rows:
        line = number + skipped_lines
        if not any(value.strip() for value in row):
            continue
        if any(value.strip() for value in row[len(columns) :]):
            raise DatasetError(
                f"{path} line {line} has more fields than the first line",
                got=f"{len(row)}, with {row[len(columns)].strip()[:_MAX_WORDS]!r} beyond them",
                expected=str(len(columns)),
                hint="put values that hold the separator into double quotes",
            )
        fields = {
            key: "" if place is None or place >= len(row) else row[place].strip() for key, place in places.items()
        }
        sample = _sample(path, line, fields, files)
        if sample.path in samples:
            raise DatasetError(
                f"{path} line {line} repeats an image",
                got=f"{sample.path}, also in line {samples[sample.path][0]}",
                expected="each image once",
                hint="remove one of the lines",
            )
        samples[sample.path] = (line, sample)
    if samples:
        files.check_first(next(iter(samples.values()))[1])
    return [sample for _, sample in samples.values()]


def table_root(path: Path) -> Path:
    """The folder that a table's paths are relative to: its own, or of a run's split that of the images it was made from.

    Raises:
        DatasetError: It is the split of a run whose images are not there.
    """
    if path.name != SPLIT_NAME or not (path.parent / FACTS_NAME).is_file():
        return path.parent
    try:
        root = Path(read_run_facts(path.parent)["data_root"])
    except (OSError, ValueError):
        return path.parent
    if kind_of(root) != "folder":
        raise DatasetError(
            f"cannot find the images of {path}",
            got=f"no folder {root}",
            expected="the folder that the run was trained on",
            hint=f"copy {path.name} into the folder where they are now, and name that copy",
        )
    return root


def check_text(path: Path) -> str:
    """The text of a table.

    Raises:
        DatasetError: It is no text.
    """
    return read_text(
        path, what=f"cannot use {path} as a data set", expected=LAYOUT, hint=_NAME_ONE, error_class=DatasetError
    )


def _rows(text: str, separators: Sequence[str], names: dict[str, str]) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """The rows behind the first, each with its line, and the first one's names: by the separator that finds the columns."""
    columns: list[str] = []
    for separator in separators:
        lines = list(io.StringIO(text, newline=""))
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        first = [name.strip() for name in next(reader, [])]
        folded = {name.casefold() for name in first}
        if {names[_PATH].casefold(), names[_LABEL].casefold()} <= folded:
            return list(_whole_rows(reader, lines)), first
        columns = max(columns, first, key=len)
    return [], columns


class _OpenQuoteError(Exception):
    """A row whose double quote takes other fields or rows along; its line is the argument."""


def _whole_rows(reader: "_csv.Reader", lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The rows that a reader gives, each with its last line.

    A quote that does not end makes one value of the fields and rows up to the next quote, or to the end of the file, and csv says
    nothing: rows with a separator or a line end in a value have to be as the format wants them, but for blanks behind a quote.
    """
    start = reader.line_num
    for row in reader:
        if reader.line_num > start + 1 or any(reader.dialect.delimiter in value for value in row):
            text = [re.sub(r'" +(?=\W)', '"', line) for line in lines[start : reader.line_num]]
            try:
                list(csv.reader(text, reader.dialect, strict=True))
            except csv.Error as error:
                raise _OpenQuoteError(start + 1) from error
        yield reader.line_num, row
        start = reader.line_num


def _place(columns: Sequence[str], name: str, path: Path) -> int | None:
    """Position of a column: the one that is spelled so, else the only one that differs in case alone."""
    places = [place for place, column in enumerate(columns) if column == name]
    places = places or [place for place, column in enumerate(columns) if column.casefold() == name.casefold()]
    if len(places) > 1:
        raise DatasetError(
            f"{path} has {len(places)} columns of one name", got=repr(name), expected="one", hint="rename the others"
        )
    return places[0] if places else None


def _other_columns(
    path: Path, text: str, columns: Sequence[str], names: dict[str, str], options: TableOptions
) -> DatasetError:
    """The error that a table has no such columns, with the options that would name those that it has."""
    first = text.split("\n", 1)[0].strip()
    lower = {column.casefold(): column for column in reversed(columns)}
    hints = []
    for flag, given, usual, wanted in (
        ("--path-column", options.path_column, _PATH_NAMES, names[_PATH]),
        ("--label-column", options.label_column, _LABEL_NAMES, names[_LABEL]),
    ):
        if wanted.casefold() in lower:
            continue
        guess = next((lower[name] for name in usual if name in lower), None)
        if given is None and guess is not None:
            hints.append(f"{flag} {guess!r}" if " " in guess else f"{flag} {guess}")
    wanted = f"{names[_PATH]},{names[_LABEL]}"
    return DatasetError(
        f"cannot use {path} as a data set",
        got=f"the first line {first[:_MAX_WORDS]!r}" if text.strip() else "an empty file",
        expected=f"{wanted}[,split] in the first line",
        hint=f"pass {' '.join(hints)}" if hints else "name the columns so, or with --path-column and --label-column",
    )


class _Files:
    """Paths of files as a table's rows name them."""

    def __init__(self, table: Path, options: TableOptions) -> None:
        self._table = table
        self._root = table_root(table)
        self._folder = "" if options.image_folder is None else self._found_folder(options.image_folder)
        self._options = options
        suffix = options.image_suffix or ""
        self._suffix = suffix if not suffix or suffix.startswith(".") else f".{suffix}"

    def _found_folder(self, given: str) -> str:
        for folder in (self._root / given, Path(given).absolute()):
            if kind_of(folder) == "folder":
                is_below = folder.is_relative_to(self._root)
                return folder.relative_to(self._root).as_posix() if is_below else folder.absolute().as_posix()
        raise UsageError(
            "cannot find the folder of the images",
            got=f"--image-folder {given}",
            expected=f"a folder in {self._root} or in the current one",
            hint="check the path",
        )

    def path_of(self, name: str, line: int) -> str:
        """The path of a row's image, with forward slashes."""
        if "\\" in name and kind_of(self._root / self._folder / name) is None:
            if _WINDOWS_ABSOLUTE.match(name):
                raise DatasetError(
                    f"{self._table} line {line} has a path of another computer",
                    got=name[:_MAX_WORDS],
                    expected="paths relative to the CSV",
                    hint="remove the beginning that all paths share, and put the CSV there",
                )
            name = name.replace("\\", "/")
        if self._suffix and not name.lower().endswith(self._suffix.lower()):
            name += self._suffix
        return (Path(self._folder) / name).as_posix()

    def check_first(self, sample: Sample) -> None:
        """Refuses names of files that are not there where it can be told which options would find them.

        Raises:
            DatasetError: They lie in a folder beside the table, or have a suffix.
        """
        given, named = self._options, Path(sample.path)
        if given.image_folder or given.image_suffix or named.is_absolute() or ".." in named.parts:
            return
        if kind_of(self._root / named) is not None:
            return
        place = next(
            (
                found
                for folder in (self._root, *_folders_beside(self._root))
                if (found := _image_named(folder / named)) is not None
            ),
            None,
        )
        if place is None:
            if not looks_like_image(named):
                raise DatasetError(
                    f"the images of {self._table} are not there",
                    got=f"{sample.path!r}, which is no file name",
                    expected="paths relative to the CSV",
                    hint="pass --image-folder and --image-suffix where it has ids",
                )
            return
        words = []
        inside = place.relative_to(self._root).parts
        if len(inside) > len(named.parts):
            words.append(f"--image-folder {inside[0]}")
        if place.name != named.name:
            words.append(f"--image-suffix {place.suffix}")
        raise DatasetError(
            f"the images of {self._table} lie elsewhere",
            got=f"no {sample.path}",
            expected=f"what is in {place}",
            hint=f"pass {' '.join(words)}",
        )


def _folders_beside(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not is_left_behind(path.name))
    except OSError:
        return []


def _image_named(path: Path) -> Path | None:
    """The file of a path, with or without a suffix of an image; None where there is none."""
    if kind_of(path) == "file":
        return path
    try:
        with_suffix = sorted(path.parent.glob(f"{_literal(path.name)}.*"))
    except (OSError, ValueError):
        return None
    return next((found for found in with_suffix if looks_like_image(found) and found.stem == path.name), None)


def _literal(name: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", name)


def _sample(path: Path, line: int, fields: dict[str, str], files: _Files) -> Sample:
    name, label, split = fields[_PATH], fields[_LABEL], fields[_SPLIT]
    if not name or not label:
        raise DatasetError(
            f"{path} line {line} is incomplete",
            got=f"path {name!r}, label {label!r}",
            expected="both",
            hint="fill them in",
        )
    if "\0" in name:
        raise DatasetError(f"{path} line {line} has an impossible path", got=repr(name), expected="a file name")
    its = split_of_folder(split)
    if split and its is None:
        raise DatasetError(
            f"{path} line {line} names an unknown split", got=repr(split), expected="train, val, test or nothing"
        )
    return Sample(files.path_of(name, line), label_of(label), its, group=fields[_GROUP] or None)
