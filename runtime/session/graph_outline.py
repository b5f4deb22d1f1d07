"""The outline of an ONNX file, its graph without its weights: what ONNX Runtime does not show, without the onnx package.

Field numbers are those of onnx/onnx.proto, which never change; fields of a newer ONNX are passed over.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.files import content_kind, hint_for, kind_of
from edgeclf.runtime.session.protobuf import DamagedMessageError, Message, MessageReader

# Values are kept of initializers up to this many bytes, and of tensors in attributes up to this many elements.
SMALL_INITIALIZER_BYTES = 4096
SMALL_ATTRIBUTE_ELEMENTS = 64
# Texts in attributes that are longer are no texts: some providers keep a compiled network there.
_LONGEST_ATTRIBUTE_TEXT = 1 << 20
_MOST_DIMENSIONS = 64
_EXTERNAL = 1
_FLOAT_DATA, _INT32_DATA, _STRING_DATA, _INT64_DATA, _RAW_DATA, _DOUBLE_DATA, _UINT64_DATA = 4, 5, 6, 7, 9, 10, 11


class _ElementType(NamedTuple):
    """An element type: its name, bits in raw data (0 for unknown), NumPy's name for it ("" for none), its data field."""

    name: str
    bits: int = 0
    numpy: str = ""
    field: int = _INT32_DATA


_ELEMENT_TYPES = {
    0: _ElementType("undefined"),
    1: _ElementType("float32", 32, "<f4", _FLOAT_DATA),
    2: _ElementType("uint8", 8, "u1"),
    3: _ElementType("int8", 8, "i1"),
    4: _ElementType("uint16", 16, "<u2"),
    5: _ElementType("int16", 16, "<i2"),
    6: _ElementType("int32", 32, "<i4"),
    7: _ElementType("int64", 64, "<i8", _INT64_DATA),
    8: _ElementType("string", 0, "O", _STRING_DATA),
    9: _ElementType("bool", 8, "?"),
    10: _ElementType("float16", 16, "<f2"),
    11: _ElementType("float64", 64, "<f8", _DOUBLE_DATA),
    12: _ElementType("uint32", 32, "<u4", _UINT64_DATA),
    13: _ElementType("uint64", 64, "<u8", _UINT64_DATA),
    14: _ElementType("complex64", 64, "<c8", _FLOAT_DATA),
    15: _ElementType("complex128", 128, "<c16", _DOUBLE_DATA),
    16: _ElementType("bfloat16", 16),
    17: _ElementType("float8e4m3fn", 8),
    18: _ElementType("float8e4m3fnuz", 8),
    19: _ElementType("float8e5m2", 8),
    20: _ElementType("float8e5m2fnuz", 8),
    21: _ElementType("uint4", 4),
    22: _ElementType("int4", 4),
    23: _ElementType("float4e2m1", 4),
    24: _ElementType("float8e8m0", 8),
    25: _ElementType("uint2", 2),
    26: _ElementType("int2", 2),
    27: _ElementType("float6e2m3"),
    28: _ElementType("float6e3m2"),
}
# TypeProto's members beside the tensor.
_OTHER_TYPES = {4: "sequence", 5: "map", 7: "opaque", 8: "sparse", 9: "optional"}
# AttributeProto.AttributeType, and the field where each kind is.
_ATTRIBUTE_FIELDS = {1: 2, 2: 3, 3: 4, 4: 5, 6: 7, 7: 8, 8: 9}


@dataclass(frozen=True)
class ValueOutline:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        dtype: A tensor's element type, as in `TensorOutline`; `sequence of maps`, `sequence`, `map`, `optional`, `sparse` or
            `opaque` for what is no dense tensor.
        shape: Dimensions, each a number, a name, or None for unknown; None for an unknown rank and for no tensor.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, eq=False)
