"""Residual sums that come out the same on every CPU: scales with which no sum lies halfway between two codes.

The int8 kernel of a sum computes a * (scale_a / scale_c) + b * (scale_b / scale_c) + a constant in float32 and rounds to
the nearest code: on ARM with fused multiply-adds, on x86 without, and halves not everywhere to the same side. So a sum
that lies halfway, or within a rounding error of it, may differ by a code, and one code grows through the layers that
follow. When both ratios are multiples of 1 / q with an odd q, every sum of codes is a multiple of 1 / q away from an
integer, and so at least 1 / (2 q) away from a half: far more than float32 can err.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeclf.export.int8.partition import Step
from edgeclf.export.int8.ranges import QuantParams

# 1 / (2 * 1023) is 4.9e-4; with ratios up to 4, values stay below 2^11, and a handful of operations err by 1.5e-4 at most.
_DENOMINATOR = 1023
_LARGEST_RATIO = 4.0
# By how much a ratio, rounded to float32 with its scales, may miss its multiple of 1 / q.
_TOLERANCE = 4e-7


def align_sums(steps: Iterable[Step], params: Mapping[str, QuantParams]) -> dict[str, QuantParams]:
    """Moves scales by a fraction of a percent so that no sum of codes lies halfway.

    Each sum is settled by moving one scale of its own at a time: that of an input that nobody has tied yet, else that
    of its output. Values that share a scale because a step only moves them are tied together.

    Args:
        steps: The quantized steps, in order of execution.
        params: Of every value in 8 bits.

    Returns:
        The parameters. Sums whose scales were all tied by others before stay as they were, see `unsettled_sums`.
    """
    steps = [step for step in steps if step.quantized]
    aligned = dict(params)
    groups = _shared_scales(steps)
    # Whatever a sum has used stays.
    tied = _tied_by_others(steps, groups)
    for step in steps:
        if not _is_sum(step):
            continue
        first, second = step.inputs
        output = step.output
        if (first in tied) != (second in tied):
            # The output follows the tied input, the free input follows the output.
            fixed, free = (first, second) if first in tied else (second, first)
            order = [(output, fixed, False), (free, output, True)]
        else:
            order = [(first, output, True), (second, output, True)]
        for moved, by, is_input in order:
            if moved not in tied:
                scale = _moved_scale(aligned[moved].scale, aligned[by].scale, is_input=is_input)
                for value in groups.get(moved, {moved}):
                    aligned[value] = replace(aligned[value], scale=scale)
        for value in (first, second, output):
            tied.update(groups.get(value, {value}))
    return aligned


def _tied_by_others(steps: Sequence[Step], groups: Mapping[str, set[str]]) -> set[str]:
    """Values whose scales mean something: the stem's makes pixels exact, and a factor says how far apart two are."""
    tied = {step.inputs[0] for step in steps[:1]}
    for step in steps:
        if step.factor is not None:
            for value in (step.inputs[0], step.output):
                tied.update(groups.get(value, {value}))
    return tied


def unsettled_sums(steps: Iterable[Step], params: Mapping[str, QuantParams]) -> tuple[str, ...]:
    """Names of the quantized sums that may differ by a code between CPUs."""
    return tuple(
        step.name
        for step in steps
        if _is_sum(step) and not never_halfway(*(params[value].scale for value in (*step.inputs, step.output)))
    )


def _is_sum(step: Step) -> bool:
    return step.quantized and step.nodes[0].op_type == "Add" and len(step.inputs) == 2


def never_halfway(scale_a: float, scale_b: float, scale_c: float) -> bool:
    """Whether no sum of two codes with these scales comes near the middle between two codes of the result."""
    for scale in (scale_a, scale_b):
        ratio = scale / scale_c
        nearest = round(ratio * _DENOMINATOR) / _DENOMINATOR
        if ratio > _LARGEST_RATIO or nearest == 0 or abs(ratio / nearest - 1) > _TOLERANCE:
            return False
    return True


def _moved_scale(own: float, other: float, *, is_input: bool) -> float:
    """The scale nearest to `own` with such a ratio: own / other for an input of the sum, other / own for its output."""
    ratio = own / other if is_input else other / own
    exact = max(1, round(min(ratio, _LARGEST_RATIO) * _DENOMINATOR)) / _DENOMINATOR
    return float(np.float32(exact * other if is_input else other / exact))


def _shared_scales(steps: Iterable[Step]) -> dict[str, set[str]]:
    """The values that have one scale, by each of them: what a moving step reads and gives."""
    groups: dict[str, set[str]] = {}
    for step in steps:
        if step.moves:
            group = groups.setdefault(step.inputs[0], {step.inputs[0]})
            group.add(step.output)
            groups[step.output] = group
    return groups
