"""Cross-layer equalization (CLE): rescales channels of very different magnitude; the float network computes the same.

A tensor has one scale in 8 bits; a channel a hundred times smaller than the largest is left with two or three of the 256
steps. Where layers reach others through nothing but sums and positively homogeneous operations (ReLU, pooling), channel c
of all values between can be divided by s_c in the weights of the layers that write it and multiplied by s_c in those that
read it (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", there for a chain of
two layers; balanced between measured activations and weights as in Xiao et al. 2023, "SmoothQuant").
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, attributes_of
from edgeclf.export.graph.layers import Layer, read_layer
from edgeclf.runtime.arrays import AnyArray, Float64Array, FloatArray

# f(s x) = s f(x) for every positive s, channel by channel.
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
# Where there is one number a channel, these leave the channels as the columns of a matrix.
_FLATTENING = frozenset({"Flatten", "Squeeze"})
# Factors beyond are no difference of size any more, but dead channels.
_LARGEST_FACTOR = 1e4
# Channels whose factor is less are left alone: what they gain, their readers' weights lose (benchmarks/README.md, Choices
# that were measured).
_SMALLEST_FACTOR = 4.0


@dataclass(frozen=True, eq=False)
class Stream:
    """Values whose channels share their equalization factors, between the layers that write and read them.

    Attributes:
        channels: How many there are.
        writers: The convolutions that give them.
        readers: The layers that read them.
        measured: Those of the values that exist in 8 bits: all but those ahead of a ReLU that is carried out with a layer.
    """

    channels: int
    writers: tuple[onnx.NodeProto, ...]
    readers: tuple[onnx.NodeProto, ...]
    measured: tuple[str, ...]


def find_streams(graph: FloatGraph) -> list[Stream]:
    """The streams of a network, in the order of their first writers."""
    linked = _Linked()
    for node in graph.nodes:
        if _scales_through(graph, node):
            for value in (*_values_read(graph, node), node.output[0]):
                linked.join(value, node.output[0])
    members: defaultdict[str, list[str]] = defaultdict(list)
    for node in graph.nodes:
        for value in node.output:
            members[linked.root(value)].append(value)
    inputs = {linked.root(graph.input)}
    shared = _shared_constants(graph)
    return [
        stream
        for root, values in members.items()
        if root not in inputs and (stream := _as_stream(graph, values, shared)) is not None
    ]


def equalize(
    model: onnx.ModelProto, graph: FloatGraph, peaks: Mapping[str, Float64Array]
) -> tuple[onnx.ModelProto, int]:
    """Equalizes the channels of a model.

    Args:
        model: The float model.
        graph: The same, read.
        peaks: (C,) largest magnitude of each channel on calibration images, of each value that a stream's `measured` names.

    Returns:
        The new model, and how many streams had channels uneven enough to be changed.
    """
    changed: dict[str, AnyArray] = {}
    count = 0

    def constant(name: str) -> AnyArray:
        return changed[name] if name in changed else graph.constants[name]

    for stream in find_streams(graph):
        columns = [_column_peaks(graph, reader, constant(reader.input[1])) for reader in stream.readers]
        factors = _factors(np.max([peaks[value] for value in stream.measured], axis=0), columns)
        if (factors == 1.0).all():
            continue
        count += 1
        for writer in stream.writers:
            weight = constant(writer.input[1])
            changed[writer.input[1]] = (weight / factors[:, None, None, None]).astype(np.float32)
            if len(writer.input) > 2 and writer.input[2]:
                bias = np.broadcast_to(constant(writer.input[2]).reshape(-1), factors.shape)
                changed[writer.input[2]] = (bias / factors).astype(np.float32)
        for reader in stream.readers:
            changed[reader.input[1]] = _scale_columns(graph, reader, constant(reader.input[1]), factors)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed[tensor.name], tensor.name))
    return result, count


class _Linked:
    """A disjoint-set forest of values that are scaled as one."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def root(self, value: str) -> str:
        while (parent := self._parents.get(value, value)) != value:
            value = parent
        return value

    def join(self, one: str, other: str) -> None:
        self._parents[self.root(one)] = self.root(other)


def _scales_through(graph: FloatGraph, node: onnx.NodeProto) -> bool:
    """Whether a node's output is scaled, channel by channel, by what all of its inputs are scaled by."""
    if node.op_type in _HOMOGENEOUS:
        return True
    if node.op_type in {"Add", "Sum"}:
        return all(value not in graph.constants for value in node.input)
    if node.op_type in _FLATTENING:
        producer = graph.producers.get(node.input[0])
        plain = attributes_of(node).get("axis", 1) == 1
        return plain and producer is not None and producer.op_type == "GlobalAveragePool"
    return False


