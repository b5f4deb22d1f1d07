"""The entry of a graph: what a foreign model does to its image before its first convolution; and what it leaves to chance."""

from typing import NamedTuple

import numpy as np

from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.session.foreign.image_input import Layout
from edgeclf.runtime.session.graph_outline import GraphOutline, NodeOutline

_MOST_STEPS = 16
_ARITHMETIC = frozenset(("Mul", "Div", "Sub", "Add"))
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)
# Where each convolution has its weights.
_WEIGHT_POSITIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
# Divisors from which pixels must be 0..255, and means.
_LEAST_BYTE_DIVISOR, _LEAST_BYTE_MEAN = 40.0, 2.0


class GraphEntry(NamedTuple):
    """What the graph shows between its input and its first convolution.

    Attributes:
        layout: Order of the input's axes; None where no convolution is reached.
        scales_bytes: Whether it normalises pixels of 0..255 itself.
        channels: Channels that this convolution takes; None where they are not known.
    """

    layout: Layout | None
    scales_bytes: bool
    channels: int | None = None


def graph_entry(outline: GraphOutline) -> GraphEntry:
    """What a graph does to its image before its first convolution, as far as it can be seen.

    Args:
        outline: The graph.
    """
    inputs = outline.real_inputs
    value = inputs[0].name if len(inputs) == 1 else ""
    layout: Layout = "NCHW"
    scales_bytes, is_first = False, True
    for _ in range(_MOST_STEPS):
        readers = outline.readers_of(value)
        if len(readers) != 1 or not readers[0].outputs:
            break
        node = readers[0]
        if node.op_type in _WEIGHT_POSITIONS:
            return GraphEntry(layout, scales_bytes, _channels_of(outline, node))
        perm = node.attributes.get("perm") if node.op_type == "Transpose" else None
        if perm == (0, 3, 1, 2):
            layout = "NHWC"
        elif perm == (0, 2, 3, 1) and layout == "NHWC":
            # Resized as NCHW, and back.
            pass
        elif node.op_type in _ARITHMETIC:
            numbers = _constant_operand(outline, node, value)
            if numbers is None:
                break
            scales_bytes |= is_first and _is_for_bytes(node.op_type, numbers)
            is_first = False
        elif node.op_type not in {"Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Pad", "Resize"}:
            break
        value = node.outputs[0]
    return GraphEntry(None, scales_bytes)


def chance_in_graph(outline: GraphOutline) -> str | None:
    """The first operator that draws random numbers, such as a `Dropout` in training mode; None of a graph without one.

    Args:
        outline: The graph.
    """
    for node in outline.nodes:
        if node.op_type in _RANDOM:
            return node.op_type
        mode = outline.constant(node.inputs[2]) if node.op_type == "Dropout" and len(node.inputs) > 2 else None
        ratio = outline.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if mode is not None and mode.any() and (ratio is None or ratio.any()):
            return node.op_type
    return None


def _channels_of(outline: GraphOutline, convolution: NodeOutline) -> int | None:
    """Channels that a convolution takes, by the shape of its weights, which may be codes of 8 bits."""
    position, group = _WEIGHT_POSITIONS[convolution.op_type], convolution.attributes.get("group", 1)
    name = convolution.inputs[position] if len(convolution.inputs) > position else ""
    for _ in range(_MOST_STEPS):
        tensor = outline.initializers.get(name)
        if tensor is not None:
            return tensor.shape[1] * group if len(tensor.shape) == 4 and isinstance(group, int) else None
        node = outline.producer_of(name)
        if (
            node is None
            or node.op_type not in {"Identity", "Cast", "DequantizeLinear", "QuantizeLinear"}
            or not node.inputs
        ):
            return None
        name = node.inputs[0]
    return None


def _constant_operand(outline: GraphOutline, node: NodeOutline, value: str) -> AnyArray | None:
    """The constant of an arithmetic operator with one other operand; None where it has none that is small."""
    others = [name for name in node.inputs if name != value]
    if len(others) != 1:
        return None
    values = outline.constant(others[0])
    return values if values is not None and values.size and values.dtype.kind in "fiu" else None


def _is_for_bytes(operator: str, numbers: AnyArray) -> bool:
    sizes = np.abs(numbers.astype(np.float64))
    if operator == "Div":
        return bool((sizes >= _LEAST_BYTE_DIVISOR).all())
    if operator == "Mul":
        return bool(((sizes > 0) & (sizes <= 1 / _LEAST_BYTE_DIVISOR)).all())
    # A mean of pixels 0..1 is below 1.
    return bool((sizes >= _LEAST_BYTE_MEAN).all())
