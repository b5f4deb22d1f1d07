"""The output of a foreign model: which one has the classes, how many there are, and the numbers that its codes stand for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from edgeclf.runtime.arrays import AnyArray, FloatArray
from edgeclf.runtime.errors import ModelFileError, UsageError
from edgeclf.runtime.session.foreign.findings import ASSUMED, GIVEN, IN_GRAPH
from edgeclf.runtime.session.foreign.image_input import TensorFacts, shape_text
from edgeclf.runtime.session.graph_outline import GraphOutline, NodeOutline

_FLOATS = frozenset(("float32", "float16", "float64", "bfloat16"))
_CODES = frozenset(("uint8", "int8", "uint16", "int16"))
_MAPS = frozenset(("sequence of maps", "map"))
_NO_TENSORS = _MAPS | {"sequence", "optional", "sparse", "opaque"}
_INTEGERS = _CODES | {"int32", "uint32", "int64", "uint64"}
# Where each operator that gives codes has their scale; the zero point comes behind it.
_SCALE_POSITIONS = {
    "QuantizeLinear": 1,
    "QLinearSoftmax": 3,
    "QLinearSigmoid": 3,
    "QLinearGlobalAveragePool": 3,
    "QLinearMatMul": 6,
    "QLinearConv": 6,
    "QLinearAdd": 6,
    "QGemm": 7,
}
# Operators that choose among the classes: what they give is no value for each class.
_CHOOSING = frozenset(("ArgMax", "ArgMin", "TopK", "NonMaxSuppression"))
_KEEPING_CODES = frozenset(("Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose"))
# TensorProto's numbers of the element types in which every code has its place: floats, and integers of more than 8 bits.
_WIDE_TYPES = frozenset((1, 10, 11, 16, 5, 6, 7))
_MOST_STEPS = 64


class OutputCodes(NamedTuple):
    """The codes of a quantized output: each stands for `scale * (code - zero_point)`.

    Attributes:
        scale: What a step of one stands for.
        zero_point: The code of 0.
    """

    scale: float
    zero_point: int


def codes_in_graph(outline: GraphOutline, output: str) -> OutputCodes | None:
    """How the codes of an output are to be read, by the operator that gave them; None of an output that is none, or unsaid.

    Args:
        outline: The graph.
        output: Name of the output.
    """
    name = output
    for _ in range(_MOST_STEPS):
        node = outline.producer_of(name)
        if node is None or not node.inputs:
            return None
        if node.op_type in _SCALE_POSITIONS:
            return _codes_of(outline, node)
        keeps = node.op_type in _KEEPING_CODES or (node.op_type == "Cast" and node.attributes.get("to") in _WIDE_TYPES)
        if not keeps:
            return None
        name = node.inputs[0]
    return None


def _codes_of(outline: GraphOutline, node: NodeOutline) -> OutputCodes | None:
    position = _SCALE_POSITIONS[node.op_type]
    scale_name, zero_name = (*node.inputs[position : position + 2], "", "")[:2]
    scale, zero_point = _number_of(outline, scale_name), 0.0 if not zero_name else _number_of(outline, zero_name)
    if scale is None or zero_point is None or not (np.isfinite(scale) and scale > 0):
        return None
    return OutputCodes(scale, int(zero_point))


def _number_of(outline: GraphOutline, name: str) -> float | None:
    """A constant of one element; None of anything else, such as a scale for each class."""
    values = outline.constant(name)
    return None if values is None or values.size != 1 or values.dtype.kind not in "fiu" else float(values.reshape(()))


def choice_in_graph(outline: GraphOutline, output: TensorFacts) -> str | None:
    """The operator that chose among the classes for an output, such as `TopK`; None of an output with a value for each class.

    Args:
        outline: The graph.
        output: The output.
    """
    name = output.name
    for _ in range(_MOST_STEPS):
        node = outline.producer_of(name)
        if node is None or not node.inputs:
            return None
        # The largest probability alone; over tiles of an image it would leave one for each class.
        is_largest = node.op_type in {"ReduceMax", "ReduceMin"} and _has_one_value(output.shape)
        if node.op_type in _CHOOSING or is_largest:
            return node.op_type
        if node.op_type not in _KEEPING_CODES and node.op_type != "Cast":
            return None
        name = node.inputs[0]
    return None


def _has_one_value(shape: Sequence[int | str | None] | None) -> bool:
    return shape is not None and (len(shape) == 1 or _classes(shape) == 1)


class ClassOutput(NamedTuple):
    """The output with the classes.

    Attributes:
        name: Its name.
        classes: Number of values an image; None where the graph does not say.
        origin: Why it is this one.
    """

    name: str
    classes: int | None
    origin: str


def find_class_output(
    outputs: Sequence[TensorFacts],
    path: Path,
    *,
    name: str | None,
    labels: int,
    activated: frozenset[str],
    coded: frozenset[str],
    chosen: Mapping[str, str] = MappingProxyType({}),
) -> ClassOutput | None:
    """The output with the classes; None where several could be.

    Args:
        outputs: The model's outputs.
        path: The model's file, for errors.
        name: The one that the user names; None for none.
        labels: Number of labels; 0 where it is not known.
        activated: Names of the outputs that come out of a softmax or sigmoid.
        coded: Names of the outputs that are codes of which the graph says what they stand for.
        chosen: The operator behind each output that is a choice among the classes.

    Raises:
        UsageError: There is no output of the name.
        ModelFileError: None has one row of floating-point numbers an image.
    """
    if name is not None:
        named = [item for item in outputs if item.name == name]
        if not named:
            raise UsageError(f"{path} has no output {name!r}", expected=" or ".join(item.name for item in outputs))
        outputs = named
    fitting = [
        item
        for item in outputs
        if (item.dtype in _FLOATS or (item.dtype in _INTEGERS and item.name in coded)) and _is_row(item.shape)
    ]
    choices = [item for item in fitting if item.name in chosen]
    fitting = [item for item in fitting if item.name not in chosen]
    if not fitting and choices:
        operator = chosen[choices[0].name]
        raise ModelFileError(
            f"{path} is not an image classifier that edgeclf can run",
            got=f"{outputs_text(outputs)}, of which {choices[0].name} comes out of {operator}, a choice among the classes",
            expected="one row of probabilities or logits an image, (N, classes) in floating point",
            hint=f"export it without the {operator} at its end",
        )
    if not fitting:
        raise _no_classifier(outputs, path)
    if len(fitting) > 1 and labels:
        wanted = {labels, 1} if labels == 2 else {labels}
        fitting = [item for item in fitting if _classes(item.shape) in wanted] or fitting
    if len(fitting) > 1:
        fitting = [item for item in fitting if item.name in activated]
    if len(fitting) != 1:
        return None
    origin = (
        GIVEN
        if name is not None
        else IN_GRAPH
        if len(outputs) == 1
        else f"{ASSUMED}: the only one of {len(outputs)} that fits"
    )
    return ClassOutput(fitting[0].name, _classes(fitting[0].shape), origin)


def outputs_text(outputs: Sequence[TensorFacts]) -> str:
    """Outputs with their shapes, for errors."""
    shown = [
        f"{item.name} {item.dtype}" + ("" if item.dtype in _NO_TENSORS else f" {shape_text(item.shape)}")
        for item in outputs[:4]
    ]
    more = f" and {len(outputs) - 4} more" if len(outputs) > 4 else ""
    return f"output{'s' if len(outputs) != 1 else ''} {'; '.join(shown) or 'none'}{more}"


def _is_row(shape: Sequence[int | str | None] | None) -> bool:
    """Whether a shape may be one row of values an image: (N, C), perhaps with further dimensions of 1."""
    if shape is None:
        return True
    # A rank of one is a batch of one, squeezed.
    return len(shape) > 0 and len([side for side in shape[1:] if side != 1]) <= 1


def _classes(shape: Sequence[int | str | None] | None) -> int | None:
    if shape is None or len(shape) < 2:
        return None
    sides = [side for side in shape[1:] if side != 1]
    count = sides[0] if sides else 1
    return count if isinstance(count, int) and count > 0 else None


def _no_classifier(outputs: Sequence[TensorFacts], path: Path) -> ModelFileError:
    what = f"{path} is not an image classifier that edgeclf can run"
    expected = "one row of probabilities or logits an image, (N, classes) in floating point"
    if any(item.dtype in _MAPS for item in outputs):
        return ModelFileError(
            what,
            got=f"{outputs_text(outputs)} from classes to probabilities, in no order, as scikit-learn's ZipMap gives them",
            expected=expected,
            hint='export it without ZipMap: options={"zipmap": False} of skl2onnx, zipmap=False of onnxmltools',
        )
    if outputs and all(item.dtype in {"int64", "int32", "string"} for item in outputs):
        return ModelFileError(
            what,
            got=f"{outputs_text(outputs)}: the class alone",
            expected=expected,
            hint="export it without the ArgMax at its end",
        )
    if outputs and all(item.dtype in _CODES and _is_row(item.shape) for item in outputs):
        return ModelFileError(
            what,
            got=f"{outputs_text(outputs)}, codes of which the graph does not say what they stand for",
            expected=f"{expected}, or codes out of a QuantizeLinear with one scale and zero point",
            hint="export it with a DequantizeLinear at its end (from TensorFlow Lite: inference_output_type=tf.float32)",
        )
    return ModelFileError(
        what,
        got=outputs_text(outputs),
        expected=expected,
        hint="detectors, segmenters and feature extractors are none: export the classifier alone",
    )


def rows_of(output: AnyArray, count: int, codes: OutputCodes | None = None) -> FloatArray | None:
    """An output as (N, C) float32; None where it is not one row an image.

    Args:
        output: What the model gave.
        count: Number of images, N.
        codes: How its codes are to be read; None of one that gives the numbers themselves.
    """
    scores = np.asarray(output, np.float32)
    if codes is not None:
        scores = (scores - np.float32(codes.zero_point)) * np.float32(codes.scale)
    if scores.ndim < 2:
        # A batch of one, squeezed; or one value an image, squeezed.
        return scores.reshape(count, -1) if count == 1 or scores.shape == (count,) else None
    if scores.shape[0] != count or sum(side != 1 for side in scores.shape[1:]) > 1:
        return None
    return scores.reshape(count, -1)
