"""A float graph cut into steps: an operator with the activation function that its int8 form absorbs, in order of execution.

Each step turns quantized tensors into one quantized tensor, or is left in float; which tensors exist in 8 bits follows.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.export.graph.float_graph import FloatGraph, scalar_of
from edgeclf.export.graph.pixel_normalisation import Stem
from edgeclf.export.int8.layers import Layer, read_layer

WEIGHTED_OPS = frozenset({"Conv", "Gemm", "MatMul"})
# What lies between layers has int8 kernels as well, so that no layer pays for a conversion to float and back.
_ELEMENTWISE = frozenset({"Add", "Mul", "Concat"})
_OTHER = frozenset({"GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu", "Relu"})
# These give values that were there before, and so keep their scale.
_MOVING = frozenset({"MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, eq=False)
class Step:
    """An operator, with the activation function behind it where its int8 form absorbs that.

    Attributes:
        nodes: The operator's node, then that of the activation function.
        inputs: The values it reads that are no constants, each once.
        output: The value it gives.
        layer: What it is where it has weights that can be quantized.
        quantized: Whether it reads and gives 8 bits.
        moves: Whether it only moves values, so that its output keeps its input's scale.
        factor: What it multiplies its input by where that is one positive number: the same codes with another scale, so
            that nothing has to be computed. None for anything else.
        float_output: Whether a quantized step's output stays float: logits, of which eight bits are too few.
    """

    nodes: tuple[Any, ...]
    inputs: tuple[str, ...]
    output: str
    layer: Layer | None
    quantized: bool
    moves: bool = False
    factor: float | None = None
    float_output: bool = False

    @property
    def name(self) -> str:
        """Of its operator, or of its output where the operator has none."""
        return str(self.nodes[0].name or self.nodes[0].output[0])

    @property
    def before_activation(self) -> str:
        """The operator's own output, ahead of the activation function."""
        return str(self.nodes[0].output[0])


@dataclass(frozen=True, eq=False)
class StepPlan:
    """All steps of a graph.

    Attributes:
        steps: In order of execution; the stem is not among them.
        stem: The normalisation of the pixels; None where none was recognised.
        in_bytes: The values that exist in 8 bits.
        left_in_float: Names and operators of the layers and arithmetic that have no int8 form here, or were excluded.
    """

    steps: tuple[Step, ...]
    stem: Stem | None
    in_bytes: frozenset[str]
    left_in_float: tuple[tuple[str, str], ...]

    @property
    def layers(self) -> tuple[Step, ...]:
        """The quantized steps with weights."""
        return tuple(step for step in self.steps if step.layer is not None and step.quantized)


def plan_steps(graph: FloatGraph, stem: Stem | None, excluded: Collection[str] = ()) -> StepPlan:
    """Cuts a graph into steps.

    Args:
        graph: The graph.
        stem: Its normalisation.
        excluded: Names of steps that must stay in float.
    """
    stem_nodes = set(stem.nodes) if stem else set()
    absorbed: set[str] = set()
    towards_layer = _values_towards_layers(graph)
    raw: list[Step] = []
    for node in graph.nodes:
        if node.name in stem_nodes or node.output[0] in absorbed:
            continue
        step = _step_of(graph, node, excluded, towards_layer)
        absorbed.update(name for further in step.nodes[1:] for name in further.output)
        raw.append(step)
    steps = _settle(raw, stem)
    in_bytes = {
        name
        for step in steps
        if step.quantized
        for name in (*step.inputs, *(() if step.float_output else (step.output,)))
    }
    if stem is not None and stem.zero_point is not None:
        # The pixels are bytes, whether the first layer works on them or in float.
        in_bytes.add(stem.output)
    left = tuple(
        (step.name, step.nodes[0].op_type)
        for step in raw
        if not step.quantized and (step.output in towards_layer or step.nodes[0].op_type in WEIGHTED_OPS)
    )
    return StepPlan(tuple(steps), stem, frozenset(in_bytes), left)


def _step_of(graph: FloatGraph, node: Any, excluded: Collection[str], towards_layer: Collection[str]) -> Step:  # noqa: ANN401
    layer = read_layer(graph, node)
    inputs = tuple(dict.fromkeys(name for name in node.input if name and name not in graph.constants))
    output = node.output[0]
    kind = node.op_type
    plain = Step((node,), inputs, output, layer, quantized=False)
    if plain.name in excluded or len(node.output) != 1:
        return plain
    if layer is None and (output not in towards_layer or not _has_int8_form(graph, node)):
        return plain
    if layer is not None and layer.kind != "Conv" and output not in towards_layer:
        return Step((node,), inputs, output, layer, quantized=True, float_output=True)
    nodes = [node]
    if layer is not None or kind == "Add":
        following = graph.only_reader(output)
        if following is not None and _cuts_at_zero(graph, following):
            nodes.append(following)
            output = following.output[0]
    return Step(tuple(nodes), inputs, output, layer, quantized=True, moves=kind in _MOVING, factor=_factor(graph, node))


def _factor(graph: FloatGraph, node: Any) -> float | None:  # noqa: ANN401
    """The one positive number that a Mul multiplies a value by, as hard sigmoid does by a sixth; None for anything else."""
    factors = [graph.constants[name] for name in node.input if name in graph.constants]
    if node.op_type != "Mul" or len(node.input) != 2 or len(factors) != 1 or factors[0].size != 1:
        return None
    factor = float(factors[0].reshape(-1)[0])
    # More axes than the value has would be added to it; a value between layers has two at least.
    return factor if factor > 0 and factors[0].ndim <= 1 else None


def _has_int8_form(graph: FloatGraph, node: Any) -> bool:  # noqa: ANN401
    kind = node.op_type
    if kind in _ELEMENTWISE:
        floats = [graph.constants[name] for name in node.input if name in graph.constants]
        return all(value.dtype == np.float32 and np.isfinite(value).all() for value in floats)
    if kind == "Clip":
        return _cuts_at_zero(graph, node)
    return kind in _OTHER or kind in _MOVING


def _cuts_at_zero(graph: FloatGraph, node: Any) -> bool:  # noqa: ANN401
    """Whether a node is a ReLU, or a Clip from 0: what uint8 with zero point 0 does by itself.

    The upper end of a Clip needs nothing either: no range that is measured behind it reaches beyond.
    """
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip":
        return False
    bounds = [name for name in node.input[1:] if name]
    if any(name not in graph.constants for name in bounds):
        return False
    low, high = [*node.input[1:], "", ""][:2]
    return scalar_of(graph, low, -np.inf) == 0.0 and scalar_of(graph, high, np.inf) > 0.0


def _values_towards_layers(graph: FloatGraph) -> set[str]:
    """The values from which a layer with weights can still be reached."""
    towards: set[str] = set()
    for node in reversed(graph.nodes):
        if any(name in towards for name in node.output) or read_layer(graph, node) is not None:
            towards.update(node.input)
    return towards


def _settle(steps: list[Step], stem: Stem | None) -> list[Step]:
    """Leaves those steps in float that would only convert to 8 bits and back: glue behind float, and nothing but it."""
    in_bytes = {stem.output} if stem else set()
    settled = []
    for step in steps:
        quantized = step.quantized and (step.layer is not None or any(name in in_bytes for name in step.inputs))
        if step.moves and step.quantized and step.inputs[0] not in in_bytes:
            quantized = False
        if quantized and not step.float_output:
            in_bytes.add(step.output)
        settled.append(
            step
            if quantized == step.quantized
            else Step(step.nodes, step.inputs, step.output, step.layer, quantized=False)
        )
    return settled
