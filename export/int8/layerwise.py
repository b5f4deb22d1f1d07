"""Layer-by-layer quantization: each layer is fitted to the real outputs of the quantized layers before it.

A layer's rounding is fitted to the inputs it will meet; its bias takes back the mean of the errors that have gathered up
to its activation function. The calibration images pass through the float network and the growing int8 network side by
side: each unit is a small model of its own, run by ONNX Runtime on the values its predecessors left, so that all of it
costs one pass through either network. Values are dropped as soon as no later unit reads them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, scalar_of
from edgeclf.export.graph.pixel_normalisation import PixelNormalisation
from edgeclf.export.int8.fixed_point import FixedPoint
from edgeclf.export.int8.gptq import gptq_with_scales
from edgeclf.export.int8.partition import Layer, Partition, QuantUnit, im2col
from edgeclf.export.int8.qdq_writer import (
    QdqWriter,
    QuantizedLayer,
    fixed_name,
    model_from_writer,
    quantized_name,
    smallest_scales,
)
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.weights import quantize_rows, round_to_codes
from edgeclf.runtime.arrays import AnyArray, Float64Array, FloatArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session.opening import open_session_from_bytes

BATCH = 16
# Inputs that second moments are estimated from, as a multiple of the weights of a row; at least and at most so many.
_POSITIONS_PER_WEIGHT, _FEWEST_POSITIONS, _MOST_POSITIONS = 8, 1024, 8192
# Positions of a layer's output that its bias is corrected on.
_BIAS_POSITIONS = 4096
# Positions at which a channel must be active before its correction counts for half.
_HALF_TRUSTED = 32
# Scales that GPTQ is tried with, as shares of the one that is best for rounding each weight to its nearest code. A row of a
# depthwise layer has few weights, whose errors cancel or not as its scale happens to be; and trying costs little there.
_SCALES = (1.0, 0.9, 1.1)
_DEPTHWISE_SCALES = (1.0, *np.linspace(0.7, 1.3, 24))
Values = dict[str, AnyArray]


class DualForward:
    """The calibration images' values in the float network and in the growing int8 network, as far as later units read them.

    Args:
        graph: The float graph.
        partition: Its units.
        params: Of every value that exists in 8 bits.
        fixed: Of every value between fixed-point layers.
        images_rgb: (N, H, W, 3) uint8 RGB calibration images.
        sequential: Whether there is an int8 network; without it, layers meet the values of the float network.
    """

    def __init__(
        self,
        graph: FloatGraph,
        partition: Partition,
        params: Mapping[str, QuantParams],
        fixed: Mapping[str, FixedPoint],
        images_rgb: UInt8Array,
        *,
        sequential: bool = True,
    ) -> None:
        self.images = len(images_rgb)
        self._graph = graph
        self._sequential = sequential
        self._params = params
        self._fixed = fixed
        self._reads = Counter(name for unit in partition.units for name in unit.inputs)
        self._float: Values = {graph.input: images_rgb}
        self._quantized: Values = {graph.input: images_rgb}
        if partition.pixels is not None:
            self._run_pixels(partition.pixels, images_rgb)

    def real(self, value: str, rows: slice) -> FloatArray:
        """(n, ...) float32 values of some rows as a layer meets them: dequantized codes."""
        if not self._sequential:
            return np.asarray(self._float[value][rows])
        given = self._params[value]
        codes = self._quantized[quantized_name(value)][rows]
        return np.asarray((codes.astype(np.float32) - np.float32(given.zero_point)) * np.float32(given.scale))

    def outputs_before_activation(self, unit: QuantUnit, layer: QuantizedLayer) -> list[tuple[FloatArray, FloatArray]]:
        """A layer's outputs ahead of its activation function, in batches: of the float network, and with its int8 weights."""
        cut = replace(unit, nodes=unit.nodes[:1], output=unit.before_activation)
        wanted = self._run(self._float_writer(cut), cut.inputs, cut.output, self._float, as_float=True)
        if self._sequential:
            writer = self._writer({unit.name: layer})
            writer.write_unit(cut, quantize_output=False)
            got = self._run(writer, cut.inputs, cut.output, self._quantized, as_float=False)
        else:
            writer = QdqWriter(self._graph, {}, {})
            writer.copy_dequantized(cut.nodes[0], layer)
            got = self._run(writer, cut.inputs, cut.output, self._float, as_float=True)
        return list(zip(wanted, got, strict=True))

    def advance(self, unit: QuantUnit, layers: Mapping[str, QuantizedLayer]) -> None:
        """Runs a unit in both networks, and drops values that no later unit reads."""
        if self._sequential:
            writer = self._writer(layers)
            writer.write_unit(unit)
            key = writer.stored_name(unit.output)
            self._quantized[key] = np.concatenate(self._run(writer, unit.inputs, key, self._quantized, as_float=False))
        self._float[unit.output] = np.concatenate(
            self._run(self._float_writer(unit), unit.inputs, unit.output, self._float, as_float=True)
        )
        for name in unit.inputs:
            self._reads[name] -= 1
            if self._reads[name] == 0:
                for values, key in (
                    (self._float, name),
                    (self._quantized, name),
                    (self._quantized, quantized_name(name)),
                    (self._quantized, fixed_name(name)),
                ):
                    values.pop(key, None)

    def _writer(self, layers: Mapping[str, QuantizedLayer]) -> QdqWriter:
        return QdqWriter(self._graph, self._params, layers, self._fixed)

    def _float_writer(self, unit: QuantUnit) -> QdqWriter:
        writer = QdqWriter(self._graph, {}, {})
        for node in unit.nodes:
            writer.copy(node)
        return writer

    def _run_pixels(self, pixels: PixelNormalisation, images_rgb: UInt8Array) -> None:
        for values, quantized in ((self._float, False), (self._quantized, True)):
            writer = QdqWriter(self._graph, self._params, {})
            for node in self._graph.nodes:
                if node.name in pixels.nodes:
                    writer.copy(node)
            output = pixels.output
            if quantized and output in self._params:
                writer.quantize(output)
                output = quantized_name(output)
            source = {self._graph.input: images_rgb}
            values[output] = np.concatenate(
                self._run(writer, (self._graph.input,), output, source, as_float=not quantized)
            )

    def _run(
        self, writer: QdqWriter, inputs: tuple[str, ...], output: str, values: Values, *, as_float: bool
    ) -> list[AnyArray]:
        """The output of a small model for all images, in batches."""
        names = [name if as_float else writer.stored_name(name) for name in inputs]
        kinds = onnx.helper.np_dtype_to_tensor_dtype
        infos = [onnx.helper.make_tensor_value_info(name, kinds(values[name].dtype), None) for name in names]
        # Codes come out of a QuantizeLinear, or are handed on as they are.
        quantized = not as_float and output.endswith(quantized_name(""))
        kind = onnx.TensorProto.UINT8 if quantized else onnx.TensorProto.FLOAT
        info = onnx.helper.make_tensor_value_info(output, kind, None)
        model = model_from_writer(writer, infos, [info], self._graph.model)
        session = open_session_from_bytes(model.SerializeToString(), threads=usable_cpus())
        count = len(values[names[0]])
        return [
            session.run(None, {name: values[name][start : start + BATCH] for name in names})[0]
            for start in range(0, count, BATCH)
        ]


