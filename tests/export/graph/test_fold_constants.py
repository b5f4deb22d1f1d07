import numpy as np
import onnx
import onnx.reference
from onnx import TensorProto, helper, numpy_helper

from edgeclf.export.graph.fold_constants import fold_constants


def model_of(nodes, constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_what_is_computed_of_constants_becomes_one(rng):
    variance = rng.uniform(0.5, 2, 3).astype(np.float32)
    nodes = [
        helper.make_node("Sqrt", ["variance"], ["root"]),
        helper.make_node("Max", ["root", "least"], ["std"]),
        helper.make_node("Div", ["x", "std"], ["y"]),
    ]
    model = model_of(nodes, {"variance": variance, "least": np.float32(1e-7)})
    before = onnx.reference.ReferenceEvaluator(model).run(None, {"x": np.ones((2, 3), np.float32)})
    fold_constants(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Div"]
    assert [item.name for item in model.graph.initializer] == ["std"]
    np.testing.assert_array_equal(
        onnx.reference.ReferenceEvaluator(model).run(None, {"x": np.ones((2, 3), np.float32)}), before
    )


def test_what_depends_on_the_input_is_large_or_is_the_result_stays(rng):
    large = rng.uniform(0, 1, (5000,)).astype(np.float32)
    nodes = [
        helper.make_node("Sqrt", ["large"], ["root"]),
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("ReduceSum", ["root"], ["sum"]),
        helper.make_node("Mul", ["a", "sum"], ["y"]),
    ]
    model = model_of(nodes, {"large": large})
    fold_constants(model)
    assert [node.op_type for node in model.graph.node] == ["Sqrt", "Abs", "ReduceSum", "Mul"]
    constant = model_of([helper.make_node("Neg", ["c"], ["y"])], {"c": np.ones(3, np.float32)})
    fold_constants(constant)
    assert len(constant.graph.node) == 1
