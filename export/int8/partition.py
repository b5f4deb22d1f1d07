"""The partition of a float graph into quantizable units: an operator with the activation function its int8 form absorbs.

Each unit turns quantized tensors into one quantized tensor, or is left in float; which tensors exist in 8 bits follows.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, attributes_of, infer_value_types, scalar_of
from edgeclf.export.graph.layers import WEIGHTED_OPS, Layer, read_layer
from edgeclf.export.graph.pixel_normalisation import PixelNormalisation

# What lies between layers has int8 kernels as well, so that no layer pays for a conversion to float and back.
_ELEMENTWISE = frozenset({"Add", "Mul", "Concat"})
_OTHER = frozenset({"GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu", "Relu"})
# These give values that were there before, and so keep their scale.
MOVING_OPS = frozenset({"MaxPool", "Transpose", "Reshape", "Flatten", "Slice", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, eq=False)
class QuantUnit:
    """An operator with the activation function that its int8 form absorbs: quantized as one, or left in float.

    Attributes:
        nodes: The operator's node, then that of the activation function.
        inputs: The values it reads that are no constants, each once.
        output: The value it gives.
        layer: What it is where it has weights that can be quantized.
        quantized: Whether it reads and gives 8 bits.
        moves: Whether it only moves values, so that its output keeps its input's scale.
        factor: What it multiplies its input by where that is one positive number: the same codes with another scale, so
            that nothing has to be computed. None for anything else.
        float_output: Whether a quantized unit's output stays float: logits, of which eight bits are too few.
        exact: Whether it is a fixed-point layer, see `fixed_point`.
    """

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    output: str
    layer: Layer | None
    quantized: bool
    moves: bool = False
    factor: float | None = None
    float_output: bool = False
    exact: bool = False

    @property
    def name(self) -> str:
        """Of its operator, or of its output where the operator has none."""
        return str(self.nodes[0].name or self.nodes[0].output[0])

    @property
    def before_activation(self) -> str:
        """The operator's own output, ahead of the activation function."""
        return str(self.nodes[0].output[0])


@dataclass(frozen=True, eq=False)
class Partition:
    """A graph cut into units, and the values that exist in 8 bits.

    Attributes:
        units: In order of execution, without the pixel normalisation.
        pixels: The normalisation of the pixels; None where none was recognised.
        quantized_values: The values that exist in 8 bits.
        fixed_values: The values between fixed-point layers, which exist as integers of more bits.
        left_in_float: Names and operators of the layers and arithmetic that have no int8 form here, or were excluded.
    """

    units: tuple[QuantUnit, ...]
    pixels: PixelNormalisation | None
    quantized_values: frozenset[str]
    fixed_values: frozenset[str]
    left_in_float: tuple[tuple[str, str], ...]

    @property
    def layers(self) -> tuple[QuantUnit, ...]:
        """The quantized units with weights."""
        return tuple(unit for unit in self.units if unit.layer is not None and unit.quantized)


def partition_graph(
    graph: FloatGraph,
    pixels: PixelNormalisation | None,
    excluded: Collection[str] = (),
    *,
    exact: Collection[str] = (),
) -> Partition:
    """Partitions a graph into units.

    Args:
        graph: The graph.
        pixels: Its pixel normalisation; None for none.
        excluded: Names of units that must stay in float.
        exact: Names of convolutions that are computed in fixed point.
    """
    pixel_nodes = set(pixels.nodes) if pixels else set()
    absorbed: set[str] = set()
    # Shapes and indices are computed as they are, whatever the recipe.
    towards_layer = _values_towards_layers(graph) - _values_not_float(graph)
    of_images = _values_of_images(graph)
    raw: list[QuantUnit] = []
    for node in graph.nodes:
        if node.name in pixel_nodes or node.output[0] in absorbed:
            continue
        unit = _unit_of(graph, node, excluded, towards_layer, exact)
        if not of_images.issuperset(unit.inputs):
            # What is computed from constants alone has no image to be told apart by.
            unit = QuantUnit((node,), unit.inputs, node.output[0], None, quantized=False)
        absorbed.update(name for further in unit.nodes[1:] for name in further.output)
        raw.append(unit)
    units = _drop_isolated(raw, pixels)
    fixed_values = _values_between_exact(units, graph.output)
    quantized_values = {
        name
        for unit in units
        if unit.quantized
        for name in (*unit.inputs, *(() if unit.float_output else (unit.output,)))
    }
    quantized_values |= {name for unit in units if unit.exact for name in unit.inputs} - fixed_values
    if pixels is not None and pixels.zero_point is not None:
        # The pixels are bytes, whether the first layer works on them or in float.
        quantized_values.add(pixels.output)
    left = tuple(
        (unit.name, unit.nodes[0].op_type)
        for unit in raw
        if not (unit.quantized or unit.exact)
        and (unit.output in towards_layer or unit.nodes[0].op_type in WEIGHTED_OPS)
    )
    return Partition(tuple(units), pixels, frozenset(quantized_values), frozenset(fixed_values), left)