class TensorOutline:
    """An initializer, or a tensor in an attribute.

    Attributes:
        name: Its name; mostly empty in an attribute.
        dtype: Element type: ONNX's name in small letters, with the bits of `float32` and `float64` spelled out;
            `undefined` where the file names none, `type 99` for a number that a newer ONNX gave.
        shape: Dimensions.
        external: Whether its data lies in another file, which is never opened.
        location: That file's path as the model says it, relative to the model; empty where there is none.
        end: Bytes of that file up to the end of its data; 0 where the model does not say.
        values: The read-only array, in `shape`, of a small tensor that is not external; texts as an array of objects.
            None for all others, and for types that NumPy does not have.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    external: bool = False
    location: str = ""
    end: int = 0
    values: AnyArray | None = None


AttributeValue: TypeAlias = (
    int | float | str | bytes | tuple[int, ...] | tuple[float, ...] | tuple[str | bytes, ...] | TensorOutline | None
)


@dataclass(frozen=True, eq=False)
class NodeOutline:
    """A node; equal to itself alone.

    Attributes:
        op_type: Operator.
        domain: The operator's domain; empty for ONNX's own.
        name: Its name, empty for none.
        inputs: Names of the values it reads, in the operator's order; empty for an optional one that is left out.
        outputs: Names of the values it produces, likewise.
        attributes: Values by name. Text that is not UTF-8 is bytes; None stands for what is not read: subgraphs, types,
            sparse tensors, lists of tensors, and text of more than a mebibyte.
    """

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, eq=False)
class GraphOutline:
    """The outline of an ONNX file. Nodes inside subgraphs (of If, Loop, Scan) and of local functions are not in it.

    Attributes:
        ir_version: Version of the file format.
        opsets: Operator set versions by domain; ONNX's own domain is empty.
        producer_name: The program that wrote the file.
        producer_version: Its version.
        metadata: The model's properties.
        inputs: All inputs of the graph, initializers among them in files of older exporters.
        outputs: Outputs of the graph.
        nodes: In the file's order.
        initializers: By name, sparse ones included (never with values).
        functions: Domain and name of each local function.
    """

    ir_version: int
    opsets: Mapping[str, int]
    producer_name: str
    producer_version: str
    metadata: Mapping[str, str]
    inputs: tuple[ValueOutline, ...]
    outputs: tuple[ValueOutline, ...]
    nodes: tuple[NodeOutline, ...]
    initializers: Mapping[str, TensorOutline]
    functions: tuple[tuple[str, str], ...]

    @property
    def real_inputs(self) -> tuple[ValueOutline, ...]:
        """Inputs that a caller has to give: those that no initializer fills."""
        return tuple(value for value in self.inputs if value.name not in self.initializers)

    def producer_of(self, value: str) -> NodeOutline | None:
        """The node that produces a value; None for inputs, initializers and unknown names."""
        return self._producers.get(value)

    def readers_of(self, value: str) -> tuple[NodeOutline, ...]:
        """The nodes that read a value, each once, in the file's order; what subgraphs read is not known."""
        return tuple(self._readers.get(value, ()))

    def constant(self, value: str) -> AnyArray | None:
        """The array of a small initializer, or of a `Constant` node that gives a small tensor; None of any other value."""
        tensor: object = self.initializers.get(value)
        if tensor is None:
            producer = self.producer_of(value)
            tensor = None if producer is None or producer.op_type != "Constant" else producer.attributes.get("value")
        return tensor.values if isinstance(tensor, TensorOutline) else None

    @cached_property
    def _producers(self) -> dict[str, NodeOutline]:
        return {value: node for node in self.nodes for value in node.outputs if value}

    @cached_property
    def _readers(self) -> dict[str, list[NodeOutline]]:
        readers: dict[str, list[NodeOutline]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                if value:
                    readers.setdefault(value, []).append(node)
        return readers


def read_graph_outline(path: Path | str) -> GraphOutline:
    """Reads the outline of an ONNX file; weights and files of external data are not read, however large they are.

    Args:
        path: The file.

    Raises:
        ModelFileError: There is no such file, or it is no whole ONNX model.
    """
    path = Path(path)
    if kind_of(path) != "file":
        raise _no_model(path, content_kind(path))
    try:
        with path.open("rb", buffering=0) as file:
            return _outline(MessageReader(file).message())
    except DamagedMessageError as error:
        kind = content_kind(path)
        if kind not in {"an ONNX model", "binary data"}:
            raise _no_model(path, kind) from error
        raise ModelFileError(
            f"cannot read model {path}",
            got=f"damaged or other binary data ({error})",
            expected="a whole ONNX file",
            hint="copy or export the file again",
        ) from error
    except OSError as error:
        raise _no_model(path, (error.strerror or type(error).__name__).lower()) from error


def _no_model(path: Path, got: str) -> ModelFileError:
    return ModelFileError(
        f"cannot read model {path}", got=got, expected="an .onnx file", hint=hint_for(got, "check the path")
    )


def _outline(model: Message) -> GraphOutline:
    if not model.has(7):
        raise DamagedMessageError("no graph in it")
    graph = model.message(7)
    initializers = [_tensor(tensor) for tensor in graph.messages(5)]
    initializers += [_sparse_tensor(tensor) for tensor in graph.messages(15)]
    return GraphOutline(
        ir_version=model.integer(1),
        opsets=MappingProxyType({_domain(opset.text(1)): opset.integer(2) for opset in model.messages(8)}),
        producer_name=model.text(2),
        producer_version=model.text(3),
        metadata=MappingProxyType({entry.text(1): entry.text(2) for entry in model.messages(14)}),
        inputs=tuple(_value(value) for value in graph.messages(11)),
        outputs=tuple(_value(value) for value in graph.messages(12)),
        nodes=tuple(_node(node) for node in graph.messages(1)),
        initializers=MappingProxyType({tensor.name: tensor for tensor in initializers}),
        functions=tuple((_domain(function.text(10)), function.text(1)) for function in model.messages(25)),
    )


def _domain(name: str) -> str:
    """An operator domain; ONNX's own has two names."""
    return "" if name == "ai.onnx" else name


def _node(node: Message) -> NodeOutline:
    return NodeOutline(
        op_type=node.text(4),
        domain=_domain(node.text(7)),
        name=node.text(3),
        inputs=tuple(node.texts(1)),
        outputs=tuple(node.texts(2)),
        attributes=MappingProxyType({attribute.text(1): _attribute(attribute) for attribute in node.messages(5)}),
    )


def _attribute(attribute: Message) -> AttributeValue:
    kind = attribute.integer(20)
    # The first version of the format had no kind: there, the field that is filled tells.
    field = _ATTRIBUTE_FIELDS.get(kind) if kind else next(filter(attribute.has, _ATTRIBUTE_FIELDS.values()), None)
    value: AttributeValue = None
    match field:
        case 2:
            value = (attribute.floats(2) or [0.0])[-1]
        case 3:
            value = attribute.integer(3)
        case 5:
            value = _tensor(attribute.message(5), most_elements=SMALL_ATTRIBUTE_ELEMENTS)
        case 7:
            value = tuple(attribute.floats(7))
        case 8:
            value = tuple(attribute.integers(8))
        case 4 | 9 if all(end - start <= _LONGEST_ATTRIBUTE_TEXT for start, end in attribute.spans(field)):
            texts = tuple(_text_or_bytes(data) for data in attribute.data(field))
            value = texts if field == 9 else (texts or ("",))[-1]
    return value


def _text_or_bytes(data: bytes) -> str | bytes:
    """Text, where it is text: the field's type is bytes, and some providers put a compiled network there."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _value(value: Message) -> ValueOutline:
    name, kind = value.text(1), value.message(2)
    if not kind.has(1):
        word = next((word for field, word in _OTHER_TYPES.items() if kind.has(field)), "undefined")
        holds_maps = word == "sequence" and kind.message(4).message(1).has(5)
        return ValueOutline(name, "sequence of maps" if holds_maps else word, None)
    tensor = kind.message(1)
    shape = tuple(_dimension(dim) for dim in tensor.message(2).messages(1)) if tensor.has(2) else None
    return ValueOutline(name, _element_type(tensor.integer(1)).name, shape)


def _dimension(dimension: Message) -> int | str | None:
    """A number, a name, or None: for unknown, some exporters write -1 or an empty name."""
    size = dimension.integer(1) if dimension.has(1) else -1
    return size if size >= 0 else dimension.text(2) or None


def _element_type(number: int) -> _ElementType:
    return _ELEMENT_TYPES.get(number) or _ElementType(f"type {number}")


def _sparse_tensor(sparse: Message) -> TensorOutline:
    # The values carry the name and the type.
    return replace(_tensor(sparse.message(1)), shape=_shape(sparse.integers(3)), values=None)


def _shape(dims: list[int]) -> tuple[int, ...]:
    # More dimensions than NumPy has would only make large products.
    if len(dims) > _MOST_DIMENSIONS or any(dim < 0 for dim in dims):
        raise DamagedMessageError(f"a tensor of {len(dims)} dimensions {tuple(dims[:8])}")
    return tuple(dims)


def _tensor(tensor: Message, *, most_elements: int = SMALL_INITIALIZER_BYTES) -> TensorOutline:
    name, kind, shape = tensor.text(8), _element_type(tensor.integer(2)), _shape(tensor.integers(1))
    if tensor.integer(14) == _EXTERNAL:
        entries = {entry.text(1): entry.text(2) for entry in tensor.messages(13)}
        # Text, which may be any; a length that is left out is that of the rest of the file.
        offset, length = (
            int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
            for text in (entries.get("offset", ""), entries.get("length", ""))
        )
        return TensorOutline(
            name, kind.name, shape, external=True, location=entries.get("location", ""), end=offset + length
        )
    elements = math.prod(shape)
    raw_bytes = sum(end - start for start, end in tensor.spans(_RAW_DATA)[-1:])
    if kind.bits and tensor.has(_RAW_DATA) and raw_bytes != (elements * kind.bits + 7) // 8:
        raise DamagedMessageError(f"{raw_bytes} bytes of data in tensor {name[:100]!r}, {kind.name} of shape {shape}")
    # Of a tensor without elements, the others may still be too large for an array.
    size_bytes = math.prod(filter(None, shape)) * max(kind.bits, 8) // 8
    if not kind.numpy or elements > most_elements or size_bytes > SMALL_INITIALIZER_BYTES:
        return TensorOutline(name, kind.name, shape)
    values = _small_array(tensor, kind)
    if values is None:
        return TensorOutline(name, kind.name, shape)
    if values.size != elements:
        raise DamagedMessageError(f"{values.size} elements in tensor {name[:100]!r}, {kind.name} of shape {shape}")
    values = values.reshape(shape)
    values.flags.writeable = False
    return TensorOutline(name, kind.name, shape, values=values)


def _small_array(tensor: Message, kind: _ElementType) -> AnyArray | None:
    """The elements of a tensor, one after the other; None for texts that are too long."""
    if kind.field == _STRING_DATA:
        if sum(end - start for start, end in tensor.spans(_STRING_DATA)) > SMALL_INITIALIZER_BYTES:
            return None
        texts = [_text_or_bytes(data) for data in tensor.data(_STRING_DATA)]
        return np.array(texts, dtype=object)
    dtype = np.dtype(kind.numpy)
    native = dtype.newbyteorder("=")
    if tensor.has(_RAW_DATA):
        data = tensor.data(_RAW_DATA)[-1]
        # A byte other than 0 and 1 makes a bool that is neither.
        return np.frombuffer(data, np.uint8) != 0 if kind.name == "bool" else np.frombuffer(data, dtype).astype(native)
    if kind.field == _FLOAT_DATA:
        return _pairs_joined(np.array(tensor.floats(_FLOAT_DATA), np.float32), native)
    if kind.field == _DOUBLE_DATA:
        return _pairs_joined(np.array(tensor.doubles(_DOUBLE_DATA), np.float64), native)
    integers = np.array(tensor.integers(kind.field), np.int64)
    # Half precision lies there as the 16 bits of each number.
    return integers.astype(np.uint16).view(native) if kind.name == "float16" else integers.astype(native)


def _pairs_joined(numbers: AnyArray, native: np.dtype[Any]) -> AnyArray:
    """Real numbers as they are; complex ones from their two parts."""
    if numbers.size * numbers.itemsize % native.itemsize:
        raise DamagedMessageError(f"{numbers.size} parts of complex numbers")
    return numbers.view(native)
