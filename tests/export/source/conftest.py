"""A small classifier without a spec, shared by the tests of this folder."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def make_foreign():
    """Writes a float classifier of the mean colour, (N, 3, 16, 24), whose logits are `z`."""

    def write(path):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [
                helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
                helper.make_node("MatMul", ["m", "w"], ["z"]),
            ],
            "colours",
            [value("x", TensorProto.FLOAT, ["N", 3, 16, 24])],
            [value("z", TensorProto.FLOAT, ["N", 3])],
            [numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        path.write_bytes(onnx.ModelProto.SerializeToString(model))
        return path

    return write
