"""Fitting of the layers, one after the other: weights by GPTQ, biases by bias correction.

A layer's rounding is fitted to the inputs it will meet; its bias takes back the mean of the errors that have gathered up
to its activation function.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from edgeclf.export.graph.float_graph import FloatGraph, scalar_of
from edgeclf.export.graph.layers import Layer
from edgeclf.export.graph.value_store import ValueStore
from edgeclf.export.int8.fixed_point import FixedPoint
from edgeclf.export.int8.gptq import gptq_with_scales
from edgeclf.export.int8.layerwise.dual_forward import BATCH, DualForward
from edgeclf.export.int8.partition import Partition, QuantUnit
from edgeclf.export.int8.qdq_writer import (
    QuantizedLayer,
    smallest_scales,
)
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.weights import quantize_rows, round_to_codes
from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.progress import Progress

# Memory for the values of all images in both networks; what goes beyond is kept in files.
VALUE_BYTES = 1 << 29
# Inputs that second moments are estimated from, as a multiple of the weights of a row; at least and at most so many.
_POSITIONS_PER_WEIGHT, _FEWEST_POSITIONS, _MOST_POSITIONS = 8, 1024, 8192
# Numbers in the second moments of a layer; GPTQ needs four times as much memory. Rows of more weights than the root of it are
# cut into blocks whose inputs count as uncorrelated (benchmarks/README.md, Choices that were measured).
_MOST_MOMENTS = 6144**2
# Positions of a layer's output that its bias is corrected on.
_BIAS_POSITIONS = 4096
# Positions at which a channel must be active before its correction counts for half.
_HALF_TRUSTED = 32
# Scales that GPTQ is tried with, as shares of the one that is best for rounding each weight to its nearest code. A row of a
# depthwise layer has few weights, whose errors cancel or not as its scale happens to be; and trying costs little there.
_SCALES = (1.0, 0.9, 1.1)
_DEPTHWISE_SCALES = (1.0, *np.linspace(0.7, 1.3, 24))


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
    value_bytes: int = VALUE_BYTES,
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
        value_bytes: Memory for the values of all images; what goes beyond is kept in files, with the same results.

    Returns:
        The layers by unit name.

    Raises:
        InputError: A value is none that can be kept by image.
        OutputError: There is no room on the disk for values beyond `value_bytes`.
    """
    done: dict[str, QuantizedLayer] = {}
    layers = partition.layers
    if not methods.gptq and not methods.correct_bias:
        for unit in layers:
            if unit.layer is not None:
                trained = weight_scales.get(unit.name)
                done[unit.name] = _by_weights(unit.layer, params[unit.inputs[0]].scale, methods, trained)
        return done
    with ValueStore(value_bytes) as store:
        forward = DualForward(
            graph, partition, params, fixed, images_rgb=images_rgb, store=store, sequential=methods.sequential
        )
        left = len(layers)
        for unit in partition.units:
            if unit.exact and unit.layer is not None and methods.correct_bias and methods.sequential:
                plain = QuantizedLayer(unit.layer, np.zeros((0, 0), np.int8), np.zeros(0), unit.layer.bias)
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
        return QuantizedLayer(layer, *quantize_rows(layer.rows32, paired=paired, smallest_scale=least), layer.bias)
    # Below the smallest scale lie weights of a dead channel, which come to nothing beside its bias.
    scales = np.maximum(trained, least.astype(np.float32))
    codes = round_to_codes(layer.rows / scales[:, None], paired=paired).astype(np.int8)
    return QuantizedLayer(layer, codes, scales, layer.bias)


def _by_inputs(
    layer: Layer, unit: QuantUnit, forward: DualForward, input_scale: float, methods: LayerMethods
) -> QuantizedLayer:
    paired = methods.paired and layer.paired
    # A bias that is corrected later takes back whatever is the same at every position, so only what varies counts.
    moments = _moments(layer, unit, forward, central=methods.correct_bias and layer.kind != "MatMul")
    per_group = layer.outputs // layer.groups
    diagonal = np.concatenate([np.diagonal(block, axis1=1, axis2=2) for block in moments], axis=1)
    # An input that never differs from zero on these images may do so on others: none counts for nothing.
    importance = np.maximum(diagonal, 1e-3 * diagonal.mean(axis=1, keepdims=True))
    importance = np.where(importance > 0, importance, 1.0)
    importance = importance[0] if layer.groups == 1 else np.repeat(importance, per_group, axis=0)
    least = smallest_scales(layer.bias, input_scale)
    rows = layer.rows32
    _, scales = quantize_rows(rows, paired=paired, importance=importance, smallest_scale=least)
    shares = _DEPTHWISE_SCALES if per_group == 1 else _SCALES
    tried = [np.maximum(scales * share, least).astype(np.float32).astype(np.float64) for share in shares]
    if per_group == 1:
        return QuantizedLayer(layer, *gptq_with_scales(rows, tried, moments, paired=paired), layer.bias)
    codes = np.empty(rows.shape, np.int8)
    for group in range(layer.groups):
        part = slice(group * per_group, (group + 1) * per_group)
        codes[part], scales[part] = gptq_with_scales(
            rows[part], [item[part] for item in tried], [block[group] for block in moments], paired=paired
        )
    return QuantizedLayer(layer, codes, scales, layer.bias)


