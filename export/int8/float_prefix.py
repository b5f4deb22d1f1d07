"""The first layers of a network, where 8 bits cost more than they save: how many of them stay in float.

The first convolution has three input channels, of which int8 kernels fill their registers badly, and its output is the
largest of all; the depthwise layers behind it are bound by memory, and their few weights a channel are rounded coarsely.
So these layers are timed in both forms, in the whole network, and stay in float as far as they are no slower so.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from edgeclf.export._onnx import onnx

MeasureLatency: TypeAlias = Callable[[Sequence[onnx.ModelProto]], Sequence[float]]
# Layers from the input on that are looked at, and their share of all at most.
_MOST_LAYERS, _MOST_SHARE = 6, 0.25
# Latencies this close cannot be told apart.
_SAME_LATENCY = 0.01
# What one more layer in float, and so a closer result, may cost of the time that the fastest entrance takes.
_CLOSENESS_COSTS = 0.02


def float_prefixes(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """The entrances that are worth timing: none, the first layer, the first two, ...

    Args:
        layers: Names of the quantized layers, in order of execution.
    """
    most = min(_MOST_LAYERS, int(_MOST_SHARE * len(layers)))
    return [tuple(layers[:count]) for count in range(most + 1)]


def choose_float_prefix(
    entrances: Sequence[tuple[str, ...]], models: Sequence[onnx.ModelProto], measure_latency: MeasureLatency
) -> tuple[str, ...]:
    """The entrance with the most layers in float, which is the closest, among those that are no slower than none.

    Args:
        entrances: Names of the layers in float, for each model; none for the first.
        models: The network with each entrance; only their latencies matter, not what they were calibrated on.
        measure_latency: Gives each model's latency in any unit, measured side by side.
    """
    if len(entrances) < 2:
        return ()
    latencies = measure_latency(models)
    longest = min(latencies[0] * (1 + _SAME_LATENCY), min(latencies) * (1 + _CLOSENESS_COSTS))
    within = [entrance for entrance, latency in zip(entrances, latencies, strict=True) if latency <= longest]
    return max(within, key=len)
