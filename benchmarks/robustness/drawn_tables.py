"""Tables of images as spreadsheets, pandas and competitions write them, drawn at random with what they mean: for `tables.py`."""

import csv
import io
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

# Rows: path, label, split, group.
Row = tuple[str, str, str, str]
FILES = (
    *(f"img{number:03d}.jpg" for number in range(40)),
    *(f"sub/deeper/p{number}.png" for number in range(20)),
    *("two words.jpg", "comma, inside.jpg", "semi;colon.jpg", "it's.jpeg", "naïve.JPG", "写真.webp", "tab\there.jpg"),
    *('sub/quote"d.jpg', "pipe|d.png", "#1.jpg", "-dash.jpg", "100%.jpg", "a.b.c.tiff", "nan.jpg", "007.png"),
)
_LABELS = (
    *(
        "cat",
        "dog",
        "nan",
        "NaN",
        "None",
        "NULL",
        "True",
        "FALSE",
        "007",
        "7",
        "1.0",
        "1e5",
        "-",
        "N/A",
        "unknown",
        "path",
    ),
    *(
        "a cat",
        "cat, big",
        "cat; small",
        'the "cat"',
        "it's",
        "Žába",
        "naïve",
        "猫",
        "🐈",
        "=SUM(A1)",
        "@home",
        "#1",
        "a|b",
    ),
    *("label", "train", "A", "a", "back\\slash", "50%", "C:cat", "  spaced  ", "x" * 200),
)
_SEPARATORS = (",", ";", "\t", "|")
_SPLITS = {
    "train": ("train", "Train", "TRAIN", "training", " train ", "train_set", "trainset", "Training Data"),
    "val": ("val", "valid", "Validation", "dev", "eval", "VAL", "val_images"),
    "test": ("test", "Test", "TESTING", "test-set", "tst"),
}


@dataclass(frozen=True)
class Style:
    """How a program writes a table.

    Attributes:
        separator: Between the fields.
        quoting: As the csv module numbers it.
        line_end: Between the rows.
        has_mark: Whether a byte-order mark begins the file.
        has_last_end: Whether the last row ends.
        separator_line: Whether `sep=;` stands first, as Excel has it.
        spaces: What stands around the values.
    """

    separator: str = ","
    quoting: int = csv.QUOTE_MINIMAL
    line_end: str = "\n"
    has_mark: bool = False
    has_last_end: bool = True
    separator_line: bool = False
    spaces: str = ""


@dataclass
class Table:
    """A table with what it means.

    Attributes:
        kind: What is special about it.
        header: The first row.
        rows: The others, fields in the order of the header.
        style: How it is written.
        meant: The rows as they must be read; None where it must be refused.
        options: Of the reader: columns, folder, suffix.
        group_by: Of the reader.
        change: What is done to the bytes in the end.
    """

    kind: str
    header: list[str]
    rows: list[list[str]]
    style: Style
    meant: list[Row] | None
    options: dict[str, str] = field(default_factory=dict)
    group_by: str | None = None
    change: Callable[[bytes], bytes] = bytes

    def encoded(self) -> bytes:
        """The file."""
        style, text = self.style, io.StringIO()
        writer = csv.writer(text, delimiter=style.separator, quoting=style.quoting, lineterminator=style.line_end)  # type: ignore[arg-type] # a number of the csv module
        if style.separator_line:
            text.write(f"sep={style.separator}{style.line_end}")
        for row in (self.header, *self.rows):
            if row:
                writer.writerow([f"{style.spaces}{value}" for value in row])
            else:
                text.write(style.line_end)
        whole = text.getvalue()
        data = (whole if style.has_last_end else whole[: -len(style.line_end)]).encode()
        return self.change((b"\xef\xbb\xbf" if style.has_mark else b"") + data)


def _one(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _style(rng: np.random.Generator) -> Style:
    return Style(
        separator=_one(_SEPARATORS, rng),
        quoting=int(rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))),
        line_end=_one(("\n", "\r\n", "\n", "\r\n", "\r"), rng),
        has_mark=bool(rng.random() < 0.3),
        has_last_end=bool(rng.random() < 0.7),
        separator_line=bool(rng.random() < 0.1),
        spaces=_one(("", "", "", " "), rng),
    )


