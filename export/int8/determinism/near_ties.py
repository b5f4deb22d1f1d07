"""Near ties: results of an int8 kernel so close to a half that two CPUs may round them to different codes.

What ONNX Runtime's kernels compute, by operator, from their published source:

- Convolutions and dense layers add integers, multiply the sum by one float32 number and round to even: the same
  everywhere. Concat and LeakyRelu multiply and divide once for each of the 256 codes; AveragePool adds float32 numbers in
  one order. All of this IEEE 754 lays down to the last bit.
- Add: float32 on x86; on ARM integers times ratios of 22 bits, whose halves are rounded away from zero.
- Mul: a product of integers times a float32 ratio, plus the zero point, on ARM with one rounding less.
- GlobalAveragePool: a sum of integers times a float32 ratio, rounded to float32 on x86 and not on ARM.
- Sigmoid: a table of the 256 codes, by approximations that differ between CPUs in their last bits.

The last four round alike where no result lies nearer to a half than their kernels err.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, attributes_of, infer_value_types
from edgeclf.export.int8.partition import QuantUnit
from edgeclf.export.int8.qdq_writer import constant_codes, constant_key
from edgeclf.export.int8.ranges import LEVELS, QuantParams
from edgeclf.runtime.arrays import BoolArray, Float64Array

# Half a unit in the last place of float32, as a share.
_ROUNDING = 2.0**-24
# The largest error of ONNX Runtime's approximations of the logistic function, and of what they leave out.
_LOGISTIC_ERROR = 5e-7
# 1 / (2 * 1023) is 4.9e-4; with ratios up to 4, values stay below 2^11: float32 errs by less than 3e-4 in all, integers by
# 2.5e-4.
DENOMINATOR = 1023
_LARGEST_RATIO = 4.0
# By how much a ratio, rounded to float32 with its scales, may miss its multiple of 1 / q.
_TOLERANCE = 4e-7
# What ONNX Runtime computes by the global kernel beside GlobalAveragePool: an AveragePool over the whole image.
_POOLING = frozenset({"GlobalAveragePool", "AveragePool"})


@dataclass(frozen=True)
class KernelFacts:
    """What the kernels' errors depend on beside scales and zero points.

    Attributes:
        graph: The float graph.
        pooled: Values that one result of a global average is of, by the name of the unit; 0 where that is not known.
    """

    graph: FloatGraph
    pooled: Mapping[str, int]


def kernel_facts(graph: FloatGraph, units: Sequence[QuantUnit]) -> KernelFacts:
    """Reads a graph's sizes."""
    kinds = infer_value_types(graph.model) if any(unit.nodes[0].op_type in _POOLING for unit in units) else {}
    pooled = {}
    for unit in units:
        if unit.nodes[0].op_type in _POOLING:
            kind = kinds.get(unit.inputs[0])
            size = [] if kind is None else [dim.dim_value for dim in kind.shape.dim][2:]
            if unit.nodes[0].op_type == "GlobalAveragePool" or _covers_all(unit.nodes[0], size):
                pooled[unit.name] = math.prod(size) if size else 0
    return KernelFacts(graph, pooled)


def _covers_all(node: onnx.NodeProto, size: Sequence[int]) -> bool:
    options = attributes_of(node)
    return list(options["kernel_shape"]) == list(size) and not any(options.get("pads", ()))


def units_with_ties(
    graph: FloatGraph, units: Sequence[QuantUnit], params: Mapping[str, QuantParams]
) -> tuple[QuantUnit, ...]:
    """The quantized units that can meet a near tie, and so may differ by a code between CPUs."""
    facts = kernel_facts(graph, units)
    return tuple(unit for unit in units if unit.quantized and not is_safe(unit, params, facts))


def is_safe(unit: QuantUnit, params: Mapping[str, QuantParams], facts: KernelFacts) -> bool:
    """Whether every CPU rounds all results of a quantized unit alike.

    Args:
        unit: The unit.
        params: Of all values in 8 bits, and of constants by `constant_key`.
        facts: Of its graph.
    """
    kind = unit.nodes[0].op_type
    if unit.factor is not None:
        return True
    if kind == "Sigmoid":
        return _safe_sigmoid(params[unit.inputs[0]], params[unit.output])
    if unit.name in facts.pooled:
        return _safe_mean(params[unit.inputs[0]], params[unit.output], facts.pooled[unit.name])
    if kind not in {"Add", "Mul"}:
        return True
    operands = [_operand(unit, name, params, facts.graph) for name in unit.nodes[0].input]
    (first, codes_first), (second, codes_second) = operands
    target = params[unit.output]
    if kind == "Mul":
        return _safe_product(first, second, target, codes_first, codes_second)
    return _never_ties(first.scale, second.scale, target.scale) or _safe_sum(
        first, second, target, codes_first, codes_second
    )


