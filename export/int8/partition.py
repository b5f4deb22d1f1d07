"""The partition of a float graph into quantizable units: an operator with the activation function its int8 form absorbs.

Each unit turns quantized tensors into one quantized tensor, or is left in float; which tensors exist in 8 bits follows.
A unit with weights is a layer: a convolution or dense layer, its weights as rows, its inputs as im2col columns.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, attributes_of, infer_value_types, scalar_of
from edgeclf.export.graph.pixel_normalisation import PixelNormalisation
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.weights import Rows
from edgeclf.runtime.arrays import AnyArray, Float64Array, FloatArray

WEIGHTED_OPS = frozenset({"Conv", "Gemm", "MatMul"})
# What lies between layers has int8 kernels as well, so that no layer pays for a conversion to float and back.
_ELEMENTWISE = frozenset({"Add", "Mul", "Concat"})
_OTHER = frozenset({"GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu", "Relu"})
# These give values that were there before, and so keep their scale.
MOVING_OPS = frozenset({"MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or dense layer whose weights are constant.

    Attributes:
        name: Of its node, or of its output where the node has none.
        kind: `Conv`, `Gemm` or `MatMul`.
        weight_name: Of its weights in the graph.
        weight: Its weights as the graph holds them, float32.
        bias: (O,) float64; zeros where there is none.
        groups: 1 for a plain layer.
        depthwise: Whether each output channel has one input channel and each input channel one output channel: its int8
            kernels do not add in 16 bits.
        transposed: For a dense layer, whether the graph holds (O, K) rather than (K, O).
    """

    name: str
    kind: str
    weight_name: str
    weight: FloatArray
    bias: Float64Array
    groups: int
    depthwise: bool
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights in the graph."""
        return self.weight.shape

    @property
    def outputs(self) -> int:
        """Output channels: the rows."""
        return int(self.weight.shape[self.channel_axis])

    @property
    def width(self) -> int:
        """Weights of a row."""
        return self.weight.size // max(1, self.outputs)

    @property
    def rows32(self) -> FloatArray:
        """(O, K) float32 weights: K is kernel height, kernel width, input channels of the group, innermost last.

        No copy where the graph's layout allows.
        """
        if self.kind == "Conv":
            # (O, I, kh, kw) to (O, kh, kw, I): the order in which the int8 kernels reduce.
            return self.weight.transpose(0, 2, 3, 1).reshape(self.outputs, -1)
        return self.weight if self.transposed else self.weight.T

    @property
    def rows(self) -> Rows:
        """(O, K) float64, the same, made anew at every call: those of a wide dense layer take a gigabyte."""
        return np.ascontiguousarray(self.rows32, np.float64)

    @property
    def paired(self) -> bool:
        """Whether neighbouring products are added in 16 bits where there is no VNNI."""
        return not self.depthwise

    @property
    def input_channels(self) -> int:
        """Channels of the whole input."""
        return self.groups * self.shape[1] if self.kind == "Conv" else self.width

    def weight_of(self, rows: AnyArray) -> AnyArray:
        """Rows of any type back in the graph's own layout."""
        if self.kind == "Conv":
            outputs, inputs, height, width = self.shape
            # (O, kh * kw * I) to (O, kh, kw, I) to (O, I, kh, kw).
            return np.ascontiguousarray(rows.reshape(outputs, height, width, inputs).transpose(0, 3, 1, 2))
        return np.ascontiguousarray(rows if self.transposed else rows.T)

    @property
    def channel_axis(self) -> int:
        """The axis of the output channels in the graph's own layout."""
        return 0 if self.kind == "Conv" or self.transposed else 1


def read_layer(graph: FloatGraph, node: onnx.NodeProto) -> Layer | None:
    """Reads a node as a layer; None for a node that is no layer, or a layer without a known int8 form.

    Convolutions in two dimensions with constant weights; Gemm with constant weights and plain factors; MatMul with a
    constant matrix on its right.
    """
    weight = _constant_weight(graph, node)
    bias_name = node.input[2] if len(node.input) > 2 else ""
    bias = graph.constants.get(bias_name)
    if weight is None or (bias_name and bias is None):
        return None
    options = attributes_of(node)
    transposed = bool(options.get("transB", 0))
    groups = int(options.get("group", 1))
    outputs = weight.shape[0 if node.op_type == "Conv" or transposed else 1]
    if bias is not None and bias.size not in {1, outputs}:
        return None
    return Layer(
        name=node.name or node.output[0],
        kind=node.op_type,
        weight_name=node.input[1],
        weight=weight,
        bias=np.zeros(outputs) if bias is None else np.broadcast_to(bias.reshape(-1).astype(np.float64), (outputs,)),
        groups=groups,
        depthwise=node.op_type == "Conv" and weight.shape[1] == 1 and outputs == groups,
        transposed=transposed,
    )


