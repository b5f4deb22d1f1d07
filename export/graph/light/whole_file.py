"""Whole files of light models: ONNX files with all weights in them, written and read without holding the large ones.

The bytes are those that protobuf writes, in whose format messages are sequences of fields: number, length, content.
"""

import contextlib
import itertools
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.structure import without_initializers
from edgeclf.export.graph.light.weights import (
    MOVED_TYPES,
    file_place,
    has_large_weights,
    is_large,
    is_large_tensor,
    is_outside,
    set_place,
    tensor_bytes,
)

_PIECE_BYTES = 1 << 24
# Field numbers of onnx.proto, which never change, and the wire type of what has a length.
_GRAPH, _INITIALIZER, _RAW_DATA, _LENGTH = 7, 5, 9, 2


def serialized(model: onnx.ModelProto) -> Iterator[bytes]:
    """The bytes of a model's file, all weights in it, piece by piece: those of `SerializeToString`."""
    if not has_large_weights(model):
        yield model.SerializeToString()
        return
    light = without_initializers(model)
    graph_start, graph_end = _halves(light.graph, _INITIALIZER)
    sizes = [_tensor_size(tensor) for tensor in model.graph.initializer]
    length = len(graph_start) + len(graph_end) + sum(len(_header(_INITIALIZER, size)) + size for size in sizes)
    light.ClearField("graph")
    model_start, model_end = _halves(light, _GRAPH)
    yield model_start + _header(_GRAPH, length) + graph_start
    for tensor, size in zip(model.graph.initializer, sizes, strict=True):
        yield _header(_INITIALIZER, size)
        yield from _tensor_pieces(tensor)
    yield graph_end + model_end


def _halves(message: Any, number: int) -> tuple[bytes, bytes]:  # noqa: ANN401 - any message
    """The bytes of a message's fields below and above a number, in whose order they are written."""
    halves = []
    for is_first in (True, False):
        half = type(message)()
        half.CopyFrom(message)
        for field in message.DESCRIPTOR.fields:
            if (field.number < number) != is_first:
                half.ClearField(field.name)
        halves.append(half.SerializeToString())
    return halves[0], halves[1]


def _header(number: int, length: int) -> bytes:
    """A field's number and length as varints."""
    data = bytearray()
    for value in (number << 3 | _LENGTH, length):
        left = value
        while left > 0x7F:
            data.append(left & 0x7F | 0x80)
            left >>= 7
        data.append(left)
    return bytes(data)


def _around_values(tensor: onnx.TensorProto) -> tuple[bytes, bytes]:
    """The bytes of a large tensor before those of its values, and behind them."""
    head = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=list(tensor.dims))
    tail = onnx.TensorProto(doc_string=tensor.doc_string) if tensor.HasField("doc_string") else onnx.TensorProto()
    tail.metadata_props.extend(tensor.metadata_props)
    return head.SerializeToString() + _header(_RAW_DATA, tensor_bytes(tensor)), tail.SerializeToString()


def _tensor_size(tensor: onnx.TensorProto) -> int:
    if not is_large_tensor(tensor):
        return len(tensor.SerializeToString())
    return sum(map(len, _around_values(tensor))) + tensor_bytes(tensor)


def _tensor_pieces(tensor: onnx.TensorProto) -> Iterator[bytes]:
    if not is_large_tensor(tensor):
        yield tensor.SerializeToString()
        return
    head, tail = _around_values(tensor)
    yield head
    if is_outside(tensor):
        path, start, end = file_place(tensor)
        with path.open("rb") as file:
            file.seek(start)
            for at in range(start, end, _PIECE_BYTES):
                yield file.read(min(_PIECE_BYTES, end - at))
    else:
        yield tensor.raw_data
    yield tail


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes a model, light or not, as one file with all weights in it."""
    with path.open("wb") as file:
        file.writelines(serialized(model))


def read_light(path: Path) -> onnx.ModelProto:
    """Reads a model file, its large weights left in it; it must stay as it is while they are used.

    Args:
        path: A valid model with all weights in it.
    """
    with path.open("rb") as file, contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
        pieces = []
        for number, start, value_at, end in _fields(data, 0, len(data)):
            if number != _GRAPH:
                pieces.append(data[start:end])
                continue
            graph = b"".join(_light_graph(data, value_at, end, path.absolute()))
            pieces.append(_header(_GRAPH, len(graph)) + graph)
    model = onnx.ModelProto()
    model.ParseFromString(b"".join(pieces))
    return model


def _light_graph(data: mmap.mmap, start: int, end: int, path: Path) -> Iterator[bytes]:
    for number, field_at, value_at, field_end in _fields(data, start, end):
        if number != _INITIALIZER or not is_large(field_end - value_at):
            yield data[field_at:field_end]
            continue
        raw = [(at, stop) for key, _, at, stop in _fields(data, value_at, field_end) if key == _RAW_DATA]
        head = b"".join(data[at:stop] for key, at, _, stop in _fields(data, value_at, field_end) if key != _RAW_DATA)
        tensor = onnx.TensorProto.FromString(head)
        if len(raw) == 1 and tensor.data_type in MOVED_TYPES and is_large(raw[0][1] - raw[0][0]):
            set_place(tensor, str(path), raw[0][0], raw[0][1] - raw[0][0])
            body = tensor.SerializeToString()
            yield _header(_INITIALIZER, len(body)) + body
        else:
            yield data[field_at:field_end]


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number of each field of a message, and where it, its value and what follows it begin."""
    position = start
    while position < end:
        tag, value_at = _varint(data, position)
        kind = tag & 7
        if kind == _LENGTH:
            length, value_at = _varint(data, value_at)
            stop = value_at + length
        elif kind == 0:
            _, stop = _varint(data, value_at)
        else:
            stop = value_at + {1: 8, 5: 4}[kind]
        yield tag >> 3, position, value_at, stop
        position = stop


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = 0
    for index in itertools.count():
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise AssertionError