@dataclass(frozen=True)
class LayerMethods:
    """Methods for the weights and biases of layers.

    Attributes:
        paired: Whether neighbouring weights respect the pair constraint.
        gptq: Whether weights are rounded by GPTQ on the layer's inputs, rather than to the nearest code.
        correct_bias: Whether the bias takes back the mean of the error.
        sequential: Whether a layer is fitted to the outputs of the quantized layers before it, rather than as if it were
            the only quantized layer of the float network.
    """

    paired: bool = True
    gptq: bool = True
    correct_bias: bool = True
    sequential: bool = True


def quantize_layers(
    graph: FloatGraph,
    partition: Partition,
    params: Mapping[str, QuantParams],
    images_rgb: UInt8Array,
    *,
    methods: LayerMethods,
    progress: Progress,
    fixed: Mapping[str, FixedPoint] = MappingProxyType({}),
    weight_scales: Mapping[str, Float64Array] = MappingProxyType({}),
) -> dict[str, QuantizedLayer]:
    """Quantizes all layers of a partition.

    Args:
        graph: The float graph.
        partition: Its units.
        params: Of every value that exists in 8 bits.
        images_rgb: (N, H, W, 3) uint8 RGB calibration images.
        methods: How.
        progress: Called with the number of layers done.
        fixed: Of every value between fixed-point layers.
        weight_scales: (O,) scales from quantization-aware training, by unit name. The weights of these layers are multiples
            of them already, so nothing is left to GPTQ.

    Returns:
        The layers by unit name.
    """
    done: dict[str, QuantizedLayer] = {}
    layers = partition.layers
    if not methods.gptq and not methods.correct_bias:
        for unit in layers:
            if unit.layer is not None:
                trained = weight_scales.get(unit.name)
                done[unit.name] = _by_weights(unit.layer, params[unit.inputs[0]].scale, methods, trained)
        return done
    forward = DualForward(graph, partition, params, fixed, images_rgb, sequential=methods.sequential)
    left = len(layers)
    for unit in partition.units:
        if unit.exact and unit.layer is not None and methods.correct_bias and methods.sequential:
            plain = QuantizedLayer(unit.layer, np.zeros((0, 0), np.int64), np.zeros(0), unit.layer.bias)
            done[unit.name] = _corrected(graph, unit, plain, forward)
        if unit.layer is not None and unit.quantized:
            trained = weight_scales.get(unit.name)
            quantized = (
                _by_inputs(unit.layer, unit, forward, params[unit.inputs[0]].scale, methods)
                if methods.gptq and trained is None
                else _by_weights(unit.layer, params[unit.inputs[0]].scale, methods, trained)
            )
            if methods.correct_bias and unit.layer.kind != "MatMul":
                quantized = _corrected(graph, unit, quantized, forward)
            done[unit.name] = quantized
            left -= 1
            progress("quantize", len(layers) - left, len(layers))
            if left == 0:
                break
        forward.advance(unit, done)
    return done


