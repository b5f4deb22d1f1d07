"""Alignment of activation scales, by a fraction of a percent, so that no int8 kernel meets a near tie.

When the ratios that a kernel multiplies integers by are multiples of 1 / q with an odd q, every result is a multiple of
1 / q away from an integer, and so at least 1 / (2 q) away from a half: farther than kernels err, see `near_ties`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeclf.export.graph.float_graph import FloatGraph
from edgeclf.export.int8.determinism.near_ties import DENOMINATOR, KernelFacts, is_safe, kernel_facts
from edgeclf.export.int8.partition import QuantUnit
from edgeclf.export.int8.qdq_writer import constant_key
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.runtime.arrays import IntArray

# Denominators of the ratios of products, and of means.
_PRODUCT_DENOMINATORS = np.arange(1, 4096, 2)
_MEAN_DENOMINATORS = np.arange(1, 40000, 2)
# Denominators of the ratios of sums, and the largest ratio for each: kernels err by more where a ratio is large.
_SUM_DENOMINATORS = {DENOMINATOR: 4.0, 255: 8.0, 127: 16.0, 63: 32.0, 31: 64.0}
# Changes of a scale that are tried, and the largest one.
_CANDIDATES, _MOST_CHANGE = 48, 0.02
_STEP = 2.0**-12
_ROUNDS = 3


def align_scales(
    graph: FloatGraph, units: Iterable[QuantUnit], params: Mapping[str, QuantParams]
) -> dict[str, QuantParams]:
    """Aligns scales so that no unit meets a near tie, as far as scales are free.

    Residual adds first, in their order: each by one of its scales at a time, that of an input that no earlier add has fixed, else
    that of its output. Then the other units that can meet one, by their output's scale, a constant's, or an input's, where that makes no unit
    beside them unsafe. Values that share a scale because a unit only moves them are moved together.

    Args:
        graph: The float graph.
        units: The quantized units, in order of execution.
        params: Of every value in 8 bits, and of constants by `constant_key`.

    Returns:
        The parameters; for what is left see `units_with_ties`.
    """
    units = [unit for unit in units if unit.quantized]
    aligned = _align_residual_adds(units, params)
    facts = kernel_facts(graph, units)
    pixels = {unit.inputs[0] for unit in units[:1]}
    scales = _Scales(units, aligned, facts, fixed=pixels)
    for _ in range(_ROUNDS):
        unsafe = [unit for unit in units if not is_safe(unit, scales.params, facts)]
        settled = sum(scales.settle(unit) for unit in unsafe)
        if settled == 0 or settled == len(unsafe):
            break
    return scales.params


class _Scales:
    """Scales that are moved, with what depends on each.

    Args:
        units: The quantized units.
        params: Theirs.
        facts: Of their graph.
        fixed: Values whose scale must stay.
    """

    def __init__(
        self,
        units: Sequence[QuantUnit],
        params: dict[str, QuantParams],
        facts: KernelFacts,
        *,
        fixed: Iterable[str],
    ) -> None:
        self.params = params
        self._facts = facts
        self._tied = _tied_values(units)
        self._fixed = {tied for value in fixed for tied in self._tied.get(value, {value: 1.0})}
        self._beside: dict[str, list[QuantUnit]] = {}
        for unit in units:
            for value in {*unit.inputs, unit.output}:
                self._beside.setdefault(value, []).append(unit)

    def settle(self, unit: QuantUnit) -> bool:
        """Moves scales so that a unit is safe; whether that was possible."""
        for changes in _changes(unit, self.params, self._facts):
            moved = self._moved(changes)
            if moved is None:
                continue
            around = {id(other): other for value in moved for other in self._beside.get(value, [])}
            changed = {**self.params, **moved}
            if is_safe(unit, changed, self._facts) and all(
                is_safe(other, changed, self._facts) or not is_safe(other, self.params, self._facts)
                for other in around.values()
            ):
                self.params = changed
                return True
        return False

    def _moved(self, changes: Mapping[str, float]) -> dict[str, QuantParams] | None:
        """The parameters of values with new scales, and of those tied to them; None where one must stay."""
        moved: dict[str, QuantParams] = {}
        for value, scale in changes.items():
            if value in self._fixed or abs(scale / self.params[value].scale - 1) > _MOST_CHANGE:
                return None
            for tied, factor in self._tied.get(value, {value: 1.0}).items():
                new = float(np.float32(scale * factor / self._tied.get(value, {value: 1.0})[value]))
                moved[tied] = replace(self.params[tied], scale=new)
        return moved


def _changes(unit: QuantUnit, params: Mapping[str, QuantParams], facts: KernelFacts) -> Iterator[dict[str, float]]:
    """New scales with which a unit may be safe, the nearest first for each value that can be moved."""
    kind, output = unit.nodes[0].op_type, unit.output
    names = list(unit.nodes[0].input)
    constants = [name for name in names if name in facts.graph.constants]
    if kind == "Mul":
        keys = [constant_key(unit, name) if name in constants else name for name in names]
        whole = params[keys[0]].scale * params[keys[1]].scale
        ratios = _odd_ratios(whole / params[output].scale, _PRODUCT_DENOMINATORS)
        yield from ({output: whole / ratio} for ratio in ratios)
        for key in dict.fromkeys(keys) if keys[0] != keys[1] else ():
            # A constant's scale may only grow: it must hold its largest value.
            grows = key not in names
            scales = [params[key].scale * ratio * params[output].scale / whole for ratio in ratios]
            yield from ({key: scale} for scale in scales if not grows or scale >= params[key].scale)
    elif count := facts.pooled.get(unit.name, 0):
        whole = params[unit.inputs[0]].scale / count
        ratios = _odd_ratios(whole / params[output].scale, _MEAN_DENOMINATORS)
        yield from ({output: whole / ratio} for ratio in ratios)
        yield from ({unit.inputs[0]: ratio * params[output].scale * count} for ratio in ratios)
    elif kind == "Add" and len(constants) == 1 and len(unit.inputs) == 1:
        (value,), key = unit.inputs, constant_key(unit, constants[0])
        for denominator in _SUM_DENOMINATORS:
            exact = max(1, round(params[value].scale / params[output].scale * denominator)) / denominator
            for result, moved in (
                (params[value].scale / exact, {output: params[value].scale / exact}),
                (params[output].scale, {value: params[output].scale * exact}),
            ):
                steps = np.ceil(params[key].scale / result * denominator)
                yield {**moved, key: float(steps / denominator * result)}
    elif kind == "Sigmoid":
        for value in (output, unit.inputs[0]):
            yield from ({value: params[value].scale * (1 + step * _STEP)} for step in range(1, _CANDIDATES))


def _odd_ratios(ratio: float, denominators: IntArray) -> list[float]:
    """The ratios nearest to one that are fractions with an odd denominator."""
    numerators = np.maximum(1, np.rint(ratio * denominators))
    found = numerators / denominators
    nearest = np.argsort(np.abs(found / ratio - 1), kind="stable")[:_CANDIDATES]
    return [float(value) for value in found[nearest]]


def _tied_values(units: Iterable[QuantUnit]) -> dict[str, dict[str, float]]:
    """For each value that shares its codes with others, all of these with their scales as multiples of the first one's."""
    groups: dict[str, dict[str, float]] = {}
    for unit in units:
        if unit.moves or unit.factor is not None:
            source = unit.inputs[0]
            group = groups.setdefault(source, {source: 1.0})
            group[unit.output] = group[source] * (unit.factor or 1.0)
            groups[unit.output] = group
    return groups


def _align_residual_adds(units: Sequence[QuantUnit], params: Mapping[str, QuantParams]) -> dict[str, QuantParams]:
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
        largest = max(aligned[first].scale, aligned[second].scale) / aligned[output].scale
        denominator = next((most for most, limit in _SUM_DENOMINATORS.items() if largest <= limit), 0)
        for moved, by, is_input in order if denominator else ():
            if moved not in fixed:
                scale = _aligned_scale(aligned[moved].scale, aligned[by].scale, denominator, is_input=is_input)
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


def _is_add(unit: QuantUnit) -> bool:
    return unit.nodes[0].op_type == "Add" and len(unit.inputs) == 2


def _aligned_scale(own: float, other: float, denominator: int, *, is_input: bool) -> float:
    """The scale nearest to `own` whose ratio is a multiple of 1 / q: own / other for an input, other / own for the output."""
    ratio = own / other if is_input else other / own
    exact = max(1, round(ratio * denominator)) / denominator
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