def _moments(layer: Layer, unit: QuantUnit, forward: DualForward, *, central: bool) -> list[Float64Array]:
    """Second moments of the im2col columns of each group in the int8 network, in real units; `central`: covariances.

    From output positions drawn at random, fewer where every channel is a group of its own.

    Returns:
        (G, K, K); of rows too wide for that (G, B, B) of each block of B columns.
    """
    width = layer.width
    images = forward.images
    wanted = int(np.clip(_POSITIONS_PER_WEIGHT * width, _FEWEST_POSITIONS, _MOST_POSITIONS))
    each = max(1, wanted * BATCH // images)
    rng = np.random.default_rng(width)
    moments: list[Float64Array] = []
    products: list[Float64Array] = []
    parts: list[slice] = []
    sums = np.zeros((layer.groups, width))
    count = 0
    for start in range(0, images, BATCH):
        columns = forward.columns(unit, layer, slice(start, start + BATCH), each, rng)
        if not moments:
            parts = _column_blocks(width, positions=columns.shape[1] * -(-images // BATCH))
            moments = [np.zeros((layer.groups, part.stop - part.start, part.stop - part.start)) for part in parts]
            products = [np.empty_like(block) for block in moments]
        for part, block, product in zip(parts, moments, products, strict=True):
            some = columns[:, :, part]
            np.add(block, np.matmul(np.swapaxes(some, 1, 2), some, out=product), out=block)
        sums += columns.sum(axis=1)
        count += columns.shape[1]
    del products
    means = sums / count if central else np.zeros_like(sums)
    for part, block in zip(parts, moments, strict=True):
        _as_covariance(block, means[:, part], count)
    return moments


def _as_covariance(sums: Float64Array, means: Float64Array, count: int) -> None:
    """Makes (G, K, K) second moments around (G, K) means, shrunk, out of sums over so many positions, in place."""
    sums /= count
    if means.any():
        sums -= means[:, :, None] * means[:, None, :]
    # With few positions for many weights, correlations are mostly chance: they are believed as far as there are more
    # positions than weights (after Ledoit & Wolf 2004, shrinkage towards the diagonal).
    places = np.arange(sums.shape[1])
    diagonal = sums[:, places, places]
    sums *= count / (count + len(places))
    sums[:, places, places] = diagonal


def _column_blocks(width: int, *, positions: int) -> list[slice]:
    """One block of all columns, or several of even width whose moments keep to `_MOST_MOMENTS`.

    A block is no wider than the number of positions its moments are estimated from: correlations of more would be chance.
    """
    if width**2 <= _MOST_MOMENTS:
        return [slice(0, width)]
    blocks = -(-width // min(positions, _MOST_MOMENTS // width))
    step = -(-width // blocks)
    step += step % 2
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]


def _corrected(graph: FloatGraph, unit: QuantUnit, quantized: QuantizedLayer, forward: DualForward) -> QuantizedLayer:
    """The layer with its bias corrected: outputs behind the activation function closest to the float network's."""
    each = max(1, _BIAS_POSITIONS // -(-forward.images // forward.batch_of(unit)))
    # Both at the same positions. The float network's are behind the activation function already, which changes nothing.
    wanted, got = (
        np.concatenate([_sample(values, each, seed) for seed, values in enumerate(batches)])
        for batches in (forward.float_outputs(unit), forward.outputs_before_activation(unit, quantized))
    )
    low, high = activation_ends(graph, unit)
    return quantized.with_bias(quantized.bias + bias_shift(wanted, got, low, high))


def _sample(values: FloatArray, positions: int, seed: int) -> FloatArray:
    """(P, C) a copy of the channels at positions of (N, C, H, W) or (N, ..., C) values, drawn at random where there are more."""
    if values.ndim != 4:
        columns = values.reshape(-1, values.shape[-1])
        chosen = _chosen(len(columns), positions, seed)
        return columns[chosen]
    count, _, height, width = values.shape
    image, place = np.divmod(_chosen(count * height * width, positions, seed), height * width)
    row, column = np.divmod(place, width)
    return values[image, :, row, column]


def _chosen(total: int, most: int, seed: int) -> IntArray:
    if total <= most:
        return np.arange(total)
    return np.random.default_rng(seed).choice(total, most, replace=False)


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
