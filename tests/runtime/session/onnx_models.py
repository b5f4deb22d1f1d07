"""ONNX models of many kinds, and what the onnx package says about one, for the tests of the graph's outline."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeclf.runtime.session.graph_outline import TensorOutline

FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64
value = helper.make_tensor_value_info


def model_of(nodes, inputs, outputs, initializers=(), *, opset=17, ir_version=8, domains=(), **graph):
    """A model with metadata and a producer."""
    made = helper.make_graph(nodes, "graph", inputs, outputs, list(initializers), **graph)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(
        made, opset_imports=opsets, ir_version=ir_version, producer_name="tests", producer_version="1.5-ü"
    )
    helper.set_model_props(model, {"names": "{0: 'cat'}", "empty": "", "größe": "ü"})
    return model


def old_network():
    """A convolution with its weights among the graph's inputs, as exporters wrote before 2019."""
    weights = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "weights")
    node = helper.make_node("Conv", ["image", "weights"], ["out"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="conv")
    inputs = [value("image", FLOAT, [1, 3, 8, 8]), value("weights", FLOAT, [4, 3, 3, 3])]
    return model_of([node], inputs, [value("out", FLOAT, [1, 4, 8, 8])], [weights], ir_version=3, opset=9)


def quantized_network():
    """Scales and zero points in every form that data has, and an output of unknown shape."""
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["real"]),
        helper.make_node("Clip", ["real", "", "six"], ["out"]),
    ]
    tensors = [
        helper.make_tensor("scale", FLOAT, [], [0.5]),
        helper.make_tensor("zero", UINT8, [], [128]),
        numpy_helper.from_array(np.float32(6), "six"),
    ]
    return model_of(nodes, [value("image", FLOAT, ["N", None, 8, 8])], [value("out", FLOAT, None)], tensors)


def half_network():
    """Half precision and other types, integers in a shape, a cast."""
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["half", "one"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["flat"], allowzero=0),
        helper.make_node("Equal", ["flags", "flags"], ["same"]),
    ]
    tensors = [
        helper.make_tensor("one", TensorProto.FLOAT16, [1], [1.5]),
        helper.make_tensor("shape", INT64, [2], [1, -1]),
        helper.make_tensor("flags", TensorProto.BOOL, [3], [1, 0, 1]),
    ]
    outputs = [value("flat", TensorProto.FLOAT16, [1, 12]), value("same", TensorProto.BOOL, [3])]
    return model_of(nodes, [value("image", UINT8, [1, 2, 2, 3])], outputs, tensors)


def branching_network():
    """Subgraphs, a sequence among the inputs, text, scalars."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["x"], [name])], name, [], [value(name, FLOAT, ["N"])]
        )
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        helper.make_node("If", ["condition"], ["out"], name="branch", **branches),
        helper.make_node("SequenceLength", ["images"], ["count"]),
        helper.make_node("Constant", [], ["words"], value_strings=["a", "ü", ""]),
        helper.make_node("Constant", [], ["mean"], value=helper.make_tensor("", FLOAT, [1, 3], [0.1, 0.2, 0.3])),
        helper.make_node("Constant", [], ["large"], value=numpy_helper.from_array(np.arange(65.0))),
    ]
    inputs = [
        value("x", FLOAT, ["N"]),
        value("condition", TensorProto.BOOL, []),
        helper.make_tensor_sequence_value_info("images", FLOAT, None),
    ]
    outputs = [value("out", FLOAT, ["N"]), value("count", INT64, []), value("words", TensorProto.STRING, [3])]
    outputs += [value("mean", FLOAT, [1, 3]), value("large", TensorProto.DOUBLE, [65])]
    return model_of(nodes, inputs, outputs)


def network_with_function():
    """A local function, and a node that calls it."""
    model = model_of(
        [helper.make_node("Twice", ["x"], ["y"], domain="local")],
        [value("x", FLOAT, [2])],
        [value("y", FLOAT, [2])],
        domains=["local"],
    )
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    return model


MODELS = {
    function.__name__: function()
    for function in (old_network, quantized_network, half_network, branching_network, network_with_function)
}


def dtype_word(number):
    name = TensorProto.DataType.Name(number)
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())


def same_tensor(found: TensorOutline, tensor, *, small):
    """Whether an outline is that of an onnx tensor; `small`: whether its values should have been read."""
    assert (found.name, found.dtype, found.shape) == (tensor.name, dtype_word(tensor.data_type), tuple(tensor.dims))
    assert found.external == (tensor.data_location == TensorProto.EXTERNAL)
    assert (found.values is not None) == small
    if small:
        expected = numpy_helper.to_array(tensor)
        assert (found.values.dtype, found.values.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found.values, expected)
        assert not found.values.flags.writeable
    return True


def same_value(found, info):
    assert found.name == info.name
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        assert (found.dtype, found.shape) == (kind.removesuffix("_type"), None)
        return
    tensor = info.type.tensor_type
    dims = [getattr(dim, dim.WhichOneof("value") or "", None) for dim in tensor.shape.dim]
    shape = tuple(dims) if tensor.HasField("shape") else None
    assert (found.dtype, found.shape) == (dtype_word(tensor.elem_type), shape)


def same_attribute(found, attribute):
    expected = helper.get_attribute_value(attribute)
    if isinstance(expected, onnx.TensorProto):
        elements = np.prod(expected.dims, dtype=int)
        same_tensor(found, expected, small=elements <= 64)
    elif isinstance(expected, onnx.GraphProto):
        assert found is None
    elif isinstance(expected, bytes):
        assert found == expected.decode()
    elif isinstance(expected, (int, float)):
        np.testing.assert_array_equal(found, expected)
        assert type(found) is type(expected)
    else:
        expected = [item.decode() if isinstance(item, bytes) else item for item in expected]
        np.testing.assert_array_equal(list(found), expected)


def same_model(found, model):
    """Checks an outline against the onnx package's own reading of the same file."""
    graph = model.graph
    assert found.ir_version == model.ir_version
    assert dict(found.opsets) == {opset.domain: opset.version for opset in model.opset_import}
    assert (found.producer_name, found.producer_version) == (model.producer_name, model.producer_version)
    assert dict(found.metadata) == {entry.key: entry.value for entry in model.metadata_props}
    assert list(found.functions) == [(function.domain, function.name) for function in model.functions]
    for values, infos in ((found.inputs, graph.input), (found.outputs, graph.output)):
        for outline, info in zip(values, infos, strict=True):
            same_value(outline, info)
    for node, proto in zip(found.nodes, graph.node, strict=True):
        assert (node.op_type, node.domain, node.name) == (proto.op_type, proto.domain, proto.name)
        assert (node.inputs, node.outputs) == (tuple(proto.input), tuple(proto.output))
        assert list(node.attributes) == [attribute.name for attribute in proto.attribute]
        for attribute in proto.attribute:
            same_attribute(node.attributes[attribute.name], attribute)
    assert list(found.initializers) == [tensor.name for tensor in graph.initializer]
    for tensor in graph.initializer:
        inline = tensor.data_location != TensorProto.EXTERNAL
        small = inline and numpy_helper.to_array(tensor).nbytes <= 4096
        same_tensor(found.initializers[tensor.name], tensor, small=small)


def graph_with(*, nodes=(), initializers=(), inputs=()):
    """A model that need not be valid."""
    return helper.make_model(helper.make_graph(list(nodes), "graph", list(inputs), [], list(initializers)))


def varint(number):
    """The bytes of a number in a protobuf message."""
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