def _constant_weight(graph: FloatGraph, node: onnx.NodeProto) -> AnyArray | None:
    """The weights of a node of which an int8 form is known; None for any other."""
    if node.op_type not in {"Conv", "Gemm", "MatMul"} or node.domain not in {"", "ai.onnx"}:
        return None
    weight = graph.constants.get(node.input[1])
    if weight is None or weight.dtype != np.float32 or node.input[0] in graph.constants:
        return None
    options = attributes_of(node)
    plain = (options.get("alpha", 1.0), options.get("beta", 1.0), options.get("transA", 0)) == (1.0, 1.0, 0)
    return weight if plain and weight.ndim == (4 if node.op_type == "Conv" else 2) else None


def im2col(
    layer: Layer,
    node: onnx.NodeProto,
    inputs: AnyArray,
    positions: int,
    rng: np.random.Generator,
    *,
    params: QuantParams | None = None,
) -> Rows:
    """im2col columns of a layer's inputs at randomly sampled output positions.

    Args:
        layer: The layer.
        node: Its node, for the geometry of a convolution.
        inputs: (N, C, H, W) for a convolution, (N, ..., K) for a dense layer; float32, or uint8 codes.
        positions: Columns at most.
        rng: Samples the positions.
        params: Of the codes; None for float32.

    Returns:
        (G, P, K) float64: for each group, P columns in the order of `Layer.rows`.
    """
    if layer.kind != "Conv":
        columns = inputs.reshape(-1, inputs.shape[-1])
        if len(columns) > positions:
            columns = columns[rng.choice(len(columns), positions, replace=False)]
        return _real(columns[np.newaxis], params).astype(np.float64)
    (top, left, bottom, right), (stride_h, stride_w), (dilation_h, dilation_w) = convolution_geometry(
        node, inputs.shape
    )
    _, group_inputs, kernel_h, kernel_w = layer.shape
    count, channels, height, width = inputs.shape
    out_h = (height + top + bottom - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
    out_w = (width + left + right - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
    total = count * out_h * out_w
    chosen = np.arange(total) if total <= positions else rng.choice(total, positions, replace=False)
    image, place = np.divmod(chosen, out_h * out_w)
    row, column = np.divmod(place, out_w)
    # (P, kh) and (P, kw): where each weight looks, outside of the image where it is padded.
    rows_at = (row * stride_h - top)[:, None] + np.arange(kernel_h) * dilation_h
    columns_at = (column * stride_w - left)[:, None] + np.arange(kernel_w) * dilation_w
    inside = ((rows_at >= 0) & (rows_at < height))[:, :, None] & ((columns_at >= 0) & (columns_at < width))[:, None, :]
    rows_at, columns_at = rows_at.clip(0, height - 1), columns_at.clip(0, width - 1)
    # (P, kh, kw, C): advanced indices first, the sliced channel axis last.
    taken = _real(inputs[image[:, None, None], :, rows_at[:, :, None], columns_at[:, None, :]], params)
    taken = np.where(inside[..., None], taken, np.float32(0))
    grouped = taken.reshape(len(chosen), kernel_h * kernel_w, channels // group_inputs, group_inputs)
    # (P, kh * kw, G, I) to (G, P, kh * kw * I).
    return grouped.transpose(2, 0, 1, 3).reshape(layer.groups, len(chosen), -1).astype(np.float64)


def _real(values: AnyArray, params: QuantParams | None) -> FloatArray:
    """float32 values, dequantized where they are codes."""
    if params is None:
        return values
    return np.asarray((values.astype(np.float32) - np.float32(params.zero_point)) * np.float32(params.scale))


def convolution_geometry(
    node: onnx.NodeProto,
    input_shape: tuple[int, ...],
) -> tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int]]:
    """Pads (top, left, bottom, right), strides and dilations (height, width) of a two-dimensional convolution."""
    options = attributes_of(node)
    strides = tuple(options.get("strides", (1, 1)))
    dilations = tuple(options.get("dilations", (1, 1)))
    auto = options.get("auto_pad", b"NOTSET").decode()
    pads = tuple(options.get("pads", (0, 0, 0, 0)))
    if auto in {"SAME_UPPER", "SAME_LOWER"}:
        before, after = [], []
        for size, stride, dilation, kernel in zip(
            input_shape[2:], strides, dilations, options["kernel_shape"], strict=True
        ):
            total = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
            small, large = total // 2, total - total // 2
            before.append(small if auto == "SAME_UPPER" else large)
            after.append(large if auto == "SAME_UPPER" else small)
        pads = (*before, *after)
    return pads, strides, dilations


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
    factors = [graph.constants[name] for name in node.input if name in graph.constants]
    if node.op_type != "Mul" or len(node.input) != 2 or len(factors) != 1 or factors[0].size != 1:
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
