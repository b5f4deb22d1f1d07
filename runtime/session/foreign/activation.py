"""Activations: what a foreign model's output has been through, read from the graph or measured; and what is left to do."""

from typing import Literal

import numpy as np

from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array
from edgeclf.runtime.session.foreign.given import Activation
from edgeclf.runtime.session.graph_outline import GraphOutline, NodeOutline

_ENDS: dict[str, Literal["softmax", "sigmoid"]] = {
    "Softmax": "softmax",
    "QLinearSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
}
# Operators that leave the values as they are, or nearly.
_PASSING = frozenset(
    (
        "Identity",
        "Cast",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Flatten",
        "QuantizeLinear",
        "DequantizeLinear",
        "Dropout",
        "Transpose",
    )
)
# Operators that change the values in a way which a softmax in front of them would not survive as one.
_MIXING = frozenset(
    ("Add", "Sub", "Mul", "Div", "GlobalAveragePool", "AveragePool", "ReduceMean", "BatchNormalization")
)
_LINEAR = frozenset(
    (
        "Gemm",
        "MatMul",
        "Conv",
        "MatMulInteger",
        "ConvInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "FusedGemm",
        "FusedMatMul",
        "LogSoftmax",
    )
)
_MOST_STEPS = 64
# A softmax of 8-bit or float16 numbers adds up to 1 within what these round.
_SUM_TOLERANCE = 0.02
_RANGE_TOLERANCE = 1e-3
_PROBES = 8


def activation_in_graph(outline: GraphOutline, output: str) -> Activation | None:
    """What an output has been through, by the operators in front of it; None where they do not say.

    Args:
        outline: The graph.
        output: Name of the output.
    """
    name: str | None = output
    is_mixed = False
    for _ in range(_MOST_STEPS):
        node = None if name is None else outline.producer_of(name)
        if node is None:
            break
        if node.op_type in _LINEAR:
            return "logits"
        end = "softmax" if _is_written_out_softmax(outline, node) else _ENDS.get(node.op_type)
        if end is not None:
            return None if is_mixed else end
        is_mixed |= node.op_type in _MIXING
        name = _before(outline, node)
    return None


def ends_in_tanh(outline: GraphOutline, output: str) -> bool:
    """Whether an output is what a Tanh gave.

    Args:
        outline: The graph.
        output: Name of the output.
    """
    name = output
    for _ in range(_MOST_STEPS):
        node = outline.producer_of(name)
        if node is None or node.op_type not in _PASSING or not node.inputs:
            return node is not None and node.op_type == "Tanh"
        name = node.inputs[0]
    return False


def _before(outline: GraphOutline, node: NodeOutline) -> str | None:
    """The value that an operator passes on or mixes with constants; None of any other operator."""
    if node.op_type in _PASSING:
        # Behind the first operand are shapes and scales, which may be computed too.
        return node.inputs[0] if node.inputs else None
    computed = [value for value in node.inputs if value and _is_computed(outline, value)]
    # Of several that are computed, the graph says nothing plain.
    return computed[0] if node.op_type in _MIXING and len(computed) == 1 else None


def _is_computed(outline: GraphOutline, value: str) -> bool:
    """Whether a value depends on the input, as far as it can be seen: constants and weights, also cast ones, do not."""
    for _ in range(_MOST_STEPS):
        node = outline.producer_of(value)
        if node is None:
            return value not in outline.initializers
        if node.op_type == "Constant":
            return False
        if node.op_type not in _PASSING or not node.inputs:
            return True
        value = node.inputs[0]
    return True


def _is_written_out_softmax(outline: GraphOutline, node: NodeOutline) -> bool:
    """Whether a division is that of exponentials by their sum."""
    parts = [outline.producer_of(value) for value in node.inputs] if node.op_type == "Div" else []
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        return False
    return parts[0].op_type == "Exp" and parts[1].op_type == "ReduceSum" and parts[1].inputs[:1] == node.inputs[:1]


def probe_images(size_hw: tuple[int, int]) -> UInt8Array:
    """(8, H, W, 3) uint8: images of which a classifier cannot be equally sure, the same every time."""
    rng = np.random.default_rng(0)
    height, width = size_hw
    images = rng.integers(0, 256, (_PROBES, height, width, 3), dtype=np.uint8)
    # Half of them are tinted: plain noise looks alike to most networks.
    for number in range(_PROBES // 2, _PROBES):
        images[number] = images[number] // 4 + rng.integers(0, 192, 3, dtype=np.uint8)
    return images


def measured_activation(scores: FloatArray) -> Activation | None:
    """What an output has been through, by its values for several images; None where all of them are NaN.

    Args:
        scores: (N, C) float32.
    """
    scores = scores[np.isfinite(scores).all(axis=1)]
    if not len(scores):
        return None
    if not are_in_unit_range(scores):
        return "logits"
    sums = scores.sum(axis=1)
    is_softmax = scores.shape[1] > 1 and bool((np.abs(sums - 1.0) <= _SUM_TOLERANCE).all())
    return "softmax" if is_softmax else "sigmoid"


def are_in_unit_range(scores: FloatArray) -> bool:
    """Whether all values that are numbers lie in 0..1, within what float16 rounds."""
    finite = scores[np.isfinite(scores)]
    return bool(((finite >= -_RANGE_TOLERANCE) & (finite <= 1 + _RANGE_TOLERANCE)).all())


def probabilities_from(scores: FloatArray, activation: Activation) -> FloatArray:
    """Probabilities of the classes.

    Args:
        scores: (N, C) float32, what the model gave. One value an image is that of the second of two classes.
        activation: What they have been through.

    Returns:
        (N, C) float32, or (N, 2) where C is 1. Those of sigmoids are of each class on its own: rows need not add up to 1.
    """
    if scores.shape[1] == 1:
        positive = scores if activation in {"sigmoid", "softmax"} else _sigmoid(scores)
        return np.concatenate([1 - positive, positive], axis=1)
    if activation == "logits":
        return softmax(scores)
    return _sigmoid(scores) if activation == "sigmoid-logits" else scores


def softmax(logits: AnyArray) -> FloatArray:
    """Softmax along the last axis, shifted by the maximum so that it cannot overflow.

    Args:
        logits: (N, C) float.

    Returns:
        (N, C) float32, rows summing to 1.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def _sigmoid(logits: FloatArray) -> FloatArray:
    # Exponents of both signs overflow in float32 beyond 88.
    halves = np.tanh(logits.astype(np.float64) / 2)
    return np.asarray((1 + halves) / 2, np.float32)
