"""The self-test that an export writes: it passes where nothing is wrong, and finds what is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export import (
    ExportImages,
    ExportOptions,
    LabelledImages,
    ParityLimits,
    TrainedClassifier,
    export_classifier,
)
from edgeclf.export.verify.golden import make_self_test
from edgeclf.runtime import Classifier, ModelSession
from edgeclf.runtime.session.self_test import run_self_test, self_test_of
from edgeclf.runtime.spec import ModelSpec, Preprocess

from ..conftest import LABELS, SIZE_HW

pytestmark = pytest.mark.slow

SPEC = ModelSpec(labels=LABELS, preprocess=Preprocess(SIZE_HW), architecture="tiny")


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """The network as an fp32, an int8 and an fp16 file."""
    images = ExportImages(
        LabelledImages(trained.held_out_rgb, trained.held_out_indices), training_rgb=trained.train_rgb
    )
    folder = tmp_path_factory.mktemp("files")
    for precision in ("fp32", "int8", "fp16"):
        options = ExportOptions(precision, limits=ParityLimits(0.9, max_accuracy_drop=0.1), effort="quick")
        export_classifier(TrainedClassifier(trained.model, SPEC), images, folder / f"{precision}.onnx", options)
    return folder


def changed(path, out, change, *, of=lambda _: True):
    """Writes a file of which one weight array was changed."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 4 and of(array):
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(array.copy())), tensor.name))
            break
    else:
        raise AssertionError("no such weights")
    onnx.save(model, out)
    return run_self_test(ModelSession(out, device="cpu"))


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_a_file_passes_with_any_number_of_threads_and_batch_size(files, precision):
    path = files / f"{precision}.onnx"
    for threads in (1, 2, 4):
        result = Classifier(path, device="cpu", threads=threads).self_test()
        assert result.passed
        assert len(result.items) == 8
    session = ModelSession(path, device="cpu")
    right = session.run
    session.run = lambda images_rgb: right(np.repeat(images_rgb, 5, axis=0))[2:3]
    assert run_self_test(session).passed


def test_a_tolerance_is_by_the_kind_of_the_file(files):
    tests = {
        name: self_test_of(ModelSession(files / f"{name}.onnx", device="cpu")) for name in ("fp32", "int8", "fp16")
    }
    assert Classifier(files / "int8.onnx", device="cpu").spec.quantization["portable"] is True
    assert tests["int8"].tolerance < tests["fp32"].tolerance < tests["fp16"].tolerance
    assert tests["fp16"].tolerance <= tests["fp16"].other_tolerance
    assert tests["int8"].other_tolerance >= tests["fp32"].other_tolerance


def reverse_inputs(weights):
    return weights[:, ::-1]


def other_codes(weights):
    weights[...] = np.where(weights == weights.min(), weights, weights - 1)
    return weights


def one_weight(weights):
    place = np.unravel_index(np.abs(weights.astype(np.int32)).argmax(), weights.shape)
    weights[place] = 0
    return weights


def test_changed_weights_and_swapped_channels_are_found(files, tmp_path):
    def is_stem(array):
        return array.shape[1:] == (3, 3, 3)

    for precision in ("fp32", "int8"):
        path, out = files / f"{precision}.onnx", tmp_path / "changed.onnx"
        assert changed(path, out, lambda weights: weights).passed
        assert not changed(path, out, reverse_inputs, of=is_stem).passed
    int8 = files / "int8.onnx"

    def is_code(array):
        return array.dtype == np.int8

    assert not changed(int8, out, other_codes, of=is_code).passed
    assert not changed(int8, out, one_weight, of=is_code).passed


@pytest.mark.parametrize("classes", [2, 1000, 5000])
def test_the_record_stays_small_and_finds_a_change_of_any_class(tmp_path, rng, classes):
    weights = rng.normal(0, 0.01, (3, classes)).astype(np.float32)
    spec = ModelSpec(tuple(f"class {number}" for number in range(classes)), Preprocess((32, 32)))
    record = make_self_test(linear_model(weights), spec, linear_model(weights), tmp_path)
    spec = spec.with_changes(self_test=record)
    assert len(spec.to_json()) - len(spec.with_changes(self_test=None).to_json()) < 30_000
    if classes <= 1000:
        for index in {0, 1, classes // 2 - 1, classes - 1}:
            other = weights.copy()
            other[:, index] *= -1
            assert not passes(linear_model(other), spec, tmp_path)
    assert passes(linear_model(weights), spec, tmp_path)


def passes(model, spec, folder):
    from edgeclf.export.graph.contract import attach_spec

    attach_spec(model, spec)
    onnx.save(model, folder / "linear.onnx")
    return run_self_test(ModelSession(folder / "linear.onnx", device="cpu")).passed


def linear_model(weights):
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
