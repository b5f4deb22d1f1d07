"""The layer report: signal-to-quantization-noise ratios of each layer's weights and outputs, an int8 file against float."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, read_graph
from edgeclf.export.graph.int8_forms import prepare_for_int8
from edgeclf.export.graph.layers import WEIGHTED_OPS, Layer
from edgeclf.export.graph.pad_channels import CHANNEL_STEP
from edgeclf.export.graph.pixel_normalisation import find_pixel_normalisation
from edgeclf.export.int8.observe import session_with_outputs
from edgeclf.export.int8.partition import QuantUnit, partition_graph
from edgeclf.runtime.arrays import AnyArray, Float64Array, FloatArray, UInt8Array
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.progress import Progress, no_progress

_BATCH = 8


@dataclass(frozen=True)
class LayerFacts:
    """One layer of an int8 file next to the same layer of the float network.

    Attributes:
        position: From 1, in order of execution.
        name: In the int8 file.
        operator: `Conv`, `Gemm` or `MatMul`; `Conv (depthwise)`.
        precision: `int8`, or `fp32` where the layer was kept in float.
        weight_sqnr_db: Signal-to-quantization-noise ratio of the weights in decibels, 10 log10(sum w^2 / sum (w - w')^2);
            None where they are equal, or scaled by equalization.
        output_sqnr_db: The same ratio for the outputs behind the activation function, with the noise of all layers before;
            None where they are equal.
        lost_db: By how much the outputs' ratio lies below the lowest ratio of the layers that feed this one: what this layer
            itself loses. None where its inputs are exact, as those of the first layer are, or its outputs.
    """

    position: int
    name: str
    operator: str
    precision: str
    weight_sqnr_db: float | None
    output_sqnr_db: float | None
    lost_db: float | None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


def compare_layers(
    reference: onnx.ModelProto,
    model: onnx.ModelProto,
    images_rgb: UInt8Array,
    *,
    equalized: bool = False,
    progress: Progress = no_progress,
) -> tuple[LayerFacts, ...]:
    """Runs an int8 file and its float network, and compares them layer by layer.

    Args:
        reference: The float model.
        model: A QDQ model made from it.
        images_rgb: (N, H, W, 3) uint8 RGB images.
        equalized: Whether channels were equalized: each channel is then compared up to its own factor.
        progress: Called with the number of images done.

    Returns:
        The layers, in order of execution.

    Raises:
        ModelFileError: The two are different networks, or the model has no quantized layer.
    """
    int8_graph = read_graph(model)
    # Of a network that was trained for 8 bits normalisations and poolings stay as they are.
    kept = {node.name for node in int8_graph.nodes if node.op_type in {"BatchNormalization", "AveragePool"}}
    float_graph = read_graph(prepare_for_int8(reference))
    if any(node.op_type == "Conv" and node.name in kept for node in float_graph.nodes):
        float_graph = read_graph(prepare_for_int8(reference, norms=False))
    pairs = _pair_layers(float_graph, int8_graph)
    ratios = _output_ratios(float_graph, int8_graph, pairs, images_rgb, equalized=equalized, progress=progress)
    facts = []
    ratio_of_value: dict[str, float | None] = {}
    for position, (pair, ratio) in enumerate(zip(pairs, ratios, strict=True), start=1):
        before = _lowest_ratio_before(float_graph, pair.unit, ratio_of_value)
        ratio_of_value[pair.unit.output] = ratio
        facts.append(
            LayerFacts(
                position,
                str(pair.node.name or pair.node.output[0]),
                f"{pair.layer.kind} (depthwise)" if pair.layer.depthwise else pair.layer.kind,
                "fp32" if pair.codes is None else "int8",
                None
                if pair.codes is None or equalized
                else _weight_ratio(pair.layer, pair.codes, int8_graph, pair.node),
                ratio,
                None if before is None or ratio is None else before - ratio,
            )
        )
    return tuple(facts)


def worst_first(facts: tuple[LayerFacts, ...]) -> tuple[LayerFacts, ...]:
    """The layers by the decibels that each loses by itself, the most first.

    A layer whose inputs are exact has no ratio to fall from: all of its noise is its own. Such layers stand first, the
    noisiest of them before the others; layers whose outputs are exact stand last.
    """

    def rank(item: LayerFacts) -> tuple[int, float]:
        if item.output_sqnr_db is None:
            return 2, 0.0
        return (0, item.output_sqnr_db) if item.lost_db is None else (1, -item.lost_db)

    return tuple(sorted(facts, key=rank))


def sqnr_db(signal: AnyArray, noisy: AnyArray) -> float | None:
    """10 log10 of the signal's energy over that of the difference, in decibels; None where they are equal."""
    wide = signal.astype(np.float64)
    return _decibels(float(np.square(wide).sum()), float(np.square(noisy.astype(np.float64) - wide).sum()))


def _decibels(signal: float, noise: float) -> float | None:
    return None if noise == 0.0 else float(10 * np.log10(max(signal, 1e-300) / noise))


@dataclass(frozen=True, eq=False)
class _LayerPair:
    """A layer in both networks.

    Attributes:
        unit: The layer in the float network, with its activation function.
        layer: Its weights there.
        node: Its node in the int8 file.
        codes: Its int8 weights in the file; None where it was kept in float.
    """

    unit: QuantUnit
    layer: Layer
    node: onnx.NodeProto
    codes: npt.NDArray[np.int8] | None


def _pair_layers(float_graph: FloatGraph, int8_graph: FloatGraph) -> list[_LayerPair]:
    """The layers of both networks by their order, which are to be of the same kinds and shapes."""
    units = [
        unit
        for unit in partition_graph(float_graph, find_pixel_normalisation(float_graph.model)).units
        if unit.layer is not None
    ]
    nodes = [node for node in int8_graph.nodes if _weights(int8_graph, node) is not None]
    pairs = [
        _LayerPair(unit, unit.layer, node, _codes(int8_graph, node, unit.layer.shape))
        for unit, node in zip(units, nodes, strict=False)
        if unit.layer is not None
    ]
    is_same_network = len(units) == len(nodes) and all(
        pair.unit.nodes[0].op_type == pair.node.op_type and _has_shape_of(pair.layer, int8_graph, pair.node)
        for pair in pairs
    )
    if not is_same_network or all(pair.codes is None for pair in pairs):
        raise ModelFileError(
            "cannot compare these models layer by layer",
            got=f"{len(nodes)} layers with weights and {len(units)} in the reference"
            if len(nodes) != len(units)
            else "layers of other shapes, or none in int8",
            expected="an int8 file and the float network it was made from",
            hint="compare it with the run it was exported from",
        )
    return pairs


def _lowest_ratio_before(graph: FloatGraph, unit: QuantUnit, ratio_of_value: dict[str, float | None]) -> float | None:
    """The lowest ratio among the layers that feed a layer; None where all of them are exact, or there is none."""
    waiting, seen, ratios = list(unit.inputs), set[str](), []
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in ratio_of_value:
            ratio = ratio_of_value[value]
            if ratio is not None:
                ratios.append(ratio)
            continue
        producer = graph.producers.get(value)
        if producer is not None:
            waiting.extend(name for name in producer.input if name and name not in graph.constants)
    return min(ratios) if ratios else None


def _output_ratios(
    float_graph: FloatGraph,
    int8_graph: FloatGraph,
    pairs: list[_LayerPair],
    images_rgb: UInt8Array,
    *,
    equalized: bool,
    progress: Progress,
) -> list[float | None]:
    """The ratio of each layer's outputs in decibels, over all images; None where they are equal."""
    float_names = [pair.unit.output for pair in pairs]
    int8_values = [_final_value(int8_graph, pair) for pair in pairs]
    float_kinds = dict.fromkeys(float_names, onnx.TensorProto.FLOAT)
    int8_kinds = {
        name: onnx.TensorProto.UINT8 if in_8_bits else onnx.TensorProto.FLOAT for name, in_8_bits in int8_values
    }
    float_session = session_with_outputs(float_graph.model, float_kinds, threads=1)
    int8_session = session_with_outputs(int8_graph.model, int8_kinds, threads=1)
    signal, noise = np.zeros(len(pairs)), np.zeros(len(pairs))
    for start in range(0, len(images_rgb), _BATCH):
        batch = np.ascontiguousarray(images_rgb[start : start + _BATCH])
        expected = float_session.run(float_names, {float_graph.input: batch})
        outputs = int8_session.run([name for name, _ in int8_values], {int8_graph.input: batch})
        for number, (name, in_8_bits) in enumerate(int8_values):
            values = _dequantized(int8_graph, outputs[number], name) if in_8_bits else outputs[number]
            # Channels that were added for the kernels lie behind the others.
            values = _without_padding(values, expected[number].shape)
            if equalized:
                values = _rescaled_by_channel(expected[number], values)
            signal[number] += np.square(expected[number], dtype=np.float64).sum()
            noise[number] += np.square(values - expected[number], dtype=np.float64).sum()
        progress("compare layers", start + len(batch), len(images_rgb))
    return [_decibels(float(energy), float(lost)) for energy, lost in zip(signal, noise, strict=True)]


def _final_value(graph: FloatGraph, pair: _LayerPair) -> tuple[str, bool]:
    """The value behind a layer and its activation function in the int8 file, and whether that value is in 8 bits."""
    value = pair.node.output[0]
    # In float the activation function is still there; quantization has absorbed it.
    for _ in pair.unit.nodes[1:]:
        following = graph.only_reader(value)
        if following is not None and following.op_type in {"Relu", "Clip"}:
            value = following.output[0]
    following = graph.only_reader(value)
    if following is not None and following.op_type == "QuantizeLinear":
        return following.output[0], True
    return value, False


def _dequantized(graph: FloatGraph, codes: UInt8Array, name: str) -> FloatArray:
    """The real values of codes, by the scale and zero point of the operator that gave them."""
    _, scale, zero_point = graph.producers[name].input
    centred = codes.astype(np.float32) - np.float32(graph.constants[zero_point])
    return np.asarray(centred * np.float32(graph.constants[scale]), np.float32)


def _rescaled_by_channel(reference: FloatArray, values: FloatArray) -> FloatArray:
    """Each channel times the factor that brings it closest to the reference, by least squares."""
    # Convolutions give (N, C, H, W), dense layers (N, C).
    channel = 1 if values.ndim == 4 else values.ndim - 1
    axes = tuple(axis for axis in range(values.ndim) if axis != channel)
    own: Float64Array = np.square(values, dtype=np.float64).sum(axis=axes, keepdims=True)
    factor = (values.astype(np.float64) * reference).sum(axis=axes, keepdims=True) / np.where(own > 0, own, 1)
    return np.asarray(values * factor, np.float32)


def _weights(graph: FloatGraph, node: onnx.NodeProto) -> AnyArray | None:
    """A layer's weights as they stand in the file, codes or floats; None for another node."""
    if node.op_type not in WEIGHTED_OPS:
        return None
    codes = _codes(graph, node)
    return graph.constants.get(node.input[1]) if codes is None else codes


def _codes(
    graph: FloatGraph, node: onnx.NodeProto, shape: tuple[int, ...] | None = None
) -> npt.NDArray[np.int8] | None:
    """A layer's int8 weights, without padding where the layer's own shape is given; None where its weights are float."""
    producer = graph.producers.get(node.input[1])
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    codes: npt.NDArray[np.int8] | None = graph.constants.get(producer.input[0])
    return codes if codes is None or shape is None else _without_padding(codes, shape)


def _without_padding(values: AnyArray, shape: tuple[int, ...]) -> AnyArray:
    """The leading part of an array that has a shape."""
    return values[tuple(slice(side) for side in shape)] if values.ndim == len(shape) else values


def _has_shape_of(layer: Layer, graph: FloatGraph, node: onnx.NodeProto) -> bool:
    """Whether a node of the int8 file has a layer's weights as far as their shape tells, perhaps with padded channels."""
    weights = _weights(graph, node)
    if weights is None:
        return False
    if node.op_type == "Conv":
        padded = [side + -side % CHANNEL_STEP for side in layer.shape[:2]]
        return weights.shape[2:] == layer.shape[2:] and all(
            side in sides
            for side, sides in zip(weights.shape[:2], zip(layer.shape[:2], padded, strict=True), strict=True)
        )
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return (weights.shape if transposed else weights.shape[::-1]) == (layer.outputs, layer.width)


def _weight_ratio(layer: Layer, codes: npt.NDArray[np.int8], graph: FloatGraph, node: onnx.NodeProto) -> float | None:
    scales = graph.constants[graph.producers[node.input[1]].input[1]].astype(np.float64)[: layer.outputs]
    shape = [1] * codes.ndim
    shape[layer.channel_axis] = -1
    return sqnr_db(layer.weight_of(layer.rows), codes * scales.reshape(shape))
