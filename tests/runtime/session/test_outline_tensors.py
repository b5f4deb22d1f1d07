"""Tensors in the outline of ONNX files: values of small ones, and names and shapes of those that are large, sparse or elsewhere."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeclf.runtime.session.graph_outline import read_graph_outline

from .onnx_models import FLOAT, INT64, MODELS, graph_with, same_tensor, value, varint

NUMPY_TYPES = [
    np.dtype(name)
    for name in [
        "float32",
        "float64",
        "float16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
        "complex64",
        "complex128",
    ]
]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", NUMPY_TYPES, ids=str)
def test_small_tensors_are_read_from_raw_and_typed_data(outline_of, rng, dtype, raw):
    array = rng.integers(0, 2, (2, 3, 16), np.uint8)
    array = array.astype(dtype) if dtype.kind == "b" else (array * rng.integers(0, 256, dtype=np.uint8)).view(dtype)
    tensor = helper.make_tensor(
        "t", helper.np_dtype_to_tensor_dtype(dtype), array.shape, array.tobytes() if raw else array.ravel(), raw=raw
    )
    assert tensor.HasField("raw_data") == raw
    same_tensor(outline_of(graph_with(initializers=[tensor])).initializers["t"], tensor, small=True)


@pytest.mark.parametrize(
    "number", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.UINT2]
)
def test_types_without_a_numpy_type_have_no_values(outline_of, number):
    tensor = helper.make_tensor("t", number, [3], [1, 0, 1])
    same_tensor(outline_of(graph_with(initializers=[tensor])).initializers["t"], tensor, small=False)


def test_only_small_tensors_have_values(outline_of):
    small = numpy_helper.from_array(np.arange(1024, dtype=np.float32), "small")
    large = numpy_helper.from_array(np.arange(1025, dtype=np.float32), "large")
    typed = helper.make_tensor("typed", INT64, [513], range(513))
    nothing = numpy_helper.from_array(np.zeros((0, 5), np.float32), "nothing")
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"a", "ü".encode()])
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"a" * 5000])
    found = outline_of(graph_with(initializers=[small, large, typed, nothing, words, text])).initializers
    for tensor in (small, nothing, words):
        same_tensor(found[tensor.name], tensor, small=True)
    for tensor in (large, typed, text):
        same_tensor(found[tensor.name], tensor, small=False)


def test_a_tensor_without_elements_may_be_of_any_size(outline_of):
    tensor = TensorProto(name="t", dims=[0, 2**62, 2**62], data_type=FLOAT)
    found = outline_of(graph_with(initializers=[tensor])).initializers["t"]
    assert (found.shape, found.values) == ((0, 2**62, 2**62), None)


def test_external_data_is_named_and_never_opened(tmp_path):
    model = MODELS["old_network"]
    path = tmp_path / "model.onnx"
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    # Where it would end the process to open it.
    os.mkfifo(tmp_path / "weights.bin")
    found = read_graph_outline(path).initializers["weights"]
    assert (found.external, found.location, found.values) == (True, "weights.bin", None)
    assert (found.dtype, found.shape) == ("float32", (4, 3, 3, 3))


def test_a_sparse_initializer_fills_an_input_and_has_no_values(outline_of):
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("weights", FLOAT, [2], [1.0, 2.0]), helper.make_tensor("", INT64, [2], [0, 5]), [3, 4]
    )
    model = graph_with(inputs=[value("x", FLOAT, [4]), value("weights", FLOAT, [3, 4])])
    model.graph.sparse_initializer.append(sparse)
    found = outline_of(model)
    weights = found.initializers["weights"]
    assert (weights.dtype, weights.shape, weights.values) == ("float32", (3, 4), None)
    assert [value.name for value in found.real_inputs] == ["x"]


def test_a_file_of_large_weights_is_read_without_them(tmp_path):
    # Raw data of 2 GiB: a hole in the file.
    weights_bytes = 1 << 31
    tensor = TensorProto(name="w", dims=[weights_bytes // 4], data_type=FLOAT).SerializeToString()
    tensor += b"\x4a" + varint(weights_bytes)
    graph = graph_with(nodes=[helper.make_node("Relu", ["w"], ["y"])]).graph.SerializeToString()
    graph += b"\x2a" + varint(len(tensor) + weights_bytes) + tensor
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(b"\x08\x08\x3a" + varint(len(graph) + weights_bytes) + graph)
        file.truncate(file.tell() + weights_bytes)
    found = read_graph_outline(path)
    assert (found.initializers["w"].shape, found.initializers["w"].values) == ((1 << 29,), None)
    assert [node.op_type for node in found.nodes] == ["Relu"]
