"""Documents in files that anybody may have changed: every value of its type, or a sentence; and JSON that no terminal obeys."""

import json
import os
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.spec.json_documents import (
    check_shape,
    check_writable,
    json_line,
    json_text,
    parse_json,
    read_json,
    record_from_json,
)

SHAPE = {"name": str, "sides": [int], "rate": float, "is_on": bool, "inner": {"*": {"count": int}}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting"),
        ("[1, NaN]", "the number NaN"),
        ("[-Infinity]", "the number -Infinity"),
        ("[1e999]", "the number 1e999"),
        ("1" * 5000, "the number 1"),
        ("[" * 100_000, "too deep"),
        ("[" * 65 + "]" * 65, "too deep"),
        ('{"a":' * 65 + "1" + "}" * 65, "too deep"),
    ],
)
def test_what_cannot_be_written_again_is_not_read(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)


@pytest.mark.parametrize("text", ["[" * 60 + "1" + "]" * 60, "1e308", "-0.0", '"\\ud83d\\ude00"', "null", "[]"])
def test_what_can_is_read(text):
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "expected a record|instead of a record"),
        ({"name": 1}, "name: expected a text, got 1"),
        ({"sides": 5}, "sides: expected a list, got 5"),
        ({"sides": [1, True]}, r"sides\[1\]: expected a whole number, got True"),
        ({"sides": [None]}, r"sides\[0\]: expected a whole number, got null"),
        ({"sides": [1.0]}, "expected a whole number, got 1.0"),
        ({"inner": {"a": None}}, r"inner\.a: expected a record, got null"),
        ({"rate": "0.5"}, "rate: expected a number, got '0.5'"),
        ({"rate": False}, "rate: expected a number, got False"),
        ({"is_on": 1}, "is_on: expected true or false, got 1"),
        (
            {"inner": {"\x1b[2J": {"count": "x" * 999}}},
            r"inner\.'\\x1b\[2J'\.count: expected a whole number, got .{40}\.\.\.",
        ),
    ],
)
def test_a_value_of_another_type_is_named_with_its_place(document, words):
    with pytest.raises(ValueError, match=words) as refused:
        check_shape(document, SHAPE)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "document", [{}, {"name": None, "more": [{}]}, {"rate": 1, "sides": []}, {"inner": {"a": {"count": 1, "b": "c"}}}]
)
def test_what_is_of_the_right_types_passes(document):
    check_shape(document, SHAPE)


@dataclass(frozen=True)
class Record:
    size: tuple[int, int]
    mode: Literal["a", "b"] = "a"
    rate: float | None = 0.5
    count: int = 3

    def __post_init__(self) -> None:
        if self.mode not in {"a", "b"}:
            raise ValueError(f"mode {self.mode}")


def test_a_record_becomes_a_dataclass():
    assert record_from_json(Record, {"size": [1, 2]}) == Record((1, 2))
    given_all = {"size": [1, 2], "mode": "b", "rate": None, "count": None}
    assert record_from_json(Record, given_all) == Record((1, 2), "b", None, 3)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "expected a record, got null"),
        ([1], "expected a record, got"),
        ({}, "no of.size"),
        ({"size": None}, "no of.size"),
        ({"size": ["1", 2]}, r"of\.size\[0\]: expected a whole number"),
        ({"size": [1, 2], "colour": 1}, "of: expected none but size, mode, rate, count, got 'colour'"),
        ({"size": [1, 2], "mode": "c"}, "mode c"),
        ({"size": [1, 2], "count": 1.5}, "of.count: expected a whole number, got 1.5"),
    ],
)
def test_a_record_of_something_else_is_refused(document, words):
    with pytest.raises(ValueError, match=words):
        record_from_json(Record, document, "of")


def test_only_ordinary_files_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"name": "x"}')
    assert read_json(path, SHAPE) == {"name": "x"}
    path.write_text("null")
    with pytest.raises(ValueError, match="null"):
        read_json(path, SHAPE)
    with pytest.raises(OSError, match="No such file"):
        read_json(tmp_path / "none.json", SHAPE)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="a device or a pipe"):
            read_json(tmp_path / "pipe", SHAPE)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_path_can_name_a_file(tmp_path, name):
    from pathlib import Path

    check_shape({"at": str(tmp_path), "bytes": "\udcff"}, {"at": Path, "bytes": Path})
    with pytest.raises(ValueError, match="at: expected a path"):
        check_shape({"at": name}, {"at": Path})


def test_half_of_a_character_is_no_text():
    check_writable({"a": "\U0001f600"})
    with pytest.raises(ValueError, match="half of a character"):
        check_writable({"a": ["\ud83d"]})


# What clears a screen, sets a title by the one-byte form of the same, turns text around, ends lines; and no Unicode.
HOSTILE = "\x1b[2J \x9b2J \x7f \u202etxt.exe\u2066 \u2028 \udcff \U000e0001"


@pytest.mark.parametrize("write", [json_line, json_text])
def test_what_moves_a_cursor_is_escaped_and_read_back(write):
    document = {HOSTILE: [HOSTILE, "grün 猫 😀"]}
    text = write(document)
    assert json.loads(text) == document
    assert all(line.isprintable() for line in text.split("\n"))
    assert "grün 猫 😀" in text
    text.encode()


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)))
def test_any_text_is_read_back_from_one_printable_line(document):
    text = json_line(document)
    assert text.isprintable()
    assert json.loads(text) == document


def test_rows_of_a_matrix_are_one_line_each_in_json():
    document = {
        "confusion": [[1, 2], [-3, 4.5e-07]],
        "n": [7],
        "names": ["a [\n 1,\n 2]", "b"],
        "mixed": [1, "x"],
        "none": [],
    }
    text = json_text(document)
    assert json.loads(text) == document
    assert text.splitlines()[1:5] == ['  "confusion": [', "    [1, 2],", "    [-3, 4.5e-07]", "  ],"]
    assert '  "n": [7],' in text.splitlines()
    assert '    "a [\\n 1,\\n 2]",' in text.splitlines()


def test_json_has_no_character_that_its_encoding_has_not():
    document = {"file": "\udcff", "name": "grün"}
    for encoding in ("utf-8", "ascii"):
        assert json.loads(json_text(document, encoding).encode(encoding)) == document
    assert "grün" in json_text({"name": "grün"})
    with pytest.raises(ValueError, match="JSON"):
        json_text([float("nan")])