def _values_read(graph: FloatGraph, node: onnx.NodeProto) -> list[str]:
    return [value for value in node.input if value and value not in graph.constants]


def _as_stream(graph: FloatGraph, values: list[str], shared: set[str]) -> Stream | None:
    """Linked values as a stream; None where anything but layers with weights of their own writes or reads one of them."""
    writers, readers, measured = [], [], []
    for value in values:
        if value == graph.output:
            return None
        producer = graph.producers[value]
        if not _scales_through(graph, producer):
            layer = read_layer(graph, producer)
            if layer is None or layer.kind != "Conv" or not _own(producer, shared):
                return None
            writers.append(producer)
        for reader in graph.readers.get(value, []):
            if not _scales_through(graph, reader):
                if not _can_take(graph, reader, value, shared):
                    return None
                readers.append(reader)
        following = graph.only_reader(value)
        if following is None or following.op_type != "Relu":
            measured.append(value)
    channels = {_layer(graph, writer).outputs for writer in writers}
    # A sum that stretches one channel over many links values of different width.
    channels |= {_layer(graph, reader).input_channels for reader in readers}
    if not (writers and readers) or len(channels) != 1:
        return None
    return Stream(channels.pop(), tuple(writers), tuple(readers), tuple(measured))


def _factors(peaks: Float64Array, columns: list[Float64Array | None]) -> Float64Array:
    """(C,) divisors of the channels: the geometric mean of those that equalize activations and those that equalize weights."""
    alive = peaks > peaks.max() / _LARGEST_FACTOR
    if not alive.any():
        return np.ones(len(peaks))
    activations = np.where(alive, peaks, 1.0)
    asked = [column for column in columns if column is not None]
    if asked:
        weights = np.max(asked, axis=0)
        alive &= weights > 0
        factors = np.sqrt(activations / np.where(weights > 0, weights, 1.0))
    else:
        # Depthwise layers alone: each of their channels has a scale of its own, so that nothing is lost by it.
        factors = activations
    if not alive.any():
        return np.ones(len(peaks))
    # The median, so that one channel far from the others does not make these look uneven.
    factors = (factors / np.median(factors[alive])).clip(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    uneven = (factors > _SMALLEST_FACTOR) | (factors < 1 / _SMALLEST_FACTOR)
    return np.where(alive & uneven, factors, 1.0)


def _column_peaks(graph: FloatGraph, node: onnx.NodeProto, weight: AnyArray) -> Float64Array | None:
    """(C,) largest weight that each input channel meets; None for a depthwise layer."""
    layer = _layer(graph, node)
    if layer.depthwise:
        return None
    if layer.kind == "Conv":
        return np.asarray(np.abs(weight).max(axis=(0, 2, 3)), np.float64)
    return np.asarray(np.abs(weight).max(axis=0 if layer.transposed else 1), np.float64)


def _scale_columns(
    graph: FloatGraph,
    node: onnx.NodeProto,
    weight: AnyArray,
    factors: Float64Array,
) -> FloatArray:
    layer = _layer(graph, node)
    if layer.depthwise:
        scaled = weight * factors[:, None, None, None]
    elif layer.kind == "Conv":
        scaled = weight * factors[None, :, None, None]
    else:
        scaled = weight * (factors if layer.transposed else factors[:, None])
    return np.asarray(scaled, np.float32)


def _layer(graph: FloatGraph, node: onnx.NodeProto) -> Layer:
    layer = read_layer(graph, node)
    if layer is None:
        raise ValueError(f"{node.name} has no weights")
    return layer


def _can_take(graph: FloatGraph, node: onnx.NodeProto, value: str, shared: set[str]) -> bool:
    layer = read_layer(graph, node)
    if layer is None or node.input[0] != value or not _own(node, shared):
        return False
    if layer.kind == "Conv":
        # Groups that are not depthwise would need factors per group.
        return layer.groups == 1 or layer.depthwise
    # Columns of a dense layer are channels where each has become one number, and nowhere else.
    return graph.producers[value].op_type in _FLATTENING


def _own(node: onnx.NodeProto, shared: set[str]) -> bool:
    return not any(name in shared for name in node.input[1:])


def _shared_constants(graph: FloatGraph) -> set[str]:
    return {name for name in graph.constants if len(graph.readers.get(name, [])) > 1}
