"""The float prefix: the first layers of a network that stay in float where 8 bits make them no faster.

The first convolution has three input channels, of which int8 kernels fill their registers badly, and its output is the
largest of all; the depthwise layers behind it are bound by memory, and their few weights a channel are rounded coarsely.
So these layers are timed in both forms, in the whole network, and stay in float as far as they are no slower so.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from edgeclf.export._onnx import onnx
from edgeclf.runtime.timing.comparison import Ratio

MeasureLatency: TypeAlias = Callable[[Sequence[onnx.ModelProto]], Sequence[Ratio]]
# The longest prefix that is timed: in layers, and as a share of all.
_MOST_LAYERS, _MOST_SHARE = 6, 0.25
# The longest that is tried where no recipe passes.
_MOST_SHARE_TRIED = 0.5
# Slow-down accepted for keeping one more layer in float, as a part of the latency without a prefix.
_ACCEPTED_SLOWDOWN = 0.02


def float_prefixes(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """The candidates for the float prefix: no layer, the first, the first two, ...

    Args:
        layers: Names of the quantized layers, in order of execution.
    """
    most = min(_MOST_LAYERS, int(_MOST_SHARE * len(layers)))
    return [tuple(layers[:count]) for count in range(most + 1)]


def longer_float_prefixes(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """The prefixes that are tried where no recipe passes, each twice as long: closer to float, and slower.

    Args:
        layers: Names of the quantized layers, in order of execution.
    """
    most, count = int(_MOST_SHARE_TRIED * len(layers)), len(float_prefixes(layers)[-1])
    lengths = [count * factor for factor in (1, 2, 4) if 0 < count * factor <= most]
    return [tuple(layers[:length]) for length in lengths]


def choose_float_prefix(prefixes: Sequence[tuple[str, ...]], ratios: Sequence[Ratio]) -> tuple[str, ...]:
    """Chooses the longest float prefix that is proven to be no slower than none; its results are the closest to float.

    What noise leaves open is not chosen: without a prefix the first layers are in fixed point.

    Args:
        prefixes: Names of the layers in float; none for the first.
        ratios: Latency of the network with each prefix, as a ratio to that with none.
    """
    fastest = min(ratio.high for ratio in ratios)
    within = [
        prefix
        for prefix, ratio in zip(prefixes[1:], ratios[1:], strict=True)
        if ratio.high <= 1 + _ACCEPTED_SLOWDOWN and ratio.low <= fastest + _ACCEPTED_SLOWDOWN
    ]
    return max(within, key=len, default=())