def _values_between_exact(units: list[QuantUnit], output: str) -> set[str]:
    """Outputs of fixed-point layers that only fixed-point layers read."""
    read_by_others = {name for unit in units if not unit.exact for name in unit.inputs} | {output}
    read = {name for unit in units for name in unit.inputs}
    return {unit.output for unit in units if unit.exact and unit.output in read} - read_by_others


def _unit_of(
    graph: FloatGraph,
    node: onnx.NodeProto,
    excluded: Collection[str],
    towards_layer: Collection[str],
    exact: Collection[str],
) -> QuantUnit:
    layer = read_layer(graph, node)
    inputs = tuple(dict.fromkeys(name for name in node.input if name and name not in graph.constants))
    output = node.output[0]
    kind = node.op_type
    plain = QuantUnit((node,), inputs, output, layer, quantized=False)
    if plain.name in excluded or len(node.output) != 1:
        return plain
    if layer is None and (output not in towards_layer or not inputs or not _has_int8_form(graph, node)):
        return plain
    if layer is not None and layer.kind != "Conv" and output not in towards_layer:
        return QuantUnit((node,), inputs, output, layer, quantized=True, float_output=True)
    nodes = [node]
    if layer is not None or kind == "Add":
        following = graph.only_reader(output)
        if following is not None and cuts_at_zero(graph, following):
            nodes.append(following)
            output = following.output[0]
    if layer is not None and layer.kind == "Conv" and plain.name in exact:
        return QuantUnit(tuple(nodes), inputs, output, layer, quantized=False, exact=True)
    return QuantUnit(
        tuple(nodes), inputs, output, layer, quantized=True, moves=kind in MOVING_OPS, factor=_factor(graph, node)
    )


def _factor(graph: FloatGraph, node: onnx.NodeProto) -> float | None:
    """The one positive number that a Mul multiplies a value by, as hard sigmoid does by a sixth; None for anything else."""
    names = [name for name in node.input if name in graph.constants]
    if node.op_type != "Mul" or len(node.input) != 2 or len(names) != 1:
        return None
    factors = [graph.constants[name] for name in names]
    if factors[0].size != 1:
        return None
    factor = float(factors[0].reshape(-1)[0])
    # More axes than the value has would be added to it; a value between layers has two at least.
    return factor if factor > 0 and factors[0].ndim <= 1 else None


def _has_int8_form(graph: FloatGraph, node: onnx.NodeProto) -> bool:
    kind = node.op_type
    if kind in _ELEMENTWISE:
        floats = [graph.constants[name] for name in node.input if name in graph.constants]
        return all(value.dtype == np.float32 and np.isfinite(value).all() for value in floats)
    if kind == "Clip":
        return cuts_at_zero(graph, node)
    if kind == "Transpose" and list(attributes_of(node).get("perm", [1]))[:1] != [0]:
        # Images are told apart by the first axis.
        return False
    if kind == "Slice" and (len(node.input) < 4 or 0 in graph.constants.get(node.input[3], np.zeros(1))):
        return False
    # A shape that is computed from another value's is no constant.
    return kind in _OTHER or (kind in MOVING_OPS and all(name in graph.constants for name in node.input[1:]))


def cuts_at_zero(graph: FloatGraph, node: onnx.NodeProto) -> bool:
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


def _values_of_images(graph: FloatGraph) -> set[str]:
    """The values that are computed from the graph's input."""
    reached = {graph.input}
    for node in graph.nodes:
        if reached.intersection(node.input):
            reached.update(node.output)
    return reached


def _values_not_float(graph: FloatGraph) -> set[str]:
    """The values that are known not to be float32, such as shapes."""
    return {
        name
        for name, kind in infer_value_types(graph.model).items()
        if kind.elem_type not in {onnx.TensorProto.UNDEFINED, onnx.TensorProto.FLOAT}
    }


def _values_towards_layers(graph: FloatGraph) -> set[str]:
    """The values from which a layer with weights can still be reached."""
    towards: set[str] = set()
    for node in reversed(graph.nodes):
        if any(name in towards for name in node.output) or read_layer(graph, node) is not None:
            towards.update(node.input)
    return towards


def _drop_isolated(units: list[QuantUnit], pixels: PixelNormalisation | None) -> list[QuantUnit]:
    """Leaves units without weights in float where none of their inputs is quantized: they would only convert to and fro."""
    quantized_values = {pixels.output} if pixels else set()
    kept = []
    for unit in units:
        quantized = unit.quantized and (unit.layer is not None or any(name in quantized_values for name in unit.inputs))
        if unit.moves and unit.quantized and unit.inputs[0] not in quantized_values:
            quantized = False
        if (quantized or unit.exact) and not unit.float_output:
            quantized_values.add(unit.output)
        kept.append(
            unit
            if quantized == unit.quantized
            else QuantUnit(unit.nodes, unit.inputs, unit.output, unit.layer, quantized=False)
        )
    return kept
