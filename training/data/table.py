"""A table of labelled images: a CSV with a column of paths, one of labels, and perhaps one of splits.

Tables come from spreadsheets, from pandas and from competitions: with `;` or tabs, with backslashes, empty rows and a byte-order
mark, with columns of other names and with ids in place of file names. What is plain is read; the rest is refused with the line.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.files import read_text
from edgeclf.training.data.class_folders import column_of_splits, label_of, split_of_folder
from edgeclf.training.data.dataset import Sample
from edgeclf.training.data.table_files import MAX_WORDS, TableFiles, TableOptions

if TYPE_CHECKING:
    import _csv

LAYOUT = "a folder of class folders, train/ and test/ folders of class folders, a CSV with path,label[,split], or Parquet files of images"
_NAME_ONE = "name the folder of the images, or a CSV that lists them"
_SEPARATORS: tuple[str, ...] = (",", ";", "\t", "|")
# Excel's own first line: the separator that follows.
_SEPARATOR_LINE = re.compile(r"\s*sep=(.)\s*(?:\r\n|\r|\n)")
_BLANK_LINES = re.compile(r"([ \t]*(\r\n|\r|\n))+")
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
# More different values are no splits.
_MOST_SPLIT_NAMES = 12
_PATH, _LABEL, _SPLIT, _GROUP = "path", "label", "split", "group"


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
    text, separators, skipped_lines = _beginning(text)
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
    if places[_SPLIT] is None:
        _check_no_other_splits(path, columns, rows, set(places.values()))
    places[_GROUP] = None if group_column is None else _place(columns, group_column, path)
    files = TableFiles(path, options)
    samples: dict[str, tuple[int, Sample]] = {}
    for number, row in rows:
        line = number + skipped_lines
        if not any(value.strip() for value in row):
            continue
        if any(value.strip() for value in row[len(columns) :]):
            raise DatasetError(
                f"{path} line {line} has more fields than the first line",
                got=f"{len(row)}, with {row[len(columns)].strip()[:MAX_WORDS]!r} beyond them",
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


def _beginning(text: str) -> tuple[str, tuple[str, ...], int]:
    """A table from the line of its columns on, the separators that it may have, and the number of lines before."""
    separators, skipped = _SEPARATORS, 0
    if found := _SEPARATOR_LINE.match(text):
        separators, skipped, text = (found[1],), 1, text[found.end() :]
    if blank := _BLANK_LINES.match(text):
        skipped, text = skipped + len(blank[0].splitlines()), text[blank.end() :]
    return text, separators, skipped


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
        got=f"the first line {first[:MAX_WORDS]!r}" if text.strip() else "an empty file",
        expected=f"{wanted}[,split] in the first line",
        hint=f"pass {' '.join(hints)}" if hints else "name the columns so, or with --path-column and --label-column",
    )


def _check_no_other_splits(
    path: Path, columns: Sequence[str], rows: Sequence[tuple[int, list[str]]], taken: Collection[int | None]
) -> None:
    """Refuses splits in a column of another name: passed over, their test images would train."""
    values: dict[str, set[str]] = {}
    for place, name in enumerate(columns):
        found: set[str] = set()
        for _, row in rows if name and place not in taken else ():
            if place < len(row) and (value := row[place].strip()):
                found.add(value)
            if len(found) > _MOST_SPLIT_NAMES:
                break
        if 0 < len(found) <= _MOST_SPLIT_NAMES:
            values[name] = found
    other = column_of_splits(values)
    if other is not None:
        raise DatasetError(
            f"{path} has no column split",
            got=f"what looks like it in {other!r}: {', '.join(map(repr, sorted(values[other])[:4]))}",
            expected="the splits in a column of that name",
            hint="write train, val and test there, or remove it where the images are to be divided anew",
        )


def _sample(path: Path, line: int, fields: dict[str, str], files: TableFiles) -> Sample:
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
