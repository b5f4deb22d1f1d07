"""Label files of others: numbered lines, JSON of both directions, names that repeat."""

import pytest

from edgeclf.runtime.errors import InputError
from edgeclf.runtime.session.foreign.labels import read_labels, told_apart


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("l.txt", "cat\n\n dog \n", ("cat", "dog")),
        ("l.txt", "0 Class 1\n1 Class 2\n", ("Class 1", "Class 2")),
        ("l.txt", "1: cat\n2: dog\n", ("cat", "dog")),
        ("l.txt", "7 seven\n8 eight\n", ("7 seven", "8 eight")),
        ("l.txt", "0\n1\n", ("0", "1")),
        ("l.txt", "0 cat\ndog\n", ("0 cat", "dog")),
        ("l.json", '["cat", "dog"]', ("cat", "dog")),
        ("l.json", '{"1": "dog", "0": "cat"}', ("cat", "dog")),
        ("l.json", '{"dog": 1, "cat": 0}', ("cat", "dog")),
    ],
)
def test_labels_are_read(tmp_path, name, text, labels):
    (tmp_path / name).write_text(text)
    read = read_labels(tmp_path / name)
    assert read.labels == labels
    assert (read.note is not None) == (text[:2] in {"0 ", "1:"} and "cat\ndog" not in text)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "3", '{"0": "a", "2": "b"}', '{"a": 0, "b": 0}', "[1, 2]", "[" * 99_999]
)
def test_json_without_names_gets_one_sentence(tmp_path, text):
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(InputError, match="labels"):
        read_labels(tmp_path / "l.json")


def test_names_that_repeat_are_told_apart():
    assert told_apart(("crane", "cat", "crane")) == ("crane (0)", "cat", "crane (2)")
    assert told_apart(("a", "b")) == ("a", "b")
    assert len(set(told_apart(("a", "a (0)", "a", "a (2)")))) == 4
