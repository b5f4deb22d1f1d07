"""A model file that is replaced: taken when it proves itself, else the old one stays."""

from functools import partial

import numpy as np
import pytest

from edgeclf.runtime.live.model_reload import WatchedModel, label_changes
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import Preprocess


@pytest.fixture
def watched(make_colour_model, tmp_path):
    path = make_colour_model(tmp_path / "m.onnx")
    load = partial(ModelSession, path, threads=1)
    return WatchedModel(load(), load)


def replace_by(watched, tmp_path, content):
    (tmp_path / "new").write_bytes(content)
    (tmp_path / "new").replace(watched.session.path)


def other_model(make_colour_model, tmp_path, **changes):
    return make_colour_model(tmp_path / "other.onnx", **changes).read_bytes()


def test_nothing_happens_while_the_file_stays(watched):
    before = watched.session
    assert [watched.look() for _ in range(3)] == [None] * 3
    assert watched.session is before


def test_a_new_file_is_taken_once_it_has_been_the_same_twice(watched, make_colour_model, tmp_path):
    before = watched.session
    new = other_model(make_colour_model, tmp_path, size_hw=(16, 24), spec_changes={"preprocess": Preprocess((16, 24))})
    replace_by(watched, tmp_path, new)
    assert watched.look() is None
    replacement = watched.look(np.zeros((480, 640, 3), np.uint8))
    assert (replacement.is_accepted, replacement.text) == (True, "the same labels")
    assert watched.session is not before
    assert watched.session.spec.preprocess.size_hw == (16, 24)
    assert watched.look() is None
    assert (watched.reloads, watched.rejections) == (1, 0)


def test_what_does_not_open_or_keeps_no_contract_is_refused_and_said_once(watched, make_colour_model, tmp_path):
    before = watched.session
    good = before.path.read_bytes()
    lying = other_model(
        make_colour_model, tmp_path, size_hw=(32, 32), spec_changes={"preprocess": Preprocess((64, 64))}
    )
    few = other_model(make_colour_model, tmp_path, spec_changes={"labels": ("red", "green")})
    without = other_model(make_colour_model, tmp_path, with_spec=False)
    for number, (content, words) in enumerate([
        (good[:100], "cannot open model"), (b"", "cannot open model"), (lying, "does not match its own spec"),
        (few, "the labels do not match"), (without, "has no edgeclf spec"),
    ]):  # fmt: skip
        replace_by(watched, tmp_path, content)
        watched.look()
        replacement = watched.look()
        assert not replacement.is_accepted
        assert words in replacement.text
        assert watched.look() is None
        assert watched.rejections == number + 1
    assert watched.session is before
    watched.session.path.unlink()
    watched.look()
    assert watched.look().text == "the file is gone"
    replace_by(watched, tmp_path, good)
    watched.look()
    assert watched.look().is_accepted


def test_other_labels_are_named(watched, make_colour_model, tmp_path):
    replace_by(
        watched, tmp_path, other_model(make_colour_model, tmp_path, spec_changes={"labels": ("red", "grün", "blue")})
    )
    watched.look()
    assert watched.look().text == "new: grün; gone: green"
    assert label_changes(("a", "b"), ("b", "a")) == "the same labels in another order"
    assert label_changes(("a", "b"), ("a", "b")) == ""
    assert label_changes(("a",), ("a", "b", "c")) == "new: b, c"