def _by_weights(
    layer: Layer, input_scale: float, methods: LayerMethods, trained: Float64Array | None
) -> QuantizedLayer:
    paired = methods.paired and layer.paired
    least = smallest_scales(layer.bias, input_scale)
    if trained is None:
        return QuantizedLayer(layer, *quantize_rows(layer.rows, paired=paired, smallest_scale=least), layer.bias)
    # Below the smallest scale lie weights of a dead channel, which come to nothing beside its bias.
    scales = np.maximum(trained, least.astype(np.float32))
    return QuantizedLayer(layer, round_to_codes(layer.rows / scales[:, None], paired=paired), scales, layer.bias)


def _by_inputs(
    layer: Layer, unit: QuantUnit, forward: DualForward, input_scale: float, methods: LayerMethods
) -> QuantizedLayer:
    paired = methods.paired and layer.paired
    # A bias that is corrected later takes back whatever is the same at every position, so only what varies counts.
    moments = _moments(layer, unit, forward, central=methods.correct_bias and layer.kind != "MatMul")
    per_group = len(layer.rows) // layer.groups
    groups = np.repeat(np.arange(layer.groups), per_group)
    diagonal = np.diagonal(moments, axis1=1, axis2=2)
    # An input that never differs from zero on these images may do so on others: none counts for nothing.
    importance = np.maximum(diagonal, 1e-3 * diagonal.mean(axis=1, keepdims=True))[groups]
    importance = np.where(importance > 0, importance, 1.0)
    least = smallest_scales(layer.bias, input_scale)
    _, scales = quantize_rows(layer.rows, paired=paired, importance=importance, smallest_scale=least)
    shares = _DEPTHWISE_SCALES if per_group == 1 else _SCALES
    tried = [np.maximum(scales * share, least).astype(np.float32).astype(np.float64) for share in shares]
    if per_group == 1:
        return QuantizedLayer(layer, *gptq_with_scales(layer.rows, tried, moments, paired=paired), layer.bias)
    codes = np.empty(layer.rows.shape, np.int64)
    for group in range(layer.groups):
        part = slice(group * per_group, (group + 1) * per_group)
        codes[part], scales[part] = gptq_with_scales(
            layer.rows[part], [item[part] for item in tried], moments[group], paired=paired
        )
    return QuantizedLayer(layer, codes, scales, layer.bias)


