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
        ("l.txt", "1 dog\n0 cat\n", ("cat", "dog")),
        ("l.txt", "0. cat\n1. dog\n", ("cat", "dog")),
        ("l.txt", "1) cat\n2) dog\n", ("cat", "dog")),
        ("l.csv", "dog,1\ncat,0\n", ("cat", "dog")),
        ("l.txt", "cat\t0\ndog\t1\n", ("cat", "dog")),
        # Names of numbers, and names that end in one.
        ("l.txt", "1 Euro\n2 Euro\n", ("1 Euro", "2 Euro")),
        ("l.txt", "stage 0\nstage 1\n", ("stage 0", "stage 1")),
        ("l.txt", "1.5 mm\n2.5 mm\n", ("1.5 mm", "2.5 mm")),
        ("l.txt", "[UNK]\ncat\n", ("[UNK]", "cat")),
        ("l.txt", '["cat", "dog"]\n', ("cat", "dog")),
        ("l.names", "{0: 'cat',\n 1: 'dog'}\n", ("cat", "dog")),
        ("l.json", '{"0": ["n01", "cat"], "1": ["n02", "dog"]}', ("cat", "dog")),
        ("l.json", '[{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]', ("cat", "dog")),
        ("l.json", '{"version": "1", "labels": ["cat", "dog"]}', ("cat", "dog")),
        ("l.json", '{"id2label": {"1": "dog", "0": "cat"}, "label2id": {}}', ("cat", "dog")),
        ("l.json", '["cat", "dog"]', ("cat", "dog")),
        ("l.json", '{"1": "dog", "0": "cat"}', ("cat", "dog")),
        ("l.json", '{"dog": 1, "cat": 0}', ("cat", "dog")),
    ],
)
def test_labels_are_read(tmp_path, name, text, labels):
    (tmp_path / name).write_text(text)
    read = read_labels(tmp_path / name)
    assert read.labels == labels
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    assert (read.note is not None) == (text[0] not in "[{" and lines != labels)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "3", '{"0": "a", "2": "b"}', '{"a": 0, "b": 0}', "[1, 2]", "[" * 99_999]
)
def test_json_without_names_gets_one_sentence(tmp_path, text):
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(InputError, match="labels"):
        read_labels(tmp_path / "l.json")


@pytest.mark.parametrize(
    ("name", "text", "got"),
    [
        ("l.json", '{"1": "a", "2": "b"}', "got indices from 1 to 2 of 2 names, and not all from 0 on"),
        ("l.json", '{"a": 0, "b": 0}', "got indices from 0 to 0 of 1 names, and not all from 0 on"),
        ("l.json", '{"0": 1.5, "1": null}', "got JSON with values that are no names"),
        ("l.json", '{"app": "x"}', "got JSON of another form"),
        ("l.txt", "[1, 2]", "got JSON of another form"),
        ("l.yaml", "names:\n  0: a\n", "got a YAML file"),
    ],
)
def test_files_without_a_list_of_names_say_what_they_have(tmp_path, name, text, got):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_labels(tmp_path / name)
    assert got in str(caught.value)


def test_names_that_repeat_are_told_apart():
    assert told_apart(("crane", "cat", "crane")) == ("crane (0)", "cat", "crane (2)")
    assert told_apart(("a", "b")) == ("a", "b")
    assert len(set(told_apart(("a", "a (0)", "a", "a (2)")))) == 4
