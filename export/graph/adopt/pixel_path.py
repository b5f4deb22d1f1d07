"""The pixel path: the nodes between a graph's input and its first layer that only convert, scale, shift, reorder and transpose."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import GraphEditor, is_standard
from edgeclf.export.graph.float_graph import attributes_of
from edgeclf.runtime.arrays import AnyArray, Float64Array, IntArray
from edgeclf.runtime.session.foreign.image_input import Layout

_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
Affine: TypeAlias = tuple[Float64Array | float, Float64Array | float]


@dataclass(frozen=True, eq=False)
class PixelPath:
    """A value that is `gain * input + offset` in each channel, and the nodes that give it.

    Attributes:
        value: Its name.
        axes: Order of its axes, such as `NCHW`.
        is_float: Whether it is float32.
        channels: (C,) for each of its channels, the channel of the input that it comes from.
        gain: (C,) factor of each of its channels.
        offset: (C,) added after that.
        nodes: Names of the values that its nodes give, in order; nothing else reads them.
    """

    value: str
    axes: str
    is_float: bool
    channels: IntArray
    gain: Float64Array
    offset: Float64Array
    nodes: tuple[str, ...] = ()


def follow_pixels(editor: GraphEditor, channels: int, layout: Layout) -> PixelPath:
    """Follows the pixels from the input of a graph as far as nothing else is done to them.

    Args:
        editor: The graph; its first input takes the pixels.
        channels: How many channels it has.
        layout: Order of its axes.
    """
    value = editor.graph.input[0]
    is_float = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    path = PixelPath(value.name, layout, is_float, np.arange(channels), np.ones(channels), np.zeros(channels))
    readers, outputs = editor.readers(), editor.outputs()
    while len(readers.get(path.value, ())) == 1 and path.value not in outputs:
        (node,) = readers[path.value]
        further = _step(editor, path, node)
        if further is None:
            break
        path = replace(further, value=node.output[0], nodes=(*path.nodes, node.output[0]))
    return path


def _step(editor: GraphEditor, path: PixelPath, node: onnx.NodeProto) -> PixelPath | None:
    """The path behind a node; None where the node does anything else."""
    further: PixelPath | None = None
    if is_standard(node, "Identity"):
        further = path
    elif is_standard(node, "Cast"):
        further = replace(path, is_float=True) if attributes_of(node)["to"] == onnx.TensorProto.FLOAT else None
    elif is_standard(node, "Transpose"):
        axes = "".join(path.axes[axis] for axis in attributes_of(node).get("perm", (3, 2, 1, 0)))
        further = replace(path, axes=axes) if axes[0] == "N" else None
    elif is_standard(node, "Gather", "Slice"):
        further = _reordered(path, _order_of(editor, path, node))
    elif path.is_float:
        further = _scaled(path, _affine(editor, path, node))
    return further


def _scaled(path: PixelPath, affine: Affine | None) -> PixelPath | None:
    if affine is None:
        return None
    gain, offset = affine
    return replace(path, gain=path.gain * gain, offset=path.offset * gain + offset)


def _affine(editor: GraphEditor, path: PixelPath, node: onnx.NodeProto) -> Affine | None:
    """Factor and summand of a node that has no more than these; None for any other."""
    if is_standard(node, *_ARITHMETIC):
        return _arithmetic(editor, path, node)
    if is_standard(node, "BatchNormalization") and path.axes[1] == "C" and len(node.output) == 1:
        return _batch_normalization(editor, node)
    return None


def _reordered(path: PixelPath, order: IntArray | None) -> PixelPath | None:
    if order is None:
        return None
    return replace(path, channels=path.channels[order], gain=path.gain[order], offset=path.offset[order])


def _order_of(editor: GraphEditor, path: PixelPath, node: onnx.NodeProto) -> IntArray | None:
    """The order in which a node takes the channels; None where it does anything else."""
    operands = [editor.constants.get(name) for name in node.input[1:] if name]
    if node.input[0] != path.value or not operands or any(values is None or values.ndim != 1 for values in operands):
        return None
    count = len(path.channels)
    integers = [np.asarray(values, np.int64) for values in operands]
    if node.op_type == "Gather":
        axis, order = int(attributes_of(node).get("axis", 0)), integers[0] % count
    else:
        if len(integers) != 4 or any(len(values) != 1 for values in integers):
            return None
        starts, ends, axes, steps = (int(values[0]) for values in integers)
        if steps == 0:
            return None
        axis = axes
        # ONNX's bounds are those of Python, where those beyond the end are cut.
        stop: int | None = ends
        if steps < 0 and ends < -count:
            stop = None
        order = np.arange(count)[starts:stop:steps]
    is_of_channels = path.axes[axis % 4] == "C" and sorted(order.tolist()) == list(range(count))
    return order if is_of_channels else None


def _arithmetic(editor: GraphEditor, path: PixelPath, node: onnx.NodeProto) -> Affine | None:
    """Factor and summand of an operator with one constant operand; None for any other."""
    pixels_first = node.input[0] == path.value
    numbers = _per_channel(editor.constants.get(node.input[1 if pixels_first else 0]), path)
    if numbers is None:
        return None
    kind = node.op_type
    if kind == "Mul":
        return numbers, 0.0
    if kind == "Add":
        return 1.0, numbers
    if kind == "Sub":
        return (1.0, -numbers) if pixels_first else (-1.0, numbers)
    return (1.0 / numbers, 0.0) if pixels_first and numbers.all() else None


def _per_channel(values: AnyArray | None, path: PixelPath) -> Float64Array | None:
    """A constant as one number, or one for each channel; None where it is more than that."""
    if values is None or values.dtype != np.float32 or values.ndim > 4 or not np.isfinite(values).all():
        return None
    sides = (1,) * (4 - values.ndim) + values.shape
    at = path.axes.index("C")
    if sides[at] not in {1, len(path.channels)} or any(side != 1 for axis, side in enumerate(sides) if axis != at):
        return None
    return values.reshape(-1).astype(np.float64)


def _batch_normalization(editor: GraphEditor, node: onnx.NodeProto) -> Affine | None:
    """Factor and summand of a batch normalisation in inference; None for one in training."""
    options = attributes_of(node)
    found = [editor.constants.get(name) for name in node.input[1:5]]
    if options.get("training_mode", 0) or any(values is None for values in found):
        return None
    scale, bias, mean, variance = (np.asarray(values, np.float64) for values in found)
    gain = scale / np.sqrt(variance + float(options.get("epsilon", 1e-5)))
    return gain, bias - mean * gain
