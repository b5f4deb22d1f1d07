"""Fixed-point layers: float32 on numbers so coarse that every sum is exact, and so the same on every CPU.

The first layers lose most in 8 bits: what they round away is seen by all that follow, and a flat background is rounded
the same way at every pixel. In plain float32 their sums depend on the order of the additions, which differs between CPUs.
But a sum of integers is exact in any order as long as it stays below 2^24, the size of float32's significand. So these
layers read integers (pixels, 8-bit codes, or values rounded by the layer before), their weights are multiples of a power
of two as fine as 2^24 allows, and what one hands to the next is rounded to `_ACTIVATION_BITS` bits.
"""

import math
from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, infer_value_types
from edgeclf.export.graph.layers import Layer, read_layer
from edgeclf.export.int8.partition import cuts_at_zero
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.runtime.arrays import Float64Array

# Integers up to here, and all sums of them, are exact in float32.
_EXACT = 2**24
# Bits, without the sign, of the values between two fixed-point layers.
_ACTIVATION_BITS = 11
# The prefix has at most this share of the network's multiplications, so that it costs next to nothing in float.
PREFIX_SHARE = 0.075
# Between two layers ONNX Runtime on x86 puts the channels in order for the Round and back into the blocks of its convolutions. A
# third layer of EfficientNet-Lite0 takes 0.02 of the float file's time, and takes 3.5 % of the error's energy away.
_MOST_LAYERS = 2
# Weights finer than this would not change a result.
_FINEST_EXPONENT = 24


@dataclass(frozen=True)
class FixedPoint:
    """A fixed-point representation: value = step * n with an integer n in low..high.

    Attributes:
        step: A power of two.
        low: Smallest n; 0 behind an activation function that cuts there.
        high: Largest n.
    """

    step: float
    low: int
    high: int


def fixed_point_of_range(low: float, high: float) -> FixedPoint:
    """The finest representation of a range in `_ACTIVATION_BITS` bits and a sign."""
    most = 2**_ACTIVATION_BITS - 1
    size = max(abs(low), abs(high), float(np.finfo(np.float32).tiny))
    step = float(2.0 ** np.ceil(np.log2(size / most)))
    return FixedPoint(step, int(np.floor(low / step)), int(np.ceil(high / step)))


def integer_input(given: QuantParams | FixedPoint) -> tuple[float, int]:
    """What one unit of a layer's integer input is worth, and its largest magnitude in units."""
    if isinstance(given, FixedPoint):
        return given.step, max(-given.low, given.high)
    return float(np.float32(given.scale)), max(given.zero_point, 255 - given.zero_point)


def fixed_point_weights(
    rows: Float64Array, bias: Float64Array, *, unit: float, largest: int, step: float = 1.0
) -> tuple[Float64Array, Float64Array]:
    """(O, K) weights and (O,) biases, each row on the finest grid with which no sum can leave 2^24.

    Args:
        rows: (O, K) real weights.
        bias: (O,) real biases.
        unit: What one unit of the input is worth.
        largest: Largest magnitude of the input, in units.
        step: What one unit of the output is worth.

    Returns:
        Both in units of the output, the weights per unit of the input; exact in float32.
    """
    rows, bias = rows * (unit / step), bias / step
    size = np.abs(rows).sum(axis=1) * largest + np.abs(bias)
    exponent = np.floor(np.log2(_EXACT / np.maximum(size, 2.0**-_FINEST_EXPONENT))).clip(None, _FINEST_EXPONENT)
    while True:
        grid = 2.0**exponent
        weights, biases = np.rint(rows * grid[:, None]), np.rint(bias * grid)
        # Every partial sum, in whatever order, is an integer of at most this size.
        over = np.abs(weights).sum(axis=1) * largest + np.abs(biases) > _EXACT
        if not over.any():
            return np.asarray(weights / grid[:, None]), np.asarray(biases / grid)
        exponent[over] -= 1


def choose_fixed_point_prefix(graph: FloatGraph, pixels: str, *, share: float = PREFIX_SHARE) -> tuple[str, ...]:
    """Names of the first layers that are cheap enough for fixed point.

    The prefix begins with the convolution that reads the pixels and goes on along a chain of convolutions.

    Args:
        graph: The prepared float graph.
        pixels: The value that the first layer reads.
        share: Share of the network's multiplications that the prefix has at most.

    Returns:
        None where sizes are not known, or the first convolution alone is more than that share.
    """
    counts = _multiplications(graph)
    names: list[str] = []
    value, used = pixels, 0
    while counts and len(names) < _MOST_LAYERS and (node := graph.only_reader(value)) is not None:
        layer = read_layer(graph, node)
        if layer is None or layer.kind != "Conv":
            break
        used += counts[node.output[0]]
        if used > share * sum(counts.values()):
            break
        names.append(layer.name)
        value = output_of(graph, node)
    return tuple(names)


def output_of(graph: FloatGraph, node: onnx.NodeProto) -> str:
    """The output of a layer behind the activation function that its int8 form absorbs."""
    following = graph.only_reader(node.output[0])
    return str((following if following is not None and cuts_at_zero(graph, following) else node).output[0])


def is_fixed_point_layer(layer: Layer | None) -> bool:
    """Whether a layer has a fixed-point form."""
    return layer is not None and layer.kind == "Conv"


def _multiplications(graph: FloatGraph) -> dict[str, int]:
    """Multiplications for one image of each layer, by its output; none where the size of one is not known."""
    shapes = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in infer_value_types(graph.model).items()}
    counts: dict[str, int] = {}
    for node in graph.nodes:
        layer = read_layer(graph, node)
        if layer is None:
            continue
        # (N, C, H, W): each place of the output meets all weights once.
        places = shapes.get(node.output[0], [])[2:] if layer.kind == "Conv" else []
        if layer.kind == "Conv" and (len(places) != 2 or min(places) <= 0):
            return {}
        counts[node.output[0]] = int(np.prod(places, dtype=np.int64)) * math.prod(layer.shape)
    return counts
