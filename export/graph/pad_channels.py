"""Channel padding: depthwise int8 layers get channels of zeros up to a multiple of 16, the step of their kernels.

ONNX Runtime's 8-bit depthwise kernels take 16 channels at once and the rest in another, slower way: 88 channels take half as
long again as 96 (benchmarks/README.md, Operators of int8 files). What is added are zero weights and zero biases, and zero
weights where the channels are read, so that the network's answers stay the same bit for bit wherever its sums are exact.
"""

from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import GraphEditor, is_standard
from edgeclf.export.graph.float_graph import FloatGraph, attributes_of, infer_value_types, read_graph
from edgeclf.runtime.arrays import AnyArray

CHANNEL_STEP = 16
# Operators that treat each channel by itself, and give finite values for the channels of zeros.
_CHANNELWISE_OPS = (
    *("QuantizeLinear", "DequantizeLinear", "Identity", "Round"),
    *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf"),
    *("Add", "Sub", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool"),
)


@dataclass(frozen=True, eq=False)
class _Stream:
    """Values of the same channels, and the nodes that give or read them.

    Attributes:
        values: Names of the values, (N, C, H, W) each.
        nodes: The nodes in the order in which they were met, each once.
        channels: C.
    """

    values: frozenset[str]
    nodes: tuple[onnx.NodeProto, ...]
    channels: int


def pad_depthwise_channels(model: onnx.ModelProto) -> int:
    """Pads the channels of depthwise int8 layers, and of all that stands between these and the next plain convolutions.

    Left alone is a layer whose channels reach anything but convolutions and operators that treat each channel by itself, such
    as a Concat or a dense layer.

    Args:
        model: A QDQ model, changed in place.

    Returns:
        How many depthwise layers were padded.
    """
    finder = _StreamFinder(read_graph(model))
    streams = finder.find()
    if not streams:
        return 0
    padded = sum(finder.is_depthwise(node) for stream in streams for node in stream.nodes)
    editor = _ChannelEditor(model)
    for stream in streams:
        editor.pad(stream)
    del model.graph.value_info[:]
    editor.prune()
    return padded


class _StreamFinder:
    """Finds the streams that need channels and can be given them."""

    def __init__(self, graph: FloatGraph) -> None:
        self._graph = graph
        self._kinds = infer_value_types(graph.model)

    def find(self) -> list[_Stream]:
        found: list[_Stream] = []
        for node in self._graph.nodes:
            known = any(node.output[0] in stream.values for stream in found)
            if known or not self.is_depthwise(node) or not self._is_int8(node):
                continue
            if self._channels(node.output[0]) % CHANNEL_STEP and (stream := self._stream(node.output[0])) is not None:
                found.append(stream)
        return found

    def is_depthwise(self, node: onnx.NodeProto) -> bool:
        weight = self._weight(node)
        return weight is not None and 1 < attributes_of(node).get("group", 1) == len(weight) and weight.shape[1] == 1

    def _stream(self, first: str) -> _Stream | None:
        """The stream of a value; None where channels cannot be added to it."""
        channels = self._channels(first)
        values: set[str] = set()
        nodes: dict[int, onnx.NodeProto] = {}
        waiting = [first]
        while waiting:
            value = waiting.pop()
            if value in values:
                continue
            values.add(value)
            producer = self._graph.producers.get(value)
            if producer is None or value == self._graph.output:
                return None
            for node in (producer, *self._graph.readers.get(value, [])):
                beside = self._beside(node, value, channels)
                if beside is None:
                    return None
                nodes[id(node)] = node
                waiting.extend(beside)
        return _Stream(frozenset(values), tuple(nodes.values()), channels)

    def _beside(self, node: onnx.NodeProto, value: str, channels: int) -> list[str] | None:
        """The other values of a node that have the same channels; None where the node does not let channels be added."""
        if is_standard(node, "Conv"):
            is_plain = attributes_of(node).get("group", 1) == 1
            if self._weight(node) is None or value in node.input[1:] or not (is_plain or self.is_depthwise(node)):
                return None
            return [] if is_plain else [node.input[0], node.output[0]]
        if not is_standard(node, *_CHANNELWISE_OPS) or len(node.output) != 1:
            return None
        beside: list[str] = []
        for name in filter(None, (*node.input, *node.output)):
            constant = _constant_of(self._graph, name)
            if constant is not None:
                if not _fits(node, constant, channels) or not self._has_one_reader(name):
                    return None
            elif self._channels(name) == channels:
                beside.append(name)
            elif self._channels(name) != 1:
                return None
        return beside

    def _weight(self, node: onnx.NodeProto) -> AnyArray | None:
        """(O, I, H, W) constant weights of a convolution that is their only reader, with a constant bias if any."""
        if not is_standard(node, "Conv"):
            return None
        arrays = [_constant_of(self._graph, name) for name in node.input[1:] if name]
        if any(array is None for array in arrays) or not all(self._has_one_reader(name) for name in node.input[1:]):
            return None
        weight = arrays[0]
        return weight if weight is not None and weight.ndim == 4 else None

    def _has_one_reader(self, name: str) -> bool:
        """Whether a constant that is stored in 8 bits is dequantized for one node alone: the others keep their own."""
        return name in self._graph.constants or not name or len(self._graph.readers[name]) == 1

    def _is_int8(self, node: onnx.NodeProto) -> bool:
        """Whether a layer computes in 8 bits: its weights are stored so, and so are its inputs and outputs."""
        graph = self._graph
        dequantized = [graph.producers.get(name) for name in node.input[:2]]
        following = graph.only_reader(node.output[0])
        return all(item is not None and item.op_type == "DequantizeLinear" for item in dequantized) and (
            following is not None and following.op_type == "QuantizeLinear"
        )

    def _channels(self, value: str) -> int:
        """C of a value (N, C, H, W), 0 of any other."""
        kind = self._kinds.get(value)
        sides = kind.shape.dim if kind is not None and kind.HasField("shape") else []
        return sides[1].dim_value if len(sides) == 4 else 0


class _ChannelEditor:
    """Adds channels to constants: under their own names, and under new ones where other nodes read them too."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._editor = GraphEditor(model)
        # The model's own nodes: those of a stream are changed in place.
        self._producers = self._editor.producers()
        self._readers = self._editor.readers()
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def prune(self) -> None:
        self._editor.prune()

    def pad(self, stream: _Stream) -> None:
        more = -stream.channels % CHANNEL_STEP
        for node in stream.nodes:
            if not is_standard(node, "Conv"):
                for position, name in enumerate(node.input):
                    if name not in stream.values:
                        self._pad_operand(node, position, stream.channels, more)
                continue
            groups = [item for item in node.attribute if item.name == "group"]
            if node.output[0] in stream.values:
                for position in range(1, len(node.input)):
                    self._pad_zeros(node, position, 0, more)
            if groups and groups[0].i > 1:
                groups[0].i += more
            elif node.input[0] in stream.values:
                self._pad_zeros(node, 1, 1, more)

    def _pad_operand(self, node: onnx.NodeProto, position: int, channels: int, more: int) -> None:
        """Repeats the last channel of a constant operand, where it has one value for each channel."""
        holder, place = self._holder(node, position)
        values = self._editor.constants.get(holder.input[place]) if holder.input[place] else None
        axis = None if values is None else _channel_axis(node, values, channels)
        if values is not None and axis is not None:
            self._replace(holder, place, _padded(values, axis, more, mode="edge"))

    def _pad_zeros(self, node: onnx.NodeProto, position: int, axis: int, more: int) -> None:
        """Adds rows or columns of zeros to weights or biases, and scales to those that have one for each row."""
        if not node.input[position]:
            return
        holder, place = self._holder(node, position)
        self._replace(holder, place, _padded(self._editor.constants[holder.input[place]], axis, more))
        if holder is node or axis != 0:
            return
        for further in range(1, len(holder.input)):
            values = self._editor.constants[holder.input[further]]
            if values.ndim == 1:
                self._replace(holder, further, _padded(values, 0, more, mode="edge"))

    def _holder(self, node: onnx.NodeProto, position: int) -> tuple[onnx.NodeProto, int]:
        """The node that reads the stored form of a constant, and its place there: the DequantizeLinear of one in 8 bits."""
        producer = self._producers.get(node.input[position])
        stored = producer is not None and producer.input[0] in self._editor.constants
        return (producer, 0) if producer is not None and stored else (node, position)

    def _replace(self, node: onnx.NodeProto, position: int, values: AnyArray) -> None:
        name = node.input[position]
        if name in self._tensors and len(self._readers[name]) == 1:
            self._tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
            self._editor.constants[name] = values
        else:
            node.input[position] = self._editor.constant(values, f"{name}_padded")


def _padded(values: AnyArray, axis: int, more: int, mode: str = "constant") -> AnyArray:
    widths = [(0, more if place == axis else 0) for place in range(values.ndim)]
    return np.asarray(np.pad(values, widths, mode=mode))  # type: ignore[call-overload]  # one of its literals


def _constant_of(graph: FloatGraph, name: str) -> AnyArray | None:
    """A constant as it is stored, in float or in 8 bits with zero point 0 for weights; None for a computed value."""
    producer = graph.producers.get(name)
    if producer is not None and producer.op_type == "DequantizeLinear":
        name = producer.input[0]
    return graph.constants.get(name)


def _channel_axis(node: onnx.NodeProto, values: AnyArray, channels: int) -> int | None:
    """The axis of a constant operand that has one value for each channel; None where it has none."""
    shape = values.shape
    if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
        return 0 if values.ndim == 1 and shape[0] == channels else None
    return values.ndim - 3 if values.ndim >= 3 and shape[-3] == channels else None


def _fits(node: onnx.NodeProto, constant: AnyArray, channels: int) -> bool:
    """Whether a constant operand has one value for all channels or one for each."""
    if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
        per_channel = attributes_of(node).get("axis", 1) == 1
        return constant.size == 1 or (constant.ndim == 1 and len(constant) == channels and per_channel)
    return constant.ndim < 3 or constant.shape[-3] in {1, channels}
