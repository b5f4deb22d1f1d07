"""A model file that is replaced: taken when it proves itself, else the old one stays."""

import numpy as np
import pytest

from edgeclf.runtime.classifier import Classifier
from edgeclf.runtime.live.events import ModelKept, ModelReloaded
from edgeclf.runtime.live.model_reload import ModelReload
from edgeclf.runtime.session.foreign.given import ForeignModel
from edgeclf.runtime.spec import Preprocess


@pytest.fixture
def classifier(make_colour_model, tmp_path):
    return Classifier(make_colour_model(tmp_path / "m.onnx"), threads=1)


def replace_by(classifier, tmp_path, content):
    (tmp_path / "new").write_bytes(content)
    (tmp_path / "new").replace(classifier.session.path)


def other_model(make_colour_model, tmp_path, **changes):
    return make_colour_model(tmp_path / "other.onnx", **changes).read_bytes()


def test_nothing_happens_while_the_file_stays(classifier):
    before = classifier.session
    reload = ModelReload(classifier)
    assert [reload.check() for _ in range(3)] == [None] * 3
    assert classifier.session is before


def test_a_new_file_is_taken_once_it_has_been_the_same_twice(classifier, make_colour_model, tmp_path):
    before, labels = classifier.session, classifier.spec.labels
    reload = ModelReload(classifier)
    new = other_model(make_colour_model, tmp_path, size_hw=(16, 24), spec_changes={"preprocess": Preprocess((16, 24))})
    replace_by(classifier, tmp_path, new)
    assert reload.check() is None
    frame_bgr = np.full((480, 640, 3), (0, 0, 200), np.uint8)
    assert reload.check(frame_bgr) == ModelReloaded(before.path, labels, labels)
    assert classifier.session is not before
    assert classifier.spec.preprocess.size_hw == (16, 24)
    assert reload.check() is None
    assert (reload.reloads, reload.rejections) == (1, 0)


def test_a_file_that_was_replaced_before_the_watch_began_is_taken(classifier, make_colour_model, tmp_path):
    labels = classifier.spec.labels
    replace_by(classifier, tmp_path, other_model(make_colour_model, tmp_path, spec_changes={"labels": ("a", "b", "c")}))
    reload = ModelReload(classifier)
    assert reload.check() == ModelReloaded(classifier.session.path, ("a", "b", "c"), labels)
    assert reload.check() is None


def test_a_classifier_goes_on_with_the_new_model_in_threads_that_used_the_old_one(
    classifier, make_colour_model, tmp_path
):
    red_bgr = np.full((48, 64, 3), (0, 0, 200), np.uint8)
    assert classifier.predict(red_bgr).label == "red"
    other = {"preprocess": Preprocess((16, 24)), "labels": ("rot", "green", "blue")}
    replace_by(classifier, tmp_path, other_model(make_colour_model, tmp_path, size_hw=(16, 24), spec_changes=other))
    classifier.session = classifier.open_session()
    assert classifier.predict(red_bgr).label == "rot"
    assert [prediction.label for prediction in classifier.predict_batch([red_bgr] * 2)] == ["rot"] * 2


def test_what_does_not_open_or_keeps_no_contract_is_refused_and_said_once(classifier, make_colour_model, tmp_path):
    before = classifier.session
    reload = ModelReload(classifier)
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
        replace_by(classifier, tmp_path, content)
        reload.check()
        event = reload.check()
        assert isinstance(event, ModelKept)
        assert words in event.reason
        assert reload.check() is None
        assert reload.rejections == number + 1
    assert classifier.session is before
    before.path.unlink()
    reload.check()
    assert reload.check() == ModelKept(before.path, "the file is gone")
    replace_by(classifier, tmp_path, good)
    reload.check()
    assert isinstance(reload.check(), ModelReloaded)


def test_other_labels_are_named(classifier, make_colour_model, tmp_path):
    reload = ModelReload(classifier)
    replace_by(
        classifier, tmp_path, other_model(make_colour_model, tmp_path, spec_changes={"labels": ("red", "grün", "blue")})
    )
    reload.check()
    assert reload.check() == ModelReloaded(classifier.session.path, ("red", "grün", "blue"), ("red", "green", "blue"))


def test_a_foreign_file_gives_way_to_one_with_a_spec_and_back(make_colour_model, tmp_path):
    foreign = make_colour_model(tmp_path / "m.onnx", with_spec=False)
    content = foreign.read_bytes()
    classifier = Classifier(foreign, threads=1, foreign=ForeignModel(("rot", "gruen", "blau")))
    reload = ModelReload(classifier)
    replace_by(classifier, tmp_path, other_model(make_colour_model, tmp_path))
    reload.check()
    assert isinstance(reload.check(), ModelReloaded)
    assert classifier.spec.labels == ("red", "green", "blue")
    # What was said of the foreign file holds for another one in its place.
    replace_by(classifier, tmp_path, content)
    reload.check()
    assert isinstance(reload.check(), ModelReloaded)
    assert classifier.spec.labels == ("rot", "gruen", "blau")