def _plain(rng: np.random.Generator) -> Table:
    """A table with two classes or more, with or without splits, groups and columns of no interest, in any order."""
    count = int(rng.integers(8, len(FILES) - 10))
    paths = [FILES[place] for place in rng.permutation(len(FILES))[:count]]
    labels = [_LABELS[place] for place in rng.permutation(len(_LABELS))[: int(rng.integers(2, 5))]]
    # Each class in each split, where there are splits.
    has_splits, has_groups = bool(rng.random() < 0.4), bool(rng.random() < 0.2)
    splits = list(_SPLITS)[: int(rng.integers(1, 4))] if has_splits else [""]
    labels = labels[: max(2, count // len(splits))]
    while len(labels) * len(splits) > count:
        splits.pop()
    rows: list[Row] = []
    written: list[dict[str, str]] = []
    for number, path in enumerate(paths):
        label, split = labels[number % len(labels)], splits[number // len(labels) % len(splits)]
        group = _one(("g1", "g 2", "3", ""), rng) if has_groups else ""
        spelled = unicodedata.normalize("NFD", label) if rng.random() < 0.3 else label
        given = {"path": path, "label": spelled, "split": _one(_SPLITS[split], rng) if split else "", "group": group}
        written.append(given)
        rows.append((path, label.strip(), split, group))
    columns = ["path", "label"]
    if has_splits or rng.random() < 0.2:
        columns.append("split")
    if has_groups:
        columns.append("group")
    columns += [f"extra {number}" for number in range(int(rng.integers(0, 3)))]
    columns = [columns[place] for place in rng.permutation(len(columns))]
    table = [[given.get(column, _one(("", "0", "x;y", "a, b", 'q"'), rng)) for column in columns] for given in written]
    header = [_one((column, column, column.upper(), column.title()), rng) for column in columns]
    return Table("plain", header, table, _style(rng), rows, group_by="group" if has_groups else None)


# Kinds that must be read: each changes a plain table.


def _empty_rows(table: Table, rng: np.random.Generator) -> Table:
    rows = list(table.rows)
    blank = ["" for _ in table.header] if rng.random() < 0.5 else []
    for _ in range(int(rng.integers(1, 5))):
        rows.insert(len(rows) if rng.random() < 0.6 else int(rng.integers(0, len(rows))), list(blank))
    return replace(table, rows=rows)


def _backslashes(table: Table, _rng: np.random.Generator) -> Table:
    at = _place(table, "path")
    return replace(
        table, rows=[[v.replace("/", "\\") if n == at else v for n, v in enumerate(row)] for row in table.rows]
    )


def _current_folder(table: Table, _rng: np.random.Generator) -> Table:
    at = _place(table, "path")
    return replace(table, rows=[[f"./{v}" if n == at else v for n, v in enumerate(row)] for row in table.rows])


def _empty_ends(table: Table, rng: np.random.Generator) -> Table:
    ends = [""] * int(rng.integers(1, 4))
    return replace(table, rows=[[*row, *ends] if rng.random() < 0.7 else row for row in table.rows])


def _short_rows(table: Table, _rng: np.random.Generator) -> Table:
    """Without their last fields, where these are empty or of no interest."""
    wanted = max(_place(table, name) for name in ("path", "label"))
    named = [column.lower() for column in table.header]
    last = max([wanted, *(named.index(name) for name in ("split", "group") if name in named)])
    return replace(table, rows=[row[: last + 1] for row in table.rows])


def _other_columns(table: Table, rng: np.random.Generator) -> Table:
    names = {
        "path": _one(("id", "image_id", "filename", "Image Index", "file"), rng),
        "label": _one(("class", "breed", "target", "Finding Labels", "y"), rng),
    }
    header = [names.get(column.lower(), column) for column in table.header]
    return replace(table, header=header, options={"path_column": names["path"], "label_column": names["label"]})


def _bare_ids(table: Table, rng: np.random.Generator) -> Table:
    """Names without a suffix, in a folder that an option names, as Kaggle's tables are."""
    table = _other_columns(table, rng)
    count, at = len(table.rows), _place(table, table.options["path_column"])
    ids = [f"{number:03d}" if rng.random() < 0.5 else f"img.{number:03d}" for number in rng.permutation(40)[:count]]
    rows = [[ids[k] if n == at else v for n, v in enumerate(row)] for k, row in enumerate(table.rows[: len(ids)])]
    assert table.meant is not None
    meant = [(f"ids/{ids[k]}.jpg", *row[1:]) for k, row in enumerate(table.meant[: len(ids)])]
    suffix = _one((".jpg", "jpg"), rng)
    return replace(
        table, rows=rows, meant=meant, options={**table.options, "image_folder": "ids", "image_suffix": suffix}
    )


READ: Mapping[str, Callable[[Table, np.random.Generator], Table]] = {
    "plain": lambda table, _: table,
    "empty rows": _empty_rows,
    "backslashes": _backslashes,
    "paths with ./": _current_folder,
    "empty fields beyond the header": _empty_ends,
    "short rows": _short_rows,
    "columns of other names, by options": _other_columns,
    "ids without suffix, by options": _bare_ids,
}

# Kinds that must be refused.


def _place(table: Table, name: str) -> int:
    return [column.lower() for column in table.header].index(name.lower())


def _with_field(table: Table, rng: np.random.Generator, column: str, value: str) -> Table:
    rows, at = [list(row) for row in table.rows], _place(table, column)
    rows[int(rng.integers(len(rows)))][at] = value
    return replace(table, rows=rows, meant=None)


def _more_fields(table: Table, rng: np.random.Generator) -> Table:
    rows = [list(row) for row in table.rows]
    rows[int(rng.integers(len(rows)))].append("more")
    return replace(table, rows=rows, meant=None)


def _repeated(table: Table, rng: np.random.Generator) -> Table:
    return replace(table, rows=[*table.rows, list(table.rows[int(rng.integers(len(table.rows)))])], meant=None)


def _unknown_split(table: Table, rng: np.random.Generator) -> Table:
    word = _one(("somewhere", "train2", "1", "fold_0", "train/val", "both"), rng)
    named = [column.lower() for column in table.header]
    if "split" in named:
        return _with_field(table, rng, "split", word)
    return replace(table, header=[*table.header, "split"], rows=[[*row, word] for row in table.rows], meant=None)


def _no_header(table: Table, _rng: np.random.Generator) -> Table:
    return replace(table, header=table.rows[0], rows=table.rows[1:], meant=None)


def _unnamed_columns(table: Table, rng: np.random.Generator) -> Table:
    return replace(_other_columns(table, rng), options={}, meant=None)


def _twice_a_column(table: Table, rng: np.random.Generator) -> Table:
    name = table.header[_place(table, _one(("path", "label"), rng))]
    return replace(table, header=[*table.header, name], rows=[[*row, "x"] for row in table.rows], meant=None)


def _bytes_of_windows(table: Table, rng: np.random.Generator) -> Table:
    changed = _with_field(table, rng, "label", "Žába naïve")
    return replace(changed, change=lambda data: data.decode("utf-8-sig").encode("cp1252", errors="replace"))


def _utf16(table: Table, _rng: np.random.Generator) -> Table:
    return replace(table, meant=None, change=lambda data: data.decode("utf-8-sig").encode("utf-16"))


def _nul(table: Table, rng: np.random.Generator) -> Table:
    return _with_field(table, rng, _one(("path", "label"), rng), _one(("a\0.jpg", "\0", "cat\0"), rng))


def _no_rows(table: Table, _rng: np.random.Generator) -> Table:
    return replace(table, rows=[], meant=None)


def _one_class(table: Table, _rng: np.random.Generator) -> Table:
    at = _place(table, "label")
    return replace(table, rows=[["cat" if n == at else v for n, v in enumerate(row)] for row in table.rows], meant=None)


def _control_in_label(table: Table, rng: np.random.Generator) -> Table:
    return _with_field(table, rng, "label", _one(("cat\nbig", "tab\tinside", "\x1b[31mred"), rng))


def _open_quote(table: Table, rng: np.random.Generator) -> Table:
    """With a quote in any field of any row but the last: the rows up to the next quote, or to the end, are one field."""
    table = replace(table, style=Style(table.style.separator, line_end=_one(("\n", "\r\n"), rng)), meant=None)
    rows, at = [list(row) for row in table.rows], int(rng.integers(len(table.header)))
    rows[int(rng.integers(len(rows) - 1))][at] = "OPEN"
    changed = replace(table, rows=rows)
    return replace(changed, change=lambda data: data.replace(b"OPEN", b'"half', 1).replace(b'"half"', b'"half'))


def _other_computer(table: Table, _rng: np.random.Generator) -> Table:
    at = _place(table, "path")
    rows = [["C:\\data\\" + v.replace("/", "\\") if n == at else v for n, v in enumerate(row)] for row in table.rows]
    return replace(table, rows=rows, meant=None)


def _ids_without_option(table: Table, rng: np.random.Generator) -> Table:
    changed = _bare_ids(table, rng)
    options = {name: value for name, value in changed.options.items() if name.endswith("column")}
    return replace(changed, options=options, meant=None)


def _noise(table: Table, rng: np.random.Generator) -> Table:
    data = rng.bytes(int(rng.integers(1, 5000)))
    return replace(table, meant=None, change=lambda _: data)


REFUSED: Mapping[str, Callable[[Table, np.random.Generator], Table]] = {
    "a field beyond the header": _more_fields,
    "no path": lambda table, rng: _with_field(table, rng, "path", _one(("", "  "), rng)),
    "no label": lambda table, rng: _with_field(table, rng, "label", _one(("", "  "), rng)),
    "an image twice": _repeated,
    "an unknown split": _unknown_split,
    "no header": _no_header,
    "columns of other names": _unnamed_columns,
    "two columns of one name": _twice_a_column,
    "cp1252": _bytes_of_windows,
    "UTF-16": _utf16,
    "a NUL": _nul,
    "a header alone": _no_rows,
    "an empty file": lambda table, _: replace(table, meant=None, change=lambda _data: b""),
    "one class": _one_class,
    "a control character in a label": _control_in_label,
    "a quote that does not end": _open_quote,
    "paths of another computer": _other_computer,
    "ids without suffix": _ids_without_option,
    "noise": _noise,
}


def draw_table(rng: np.random.Generator, share_read: float = 0.65) -> Table:
    """A table drawn at random; so many of them must be read."""
    kinds = READ if rng.random() < share_read else REFUSED
    kind = _one(list(kinds), rng)
    return replace(kinds[kind](_plain(rng), rng), kind=kind)
