"""The outline of ONNX files against the onnx package and ONNX Runtime: nodes, attributes, inputs, outputs and their types."""

import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeclf.runtime.session.graph_outline import read_graph_outline

from .onnx_models import FLOAT, INT64, MODELS, dtype_word, graph_with, model_of, same_model, value


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_is_read_as_the_onnx_package_reads_it(outline_of, name):
    same_model(outline_of(MODELS[name]), MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_inputs_and_outputs_are_those_that_onnx_runtime_has(outline_of, name):
    found = outline_of(MODELS[name])
    session = onnxruntime.InferenceSession(MODELS[name].SerializeToString(), providers=["CPUExecutionProvider"])
    types = {"float": "float32", "double": "float64"}

    def described(argument):
        if not argument.type.startswith("tensor("):
            return argument.name, {"seq": "sequence"}[argument.type.split("(")[0]], []
        word = argument.type.removeprefix("tensor(").removesuffix(")")
        return argument.name, types.get(word, word), argument.shape

    # ONNX Runtime fills in the shape of an output where the file leaves it open.
    for values, arguments in ((found.real_inputs, session.get_inputs()), (found.outputs, session.get_outputs())):
        for outline, (argument_name, dtype, shape) in zip(values, map(described, arguments), strict=True):
            assert (outline.name, outline.dtype) == (argument_name, dtype)
            if outline.shape is not None:
                assert list(outline.shape) == list(shape)


def test_the_colour_model_is_read_with_its_spec(colour_model):
    found = read_graph_outline(str(colour_model))
    same_model(found, onnx.load(colour_model))
    assert [node.op_type for node in found.nodes] == ["Cast", "ReduceMean", "Div", "Softmax"]
    assert found.inputs[0].shape == ("N", 32, 32, 3)
    assert "edgeclf" in str(found.metadata)


def test_producers_and_readers_of_values_are_found(outline_of):
    found = outline_of(MODELS["quantized_network"])
    quantize, dequantize, clip = found.nodes
    assert found.producer_of("real") is dequantize
    assert found.readers_of("scale") == (quantize, dequantize)
    assert (found.readers_of("real"), found.readers_of("out")) == ((clip,), ())
    # An input that is left out has the empty name, which is no value.
    assert clip.inputs == ("real", "", "six")
    for name in ("image", "scale", "nothing", ""):
        assert found.producer_of(name) is None
    assert found.readers_of("") == ()
    twice = outline_of(graph_with(nodes=[helper.make_node("Add", ["x", "x"], ["y"])]))
    assert twice.readers_of("x") == twice.nodes


def test_weights_among_the_inputs_are_no_real_inputs(outline_of):
    found = outline_of(MODELS["old_network"])
    assert [value.name for value in found.inputs] == ["image", "weights"]
    assert [value.name for value in found.real_inputs] == ["image"]


def test_the_standard_domain_has_one_name(outline_of):
    model = graph_with(nodes=[helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")])
    model.opset_import[0].domain = "ai.onnx"
    found = outline_of(model)
    assert (list(found.opsets), found.nodes[0].domain) == ([""], "")


@pytest.mark.parametrize("number", TensorProto.DataType.values())
def test_every_element_type_has_its_name(outline_of, number):
    found = outline_of(graph_with(inputs=[value("x", number, [1])]))
    assert found.inputs[0].dtype == dtype_word(number)


def test_types_and_attributes_of_a_newer_onnx_are_no_error(outline_of):
    model = graph_with(inputs=[value("x", 99, [1])], nodes=[helper.make_node("Relu", ["x"], ["y"], alpha=1)])
    model.graph.initializer.append(TensorProto(name="new", dims=[2], data_type=99, raw_data=b"123"))
    data = model.SerializeToString()
    # Attribute "alpha" gets the kind 99; a field 1000 follows the model.
    assert data.count(b"\xa0\x01\x02") == 1
    found = outline_of(data.replace(b"\xa0\x01\x02", b"\xa0\x01\x63") + b"\xc2\x3e\x03new")
    assert (found.inputs[0].dtype, found.initializers["new"].dtype) == ("type 99", "type 99")
    assert dict(found.nodes[0].attributes) == {"alpha": None}


@pytest.mark.parametrize("kind", ["optional", "map", "sparse"])
def test_inputs_that_are_no_dense_tensors_are_named(outline_of, kind):
    tensor = helper.make_tensor_type_proto(FLOAT, [1])
    proto = {
        "optional": lambda: helper.make_optional_type_proto(tensor),
        "map": lambda: helper.make_map_type_proto(INT64, tensor),
        "sparse": lambda: helper.make_sparse_tensor_type_proto(FLOAT, [1]),
    }[kind]()
    (found,) = outline_of(graph_with(inputs=[helper.make_value_info("x", proto)])).inputs
    assert (found.name, found.dtype, found.shape) == ("x", kind, None)
    untyped = outline_of(graph_with(inputs=[onnx.ValueInfoProto(name="y")])).inputs[0]
    assert (untyped.name, untyped.dtype, untyped.shape) == ("y", "undefined", None)


def test_unknown_dimensions_have_several_spellings(outline_of):
    (found,) = outline_of(graph_with(inputs=[value("x", FLOAT, [-1, "", None, 0, "N", 7])])).inputs
    assert found.shape == (None, None, None, 0, "N", 7)


def test_an_attribute_may_be_a_compiled_network(outline_of):
    blob = bytes(range(256))
    node = helper.make_node("EPContext", [], [], short=blob, long=b"a" * (1 << 20), longer=b"a" * ((1 << 20) + 1))
    attributes = outline_of(graph_with(nodes=[node])).nodes[0].attributes
    assert attributes["short"] == blob
    assert attributes["long"] == "a" * (1 << 20)
    assert attributes["longer"] is None


def test_attributes_at_their_default_need_not_be_written(outline_of):
    # proto3 writers leave out zeros and empty lists.
    kinds = {
        "INT": 0,
        "FLOAT": 0.0,
        "STRING": "",
        "INTS": (),
        "FLOATS": (),
        "STRINGS": (),
        "GRAPH": None,
        "UNDEFINED": None,
    }
    node = onnx.NodeProto(op_type="Any")
    for kind in kinds:
        node.attribute.add(name=kind).type = onnx.AttributeProto.AttributeType.Value(kind)
    assert dict(outline_of(graph_with(nodes=[node])).nodes[0].attributes) == kinds


def test_attributes_of_the_first_format_name_no_kind(outline_of):
    node = helper.make_node("Any", [], [], i=7, f=0.5, s="text", ints=[1, 2], floats=[0.5], strings=["a"])
    for attribute in node.attribute:
        attribute.ClearField("type")
    found = outline_of(graph_with(nodes=[node])).nodes[0].attributes
    assert dict(found) == {"i": 7, "f": 0.5, "s": "text", "ints": (1, 2), "floats": (0.5,), "strings": ("a",)}


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


integers = st.integers(-(2**63), 2**63 - 1)


floats = st.floats(width=32)


attribute_values = st.one_of(
    integers, floats, names, *(st.lists(kind, min_size=1, max_size=40) for kind in (integers, floats, names))
)


@given(
    st.dictionaries(names, attribute_values, max_size=4),
    st.lists(names, max_size=4),
    st.one_of(st.none(), st.lists(st.one_of(st.integers(0, 2**63 - 1), names.filter(bool), st.none()), max_size=5)),
)
def test_any_names_shapes_and_attributes_are_read(outline_of, attributes, values, shape):
    node = onnx.NodeProto(op_type="Any", name="".join(values), input=values, output=values[::-1])
    node.attribute.extend(helper.make_attribute(name, content) for name, content in attributes.items())
    model = graph_with(nodes=[node], inputs=[value(name, FLOAT, shape) for name in values])
    same_model(outline_of(model), model)


def test_a_model_needs_a_graph_that_need_hold_nothing(outline_of):
    found = outline_of(b"\x3a\x00")
    assert (found.nodes, found.inputs, dict(found.initializers), found.ir_version) == ((), (), {}, 0)
    assert len(outline_of(model_of([], [], [], ir_version=8)).metadata) == 3
