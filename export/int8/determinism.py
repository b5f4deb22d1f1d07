"""The same int8 results on every CPU: no residual add with rounding ties, no 16-bit sum that saturates.

The int8 kernel of an add computes a * (scale_a / scale_c) + b * (scale_b / scale_c) + a constant in float32 and rounds to
the nearest code: on ARM with fused multiply-adds, on x86 without, and ties not everywhere to the same side. So a sum
at a tie, or within a rounding error of one, may differ by a code, and one code grows through the layers that
follow. When both ratios are multiples of 1 / q with an odd q, every sum of codes is a multiple of 1 / q away from an
integer, and so at least 1 / (2 q) away from a tie: far more than float32 can err.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, attributes_of, read_graph
from edgeclf.export.int8.partition import QuantUnit
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.weights import PAIR_BOUND, largest_pair

# 1 / (2 * 1023) is 4.9e-4; with ratios up to 4, values stay below 2^11, and a handful of operations err by 1.5e-4 at most.
_DENOMINATOR = 1023
_LARGEST_RATIO = 4.0
# By how much a ratio, rounded to float32 with its scales, may miss its multiple of 1 / q.
_TOLERANCE = 4e-7


def align_residual_adds(units: Iterable[QuantUnit], params: Mapping[str, QuantParams]) -> dict[str, QuantParams]:
    """Aligns the scales of residual adds, by a fraction of a percent, so that no representable sum is a rounding tie.

    Each add is aligned by moving one of its scales at a time: that of an input that no earlier add has fixed, else that
    of its output. Values that share a scale because a unit only moves them are moved together.

    Args:
        units: The quantized units, in order of execution.
        params: Of every value in 8 bits.

    Returns:
        The parameters. Adds whose scales were all fixed by others before stay as they were, see `adds_with_ties`.
    """
    units = [unit for unit in units if unit.quantized]
    aligned = dict(params)
    groups = _values_by_scale(units)
    # Scales that an add was aligned with stay.
    fixed = _fixed_values(units, groups)
    for unit in units:
        if not _is_add(unit):
            continue
        first, second = unit.inputs
        output = unit.output
        if (first in fixed) != (second in fixed):
            # The output follows the fixed input, the free input follows the output.
            bound, free = (first, second) if first in fixed else (second, first)
            order = [(output, bound, False), (free, output, True)]
        else:
            order = [(first, output, True), (second, output, True)]
        for moved, by, is_input in order:
            if moved not in fixed:
                scale = _aligned_scale(aligned[moved].scale, aligned[by].scale, is_input=is_input)
                for value in groups.get(moved, {moved}):
                    aligned[value] = replace(aligned[value], scale=scale)
        for value in (first, second, output):
            fixed.update(groups.get(value, {value}))
    return aligned


def _fixed_values(units: Sequence[QuantUnit], groups: Mapping[str, set[str]]) -> set[str]:
    """Values whose scales must stay: the one that represents pixels exactly, and pairs that a constant factor sets apart."""
    fixed = {unit.inputs[0] for unit in units[:1]}
    for unit in units:
        if unit.factor is not None:
            for value in (unit.inputs[0], unit.output):
                fixed.update(groups.get(value, {value}))
    return fixed


def adds_with_ties(units: Iterable[QuantUnit], params: Mapping[str, QuantParams]) -> tuple[str, ...]:
    """Names of the quantized residual adds that can meet a rounding tie, and so differ by a code between CPUs."""
    return tuple(
        unit.name
        for unit in units
        if _is_add(unit) and not never_ties(*(params[value].scale for value in (*unit.inputs, unit.output)))
    )


def _is_add(unit: QuantUnit) -> bool:
    return unit.quantized and unit.nodes[0].op_type == "Add" and len(unit.inputs) == 2


def never_ties(scale_a: float, scale_b: float, scale_c: float) -> bool:
    """Whether no sum of two codes with these scales is a rounding tie, or near one, between two codes of the result."""
    for scale in (scale_a, scale_b):
        ratio = scale / scale_c
        nearest = round(ratio * _DENOMINATOR) / _DENOMINATOR
        if ratio > _LARGEST_RATIO or nearest == 0 or abs(ratio / nearest - 1) > _TOLERANCE:
            return False
    return True


def _aligned_scale(own: float, other: float, *, is_input: bool) -> float:
    """The scale nearest to `own` whose ratio is a multiple of 1 / q: own / other for an input, other / own for the output."""
    ratio = own / other if is_input else other / own
    exact = max(1, round(min(ratio, _LARGEST_RATIO) * _DENOMINATOR)) / _DENOMINATOR
    return float(np.float32(exact * other if is_input else other / exact))


def _values_by_scale(units: Iterable[QuantUnit]) -> dict[str, set[str]]:
    """For each value, the set of values that have its scale: the inputs and outputs of units that only move values."""
    groups: dict[str, set[str]] = {}
    for unit in units:
        if unit.moves:
            group = groups.setdefault(unit.inputs[0], {unit.inputs[0]})
            group.add(unit.output)
            groups[unit.output] = group
    return groups


@dataclass(frozen=True)
class SaturationProof:
    """Whether the weights of a QDQ file can saturate 16-bit sums.

    Attributes:
        layers: Layers whose kernels add neighbouring products in 16 bits.
        depthwise_layers: Those whose kernels do not.
        largest_pair: The largest sum of two neighbouring weights' magnitudes of one sign, over the former.
        bound: What it must not exceed: 255 * 128 + 255 * 0 fits into 16 bits with sign, 255 * 129 does not.
        violating: Names of the layers' weights that exceed it.
    """

    layers: int
    depthwise_layers: int
    largest_pair: int
    bound: int
    violating: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether no layer exceeds the bound."""
        return not self.violating

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {**asdict(self), "violating": list(self.violating), "holds": self.holds}


def prove_no_saturation(model: onnx.ModelProto) -> SaturationProof:
    """Checks the pair constraint on the 8-bit weights of every layer, as they stand in a QDQ model.

    Weights are put into the order in which the kernels reduce: kernel height, kernel width, input channels innermost;
    of a dense layer, its inputs.

    Args:
        model: A model in QDQ format with uint8 activations and int8 weights.
    """
    graph = read_graph(model)
    layers = depthwise = 0
    largest = 0
    violating = []
    for node in graph.nodes:
        found = _weight_codes(graph, node)
        if found is None:
            continue
        name, rows, is_depthwise = found
        if is_depthwise:
            depthwise += 1
            continue
        layers += 1
        pair = largest_pair(rows)
        largest = max(largest, pair)
        if pair > PAIR_BOUND:
            violating.append(name)
    return SaturationProof(layers, depthwise, largest, PAIR_BOUND, tuple(violating))


def _weight_codes(graph: FloatGraph, node: onnx.NodeProto) -> tuple[str, Any, bool] | None:
    """Name, (O, K) codes in the kernels' order, and whether the layer is depthwise; None for another node."""
    if node.op_type not in {"Conv", "Gemm", "MatMul"}:
        return None
    dequantize = graph.producers.get(node.input[1])
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    codes = graph.constants.get(dequantize.input[0])
    if codes is None or codes.dtype != np.int8:
        return None
    options = attributes_of(node)
    if node.op_type == "Conv":
        groups = int(options.get("group", 1))
        # (O, I, kh, kw) to (O, kh, kw, I).
        rows = codes.transpose(0, 2, 3, 1).reshape(len(codes), -1)
        return dequantize.input[0], rows, codes.shape[1] == 1 and groups == len(codes)
    return dequantize.input[0], codes if options.get("transB", 0) else codes.T, False