def _operand(
    unit: QuantUnit, name: str, params: Mapping[str, QuantParams], graph: FloatGraph
) -> tuple[QuantParams, tuple[int, ...]]:
    """Scale, zero point and possible codes of an operand."""
    if name not in graph.constants:
        return params[name], tuple(range(LEVELS))
    own = params[constant_key(unit, name)]
    return own, tuple(np.unique(constant_codes(graph.constants[name], own)).tolist())


def _never_ties(scale_a: float, scale_b: float, scale_c: float) -> bool:
    """Whether both ratios are multiples of 1 / q: then every sum of codes is at least 1 / (2 q) away from a tie."""
    for scale in (scale_a, scale_b):
        ratio = scale / scale_c
        nearest = round(ratio * DENOMINATOR) / DENOMINATOR
        if ratio > _LARGEST_RATIO or nearest == 0 or abs(ratio / nearest - 1) > _TOLERANCE:
            return False
    return True


def _half_distance(values: Float64Array) -> Float64Array:
    """How far values lie from the nearest half."""
    return np.asarray(np.abs(values - np.floor(values) - 0.5))


def _is_rounded(values: Float64Array, zero_point: int) -> BoolArray:
    """Whether values lie between the ends of the codes, where a half decides: beyond, they are cut off."""
    return np.asarray((values > -zero_point - 0.75) & (values < LEVELS - 1 - zero_point + 0.75))


@lru_cache(maxsize=4096)
def _safe_sum(
    a: QuantParams, b: QuantParams, c: QuantParams, codes_a: tuple[int, ...], codes_b: tuple[int, ...]
) -> bool:
    first = (np.array(codes_a, np.float64) - a.zero_point)[:, None]
    second = (np.array(codes_b, np.float64) - b.zero_point)[None, :]
    ratio_a, ratio_b = a.scale / c.scale, b.scale / c.scale
    # Both as whole numbers of 2^-shift, the larger one of 22 bits.
    shift = 21 - math.floor(math.log2(max(ratio_a, ratio_b)))
    values = first * ratio_a + second * ratio_b
    integers = (np.abs(first) + np.abs(second)) * 2.0 ** -(shift + 1)
    # Codes times ratios before the zero points are taken away: a product each, two sums, and the ratios themselves.
    floats = 6 * _ROUNDING * (LEVELS * (ratio_a + ratio_b) + LEVELS)
    near = _half_distance(values) <= np.maximum(integers, floats)
    return not bool((near & _is_rounded(values, c.zero_point)).any())


@lru_cache(maxsize=4096)
def _safe_product(
    a: QuantParams, b: QuantParams, c: QuantParams, codes_a: tuple[int, ...], codes_b: tuple[int, ...]
) -> bool:
    first, second = (np.array(codes, np.int64) for codes in (codes_a, codes_b))
    ends = np.multiply.outer(first[[0, -1]] - a.zero_point, second[[0, -1]] - b.zero_point)
    ratio = np.float64(np.float32(np.float32(a.scale) * np.float32(b.scale)) / np.float32(c.scale))
    # The product and the ratio are rounded, and the sum with the zero point, in which codes beyond 255 have no part.
    error = 4 * _ROUNDING * 2 * LEVELS
    return _safe_multiples(ratio, int(ends.min()), int(ends.max()), c.zero_point, error)


@lru_cache(maxsize=4096)
def _safe_mean(a: QuantParams, c: QuantParams, count: int) -> bool:
    if count == 0:
        return False
    ratio = np.float64(np.float32(a.scale) / np.float32(np.float32(c.scale) * np.float32(count)))
    low, high = -count * a.zero_point, count * (LEVELS - 1 - a.zero_point)
    return _safe_multiples(ratio, low, high, c.zero_point)


def _safe_multiples(ratio: float, low: int, high: int, zero_point: int, error: float = 0.0) -> bool:
    """Whether no multiple of a ratio by an integer in low..high is a near tie: for each half, the nearest multiple is.

    Near is what the product's rounding to float32 may move it by, and `error` beside.
    """
    halves = np.arange(LEVELS - 1) - zero_point + 0.5
    nearest = np.rint(halves / ratio).clip(low, high)
    rounding = np.spacing(np.abs(halves).astype(np.float32)) / 2
    return bool((np.abs(nearest * ratio - halves) > rounding + error).all())


@lru_cache(maxsize=4096)
def _safe_sigmoid(a: QuantParams, c: QuantParams) -> bool:
    values = 1 / (1 + np.exp(-(np.arange(LEVELS) - a.zero_point) * a.scale)) / c.scale
    near = _half_distance(values) <= _LOGISTIC_ERROR / c.scale
    return not bool((near & _is_rounded(values, c.zero_point)).any())