def _moments(layer: Layer, unit: QuantUnit, forward: DualForward, *, central: bool) -> Float64Array:
    """(G, K, K) second moments of the im2col columns of each group in the int8 network, in real units; `central`: covariances.

    From output positions drawn at random, fewer where every channel is a group of its own.
    """
    width = layer.rows.shape[1]
    value = unit.inputs[0]
    images = forward.images
    wanted = int(np.clip(_POSITIONS_PER_WEIGHT * width, _FEWEST_POSITIONS, _MOST_POSITIONS))
    each = max(1, wanted * BATCH // images)
    rng = np.random.default_rng(width)
    moments = np.zeros((layer.groups, width, width))
    sums = np.zeros((layer.groups, width))
    count = 0
    for start in range(0, images, BATCH):
        columns = im2col(layer, unit.nodes[0], forward.real(value, slice(start, start + BATCH)), each, rng)
        moments += np.swapaxes(columns, 1, 2) @ columns
        sums += columns.sum(axis=1)
        count += columns.shape[1]
    moments /= count
    if central:
        means = sums / count
        moments -= means[:, :, None] * means[:, None, :]
    # With few positions for many weights, correlations are mostly chance: they are believed as far as there are more
    # positions than weights (after Ledoit & Wolf 2004, shrinkage towards the diagonal).
    return np.asarray(moments * np.where(np.eye(width, dtype=bool), 1.0, count / (count + width)))


def _corrected(graph: FloatGraph, unit: QuantUnit, quantized: QuantizedLayer, forward: DualForward) -> QuantizedLayer:
    """The layer with its bias corrected: outputs behind the activation function closest to the float network's."""
    wanted: list[FloatArray] = []
    got: list[FloatArray] = []
    batches = forward.outputs_before_activation(unit, quantized)
    each = max(1, _BIAS_POSITIONS // len(batches))
    for number, (reference, candidate) in enumerate(batches):
        for kept, values in ((wanted, reference), (got, candidate)):
            columns = np.moveaxis(values, 1, -1) if values.ndim == 4 else values
            columns = columns.reshape(-1, columns.shape[-1])
            if len(columns) > each:
                columns = columns[np.random.default_rng(number).choice(len(columns), each, replace=False)]
            kept.append(columns)
    low, high = activation_ends(graph, unit)
    shift = bias_shift(np.concatenate(wanted), np.concatenate(got), low, high)
    return quantized.with_bias(quantized.bias + shift)


def bias_shift(wanted: FloatArray, got: FloatArray, low: float, high: float) -> Float64Array:
    """Bias correction: per channel, the shift with which outputs clipped to low..high are closest in least squares.

    Where both are clipped alike an error costs nothing, and taking it back would only disturb the rest: a channel that
    is nearly always negative ahead of a ReLU would be shifted by errors nobody sees. So the mean error is taken over the
    positions where the candidate is not clipped, three times over as they change with the shift, and a channel that is
    active at few positions is trusted accordingly.

    Args:
        wanted: (P, C) outputs of the float network ahead of the activation function.
        got: (P, C) of the int8 network, at the same positions.
        low: Lower end of the activation function, -inf for none.
        high: Upper end, inf for none.

    Returns:
        (C,) float64.
    """
    target = wanted.clip(low, high)
    shift = np.zeros(got.shape[1])
    for _ in range(3):
        moved = got + shift.astype(np.float32)
        active = (moved > low) & (moved < high)
        count = active.sum(axis=0)
        error = np.where(active, target - moved, 0).sum(axis=0, dtype=np.float64)
        shift += error / (count + _HALF_TRUSTED)
    return shift


def activation_ends(graph: FloatGraph, unit: QuantUnit) -> tuple[float, float]:
    """Lower and upper end of a unit's activation function; infinite where it has none."""
    if len(unit.nodes) == 1:
        return -np.inf, np.inf
    node = unit.nodes[1]
    if node.op_type == "Relu":
        return 0.0, np.inf
    low, high = [*node.input[1:], "", ""][:2]
    return scalar_of(graph, low, -np.inf), scalar_of(graph, high, np.inf)
