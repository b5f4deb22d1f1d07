"""The self-test of a file: inputs that are the same everywhere, what passes, what fails, and what is no self-test."""

import dataclasses
import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeclf.runtime import Classifier, ForeignModel, ModelFileError, ModelSession
from edgeclf.runtime.session.self_test import (
    GoldenImage,
    GoldenInput,
    SelfTest,
    log_error,
    run_self_test,
    self_test_of,
)

IMAGES = (GoldenImage(1, (4,)), GoldenImage(2, (3, 16)))


def record_of(path, tolerance=1e-5, images=IMAGES):
    session = ModelSession(path, device="cpu")
    inputs = []
    for image in images:
        (row,) = session.run(image.pixels(session.spec.preprocess.size_hw)[None])
        inputs.append(GoldenInput(image, int(row.argmax()), row))
    return SelfTest(tuple(inputs), tolerance, 0.05)


@pytest.fixture
def tested(make_colour_model, tmp_path):
    plain = make_colour_model(tmp_path / "plain.onnx", size_hw=(24, 40))
    record = record_of(plain).to_json()
    return make_colour_model(tmp_path / "tested.onnx", size_hw=(24, 40), spec_changes={"self_test": record})


def test_an_image_is_what_the_format_says_pixel_for_pixel():
    state, values = 7, []
    for _ in range(3 * (2 * 2 + 5 * 5)):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(state >> 24)
    got = GoldenImage(7, (2, 5)).pixels((9, 12))
    assert (got.shape, got.dtype) == ((9, 12, 3), np.uint8)
    for y, x, channel in np.ndindex(9, 12, 3):
        coarse = values[3 * (y * 2 // 9 * 2 + x * 2 // 12) + channel]
        fine = values[12 + 3 * (y * 5 // 9 * 5 + x * 5 // 12) + channel]
        assert got[y, x, channel] == (coarse + fine) // 2
    # Written down, so that no change of the code can change what files of today mean.
    assert GoldenImage(1, (4,)).pixels((4, 4))[0, :2].tolist() == GOLDEN_PIXELS


GOLDEN_PIXELS = [[60, 94, 129], [180, 12, 94]]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_computes_what_it_computed(tested, threads):
    result = Classifier(tested, device="cpu", threads=threads).self_test()
    assert result.passed
    assert (result.tolerance, result.provider) == (1e-5, "CPUExecutionProvider")
    assert [item.label for item in result.items] == [item.expected_label for item in result.items]
    assert result.to_json()["passed"] is True
    assert len(result.to_json()["inputs"]) == 2


def test_another_computation_is_found(tested, tmp_path):
    model = onnx.load(tested)
    (divisor,) = model.graph.initializer
    divisor.CopyFrom(numpy_helper.from_array(np.float32(16.01), divisor.name))
    onnx.save(model, tmp_path / "other.onnx")
    result = run_self_test(ModelSession(tmp_path / "other.onnx", device="cpu"))
    assert not result.passed
    assert result.error > 3e-4
    divisor.CopyFrom(numpy_helper.from_array(np.float32(np.nan), divisor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    result = run_self_test(ModelSession(tmp_path / "nan.onnx", device="cpu"))
    assert not result.passed
    assert result.to_json()["error"] is None


def test_channels_in_another_order_are_found(tested, monkeypatch):
    session = ModelSession(tested, device="cpu")
    right = session.run
    monkeypatch.setattr(session, "run", lambda images_rgb: right(np.ascontiguousarray(images_rgb[..., ::-1])))
    assert not run_self_test(session).passed


def test_an_error_is_that_of_the_logits_however_sure_the_network_is():
    expected = np.array([1.0, 1e-9, 1e-40], np.float32)
    assert log_error(expected, expected) == 0
    assert log_error(np.array([1.0, 2e-9, 0.0], np.float32), expected) == pytest.approx(math.log(2), rel=1e-5)
    assert log_error(np.array([np.nan, 0, 0], np.float32), expected) == math.inf
    assert log_error(np.array([np.inf, 0, 0], np.float32), expected) == math.inf


def test_a_record_survives_the_round_trip_and_several_inputs_have_every_class():
    classes, step = 7, 3
    test = SelfTest((), 1e-4, 0.05, step)
    row = np.linspace(0, 1, classes, dtype=np.float32)
    inputs = tuple(GoldenInput(GoldenImage(n, (4,)), 6, row[test.recorded(n)]) for n in range(4))
    read = SelfTest.from_json(dataclasses.replace(test, inputs=inputs).to_json(), classes)
    assert (read.tolerance, read.other_tolerance, read.class_step) == (1e-4, 0.05, 3)
    assert [len(item.probabilities) for item in read.inputs] == [3, 2, 2, 3]
    covered = {i for n in range(4) for i in range(classes)[read.recorded(n)]}
    assert covered == set(range(classes))
    for got, wanted in zip(read.inputs, inputs, strict=True):
        assert got.image == wanted.image
        assert got.probabilities.tobytes() == wanted.probabilities.tobytes()


def without(record, key):
    return {name: value for name, value in record.items() if name != key}


def with_input(record, **changes):
    return record | {"inputs": [record["inputs"][0] | changes]}


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: without(record, "tolerance"),
        lambda record: record | {"version": 2},
        lambda record: record | {"class_step": 0},
        lambda record: record | {"class_step": 4},
        lambda record: record | {"class_step": "many"},
        lambda record: record | {"tolerance": {"cpu": 0, "other": 1}},
        lambda record: record | {"tolerance": {"cpu": math.nan, "other": 1}},
        lambda record: record | {"inputs": []},
        lambda record: record | {"inputs": record["inputs"] * 20},
        lambda record: record | {"inputs": 3},
        lambda record: with_input(record, grids=[]),
        lambda record: with_input(record, grids=[100_000]),
        lambda record: with_input(record, seed=-1),
        lambda record: with_input(record, seed=math.inf),
        lambda record: with_input(record, label_index=3),
        lambda record: with_input(record, probabilities="AAAA"),
        lambda record: with_input(record, probabilities="not base64!"),
        lambda record: with_input(record, probabilities=None),
        lambda record: [record],
        lambda record: "self-test",
    ],
)
def test_what_is_no_self_test_is_one_sentence(tested, damage):
    session = ModelSession(tested, device="cpu")
    assert self_test_of(session).inputs
    session.spec = session.spec.with_changes(self_test=damage(session.spec.self_test))
    with pytest.raises(ModelFileError, match="cannot read the self-test") as caught:
        run_self_test(session)
    assert "\n" not in str(caught.value)


def test_a_file_without_one_says_so(colour_model, make_colour_model, tmp_path):
    with pytest.raises(ModelFileError, match="has no self-test"):
        Classifier(colour_model, device="cpu").self_test()
    foreign = make_colour_model(tmp_path / "foreign.onnx", with_spec=False)
    with pytest.raises(ModelFileError, match="without an edgeclf spec"):
        Classifier(foreign, device="cpu", foreign=ForeignModel(["a", "b", "c"])).self_test()
