"""The float prefix: the first layers of a network that stay in float where 8 bits make them no faster.

The first convolution has three input channels, of which int8 kernels fill their registers badly, and its output is the
largest of all; the depthwise layers behind it are bound by memory, and their few weights a channel are rounded coarsely.
So these layers are timed in both forms, in the whole network, and stay in float as far as they are no slower so.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from edgeclf.export._onnx import onnx

MeasureLatency: TypeAlias = Callable[[Sequence[onnx.ModelProto]], Sequence[float]]
# The longest prefix that is timed: in layers, and as a share of all.
_MOST_LAYERS, _MOST_SHARE = 6, 0.25
# Relative difference of latencies below which they count as equal.
_SAME_LATENCY = 0.01
# Slow-down, relative to the fastest prefix, accepted for keeping one more layer in float.
_ACCEPTED_SLOWDOWN = 0.02


def float_prefixes(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """The candidates for the float prefix: no layer, the first, the first two, ...

    Args:
        layers: Names of the quantized layers, in order of execution.
    """
    most = min(_MOST_LAYERS, int(_MOST_SHARE * len(layers)))
    return [tuple(layers[:count]) for count in range(most + 1)]


def choose_float_prefix(
    prefixes: Sequence[tuple[str, ...]], models: Sequence[onnx.ModelProto], measure_latency: MeasureLatency
) -> tuple[str, ...]:
    """Chooses the longest float prefix that is no slower than none; its results are the closest to the float network's.

    Args:
        prefixes: Names of the layers in float, for each model; none for the first.
        models: The network with each prefix; only their latencies matter, not what they were calibrated on.
        measure_latency: Gives each model's latency in any unit, measured side by side.
    """
    if len(prefixes) < 2:
        return ()
    latencies = measure_latency(models)
    longest = min(latencies[0] * (1 + _SAME_LATENCY), min(latencies) * (1 + _ACCEPTED_SLOWDOWN))
    within = [prefix for prefix, latency in zip(prefixes, latencies, strict=True) if latency <= longest]
    return max(within, key=len)
