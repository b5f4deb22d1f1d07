"""The outline of files that are no ONNX models or are damaged: one sentence, whatever is in them."""

import contextlib
import os

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.graph_outline import read_graph_outline

from .onnx_models import FLOAT, MODELS, graph_with, varint


def sentence_of(outline_of, data):
    with pytest.raises(ModelFileError) as error:
        outline_of(data)
    return str(error.value)


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
    for content in (data, b"\x08\x08\x3a" + varint(len(data)) + data):
        with contextlib.suppress(ModelFileError):
            outline_of(content)
