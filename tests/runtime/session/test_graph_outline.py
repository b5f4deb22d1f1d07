"""The outline of ONNX files against the onnx package and ONNX Runtime, and of files that are none or are damaged."""

import contextlib
import os

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.graph_outline import read_graph_outline

from .onnx_models import FLOAT, INT64, MODELS, dtype_word, model_of, same_model, same_tensor, value


@pytest.fixture(scope="module")
def outline_of(tmp_path_factory):
    """The outline of a model, or of a file's bytes."""
    path = tmp_path_factory.mktemp("outlines") / "model.onnx"

    def outline(model):
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return read_graph_outline(path)

    return outline


def graph_with(*, nodes=(), initializers=(), inputs=()):
    """A model that need not be valid."""
    return helper.make_model(helper.make_graph(list(nodes), "graph", list(inputs), [], list(initializers)))


def sentence_of(outline_of, data):
    with pytest.raises(ModelFileError) as error:
        outline_of(data)
    return str(error.value)


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


def test_a_file_of_large_weights_is_read_without_them(tmp_path):
    # Raw data of 2 GiB: a hole in the file.
    weights_bytes = 1 << 31
    tensor = TensorProto(name="w", dims=[weights_bytes // 4], data_type=FLOAT).SerializeToString()
    tensor += b"\x4a" + _varint(weights_bytes)
    graph = graph_with(nodes=[helper.make_node("Relu", ["w"], ["y"])]).graph.SerializeToString()
    graph += b"\x2a" + _varint(len(tensor) + weights_bytes) + tensor
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(b"\x08\x08\x3a" + _varint(len(graph) + weights_bytes) + graph)
        file.truncate(file.tell() + weights_bytes)
    found = read_graph_outline(path)
    assert (found.initializers["w"].shape, found.initializers["w"].values) == ((1 << 29,), None)
    assert [node.op_type for node in found.nodes] == ["Relu"]


def _varint(number):
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "an image"),
        (b"<!doctype html><html>404", "an HTML page, expected an .onnx file; download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
        (b"a text about a network\n", "text"),
        (b"\x1c\0\0\0TFL3" + bytes(20), "a TensorFlow Lite model"),
        (b"\x1c\0\0\0ORTM" + bytes(20), "an ORT format model"),
        (b"PK\3\4" + bytes(26) + b"resnet/data.pkl" + bytes(20), "a PyTorch checkpoint"),
        (b"PK\3\4" + bytes(60), "a zip archive"),
        (bytes(range(250, 0, -1)), "other binary data"),
        # A message, even of ONNX's first fields, and no graph in it.
        (b"\x08\x08\x12\x07edgeclf", "no graph in it"),
    ],
)
def test_a_file_that_is_no_onnx_model_is_called_what_it_is(outline_of, content, words):
    text = sentence_of(outline_of, content)
    assert text.startswith("cannot read model ")
    assert words in text


def test_a_path_that_is_no_file_is_one_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "a folder"),
        (tmp_path / "nothing.onnx", "no such file or folder"),
        (tmp_path / "pipe", "a device or a pipe"),
        ("a\0b", "an impossible name"),
    ):
        with pytest.raises(ModelFileError, match=words):
            read_graph_outline(path)


def tensor_with(**fields):
    return graph_with(initializers=[TensorProto(name="t", **fields)])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (tensor_with(dims=[3], data_type=FLOAT, raw_data=bytes(11)), "11 bytes of data in tensor 't'"),
        (tensor_with(dims=[3000], data_type=FLOAT, raw_data=bytes(11)), "11 bytes of data in tensor 't'"),
        (tensor_with(dims=[3], data_type=TensorProto.INT4, raw_data=bytes(3)), "3 bytes of data in tensor 't'"),
        (tensor_with(dims=[3], data_type=FLOAT, float_data=[1, 2]), "2 elements in tensor 't'"),
        (tensor_with(dims=[3], data_type=FLOAT), "0 elements in tensor 't'"),
        (tensor_with(dims=[1], data_type=TensorProto.COMPLEX64, float_data=[1, 2, 3]), "3 parts of complex numbers"),
        (tensor_with(dims=[-3], data_type=FLOAT), "1 dimensions (-3,)"),
        (tensor_with(dims=[2**62] * 65, data_type=FLOAT), "65 dimensions"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_damage(outline_of, model, words):
    text = sentence_of(outline_of, model)
    assert "damaged" in text
    assert words in text


def test_a_file_that_ends_early_is_damage_wherever_it_ends(outline_of):
    data = MODELS["quantized_network"].SerializeToString()
    assert len(outline_of(data).nodes) == 3
    whole = 0
    for length in range(2, len(data)):
        try:
            outline_of(data[:length])
            whole += 1
        except ModelFileError as error:
            assert "damaged or other binary data" in error.sentence  # noqa: PT017
    # What ends behind the graph, its opset, or the first or second of its three properties is a model, too.
    assert whole == 4


def mutations(rng, data):
    """Copies of a file with bytes flipped, inserted, removed, repeated, or numbers made huge."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(changed)))
        match rng.integers(0, 5):
            case 0:
                changed[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                changed[at:at] = rng.bytes(int(rng.integers(1, 12)))
            case 2:
                del changed[at : at + int(rng.integers(1, 12))]
            case 3:
                changed[at:at] = changed[at : at + int(rng.integers(1, 200))]
            case _:
                changed[at : at + 1] = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"[: int(rng.integers(1, 10))] + b"\x01"
    return bytes(changed)


@pytest.mark.parametrize("name", MODELS)
def test_damaged_files_end_in_the_one_error_or_in_what_the_onnx_package_reads(outline_of, rng, name):
    original = MODELS[name].SerializeToString()
    refused = 0
    for _ in range(300):
        data = mutations(rng, original)
        try:
            found = outline_of(data)
        except ModelFileError as error:
            refused += 1
            assert error.sentence.count("\n") == 0  # noqa: PT017
            continue
        with contextlib.suppress(DecodeError):
            graph = onnx.ModelProto.FromString(data).graph
            assert [node.op_type for node in found.nodes] == [node.op_type for node in graph.node]
            assert [node.inputs for node in found.nodes] == [tuple(node.input) for node in graph.node]
            assert [value.name for value in found.outputs] == [info.name for info in graph.output]
            assert {tensor.name for tensor in graph.initializer} <= set(found.initializers)
    assert refused > 100


@given(st.binary(max_size=300))
def test_random_bytes_in_place_of_a_graph_never_end_in_another_error(outline_of, data):
    for content in (data, b"\x08\x08\x3a" + _varint(len(data)) + data):
        with contextlib.suppress(ModelFileError):
            outline_of(content)


def test_a_model_needs_a_graph_that_need_hold_nothing(outline_of):
    found = outline_of(b"\x3a\x00")
    assert (found.nodes, found.inputs, dict(found.initializers), found.ir_version) == ((), (), {}, 0)
    assert len(outline_of(model_of([], [], [], ir_version=8)).metadata) == 3
