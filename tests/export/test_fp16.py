import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgeclf.export.fp16 import convert_fp16
from edgeclf.export.graph.contract import attach_spec, check_contract
from edgeclf.export.graph.float_graph import prepare_model
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.runtime.session.opening import open_session_from_bytes
from edgeclf.runtime.spec import ModelSpec, Preprocess

from .conftest import LABELS, SIZE_HW


def run(model, images):
    return open_session_from_bytes(model.SerializeToString(), threads=1).run(None, {"image": images})[0]


def weights_of(model):
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.name: tensors[node.input[1]].data_type
        for node in model.graph.node
        if node.op_type in {"Conv", "Gemm", "MatMul"}
    }


def weight_bytes(model):
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)


def test_weights_are_half_and_results_nearly_the_same(fp32, trained):
    half = convert_fp16(fp32).model
    assert set(weights_of(half).values()) == {TensorProto.FLOAT16}
    assert weight_bytes(half) < 0.55 * weight_bytes(fp32)
    spec = ModelSpec(labels=LABELS, preprocess=Preprocess(SIZE_HW))
    attach_spec(half, spec)
    check_contract(half, spec)
    difference = np.abs(run(half, trained.held_out_rgb) - run(fp32, trained.held_out_rgb)).max()
    # Not the same numbers: it is float16 that computes.
    assert 1e-6 < difference < 0.02


def test_a_named_layer_stays_in_float32(fp32):
    names = list(weights_of(prepare_model(fp32)))
    kept = weights_of(convert_fp16(fp32, [names[1]]).model)
    assert {name for name, kind in kept.items() if kind == TensorProto.FLOAT} == {names[1]}


def test_a_layer_that_does_not_exist_is_named_with_those_that_do(fp32):
    with pytest.raises(UsageError, match="no layer 'nonsense'"):
        convert_fp16(fp32, ["nonsense"])


def test_weights_beyond_float16_are_refused_unless_their_layer_stays(fp32):
    model = onnx.ModelProto.FromString(prepare_model(fp32).SerializeToString())
    (node, *_) = [node for node in model.graph.node if node.op_type == "Conv"]
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = 1e5
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(InputError, match="1e\\+05"):
        convert_fp16(model)
    assert convert_fp16(model, [node.name]).record["keep_float"] == [node.name]
