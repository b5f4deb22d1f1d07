"""Whether an int8 file gives the same results on every CPU, in a sentence."""

from collections import Counter
from collections.abc import Sequence

from edgeclf.export.int8.partition import MOVING_OPS
from edgeclf.export.targets import Target

# Float operators that choose among values, or bring them elsewhere, and round nothing.
_CHOOSING_OPS = MOVING_OPS | {
    "Clip",
    "Concat",
    "Expand",
    "Identity",
    "Max",
    "Min",
    "Neg",
    "Pad",
    "Relu",
    "Slice",
    "Split",
}


def what_binds(target: Target, left_in_float: Sequence[tuple[str, str]], ties: Sequence[tuple[str, str]]) -> str:
    """Why a file may give other results on another CPU; empty where it gives the same on all.

    Args:
        target: The CPUs it is made for.
        left_in_float: Names and operators of what is in float ahead of a layer.
        ties: Names and operators of quantized units that can meet a near tie.
    """
    if target != "any":
        return f"made for {target} alone"
    rounding = [(name, kind) for name, kind in left_in_float if kind not in _CHOOSING_OPS]
    if rounding:
        return f"{_some(rounding)} in float, whose sums differ in their last bits between kinds of CPUs"
    return f"{_some(ties)} can meet a rounding tie, which CPUs round differently" if ties else ""


def _some(units: Sequence[tuple[str, str]], most: int = 3) -> str:
    """How many units of which operators, and the names of the first ones."""
    counts = Counter(kind for _, kind in units)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    names = ", ".join(name for name, _ in units[:most])
    return f"{kinds} ({names}{', ...' if len(units) > most else ''})"
