"""Activation ranges: scale and zero point of an 8-bit tensor, min-max or by mean squared error (MSE)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from edgeclf.runtime.arrays import FloatArray, IntArray

LEVELS = 256
RangeMethod: TypeAlias = Literal["error", "extremes"]
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)
_BINS = 2048
# Shares of the extreme on either side that are tried as the end of the range.
_SHARES = np.geomspace(0.2, 1.0, 32)


@dataclass(frozen=True)
class QuantParams:
    """An affine uint8 quantization: value = scale * (code - zero_point), codes 0..255.

    Attributes:
        scale: Positive, exactly representable in float32.
        zero_point: 0..255.
    """

    scale: float
    zero_point: int

    def to_json(self) -> dict[str, float]:
        """JSON values for a spec."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "QuantParams":
        """Reads JSON values that `to_json` wrote.

        Raises:
            ValueError: They are no scale and zero point; also KeyError, TypeError.
        """
        scale, zero_point = float(document["scale"]), int(document["zero_point"])
        if not (0 < scale < math.inf and 0 <= zero_point < LEVELS):
            raise ValueError(f"scale {scale!r}, zero point {zero_point}")
        return cls(scale, zero_point)

    @property
    def low(self) -> float:
        """The smallest value it can represent."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The largest value it can represent."""
        return (LEVELS - 1 - self.zero_point) * self.scale


def params_of_range(low: float, high: float) -> QuantParams:
    """Min-max parameters of a range; zero is always represented exactly, as padding needs it.

    Args:
        low: Smallest value; raised to 0 where it is above.
        high: Largest value; likewise lowered.

    Raises:
        ValueError: An end is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"a range must be finite, got {low}..{high}")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / (LEVELS - 1)))
    # A tensor that is always zero, or nearly: any scale represents it.
    if scale < np.finfo(np.float32).tiny:
        return QuantParams(1.0, 0)
    zero_point = int(np.clip(np.rint(-low / scale), 0, LEVELS - 1))
    return QuantParams(scale, zero_point)


class ValueHistogram:
    """A histogram of a tensor's values between its minimum and maximum.

    Zeros, and values at the maximum, are left out of its bins: behind a ReLU or a ReLU6 they are a large part of all, and
    have a code of their own, so that no rounding is charged for them.

    Args:
        low: Minimum of the tensor.
        high: Its maximum.

    Attributes:
        counts: (bins,) int64, of values that are neither zero nor the maximum.
        at_high: How many values are the maximum.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.counts = np.zeros(_BINS, np.int64)
        self.at_high = 0

    def add(self, values: FloatArray) -> None:
        """Counts values, of any shape."""
        values = values.ravel().astype(np.float32, copy=False)
        zeros = values.size - int(np.count_nonzero(values))
        at_high = int(np.count_nonzero(values == np.float32(self.high))) if self.high > 0 else 0
        self.counts += np.bincount(self._bins_of(values), minlength=_BINS)
        self.counts[self._bins_of(np.zeros(1, np.float32))] -= zeros
        self.counts[-1] -= at_high
        self.at_high += at_high

    def _bins_of(self, values: FloatArray) -> IntArray:
        width = (self.high - self.low) or 1.0
        index = ((values - np.float32(self.low)) * np.float32(_BINS / width)).astype(np.int32)
        return np.clip(index, 0, _BINS - 1)

    def params(self, method: RangeMethod) -> QuantParams:
        """Chooses scale and zero point.

        Args:
            method: `extremes` is the min-max range; `error` the MSE range: least mean squared error of rounding inside it
                and of clipping outside.
        """
        whole = params_of_range(self.low, self.high)
        if method == "extremes" or self.counts.sum() == 0:
            return whole
        centres = self.low + (np.arange(_BINS) + 0.5) * (self.high - self.low) / _BINS
        lows = self.low * _SHARES if self.low < 0 else np.zeros(1)
        highs = self.high * _SHARES if self.high > 0 else np.zeros(1)
        pairs = np.array([(low, high) for low in lows for high in highs])
        scale = np.maximum((pairs[:, 1] - pairs[:, 0]) / (LEVELS - 1), np.finfo(np.float32).tiny)
        zero = np.clip(np.rint(-pairs[:, 0] / scale), 0, LEVELS - 1)
        # (pairs, bins): what is lost by clipping to the ends; within them, that of uniform rounding, scale^2 / 12.
        least, most = (-zero * scale)[:, None], ((LEVELS - 1 - zero) * scale)[:, None]
        clipped = np.maximum(centres - most, 0) + np.maximum(least - centres, 0)
        error = (np.square(clipped) + np.where(clipped > 0, 0.0, np.square(scale)[:, None] / 12)) @ self.counts
        error += np.square(np.maximum(self.high - most[:, 0], 0)) * self.at_high
        low, high = pairs[int(error.argmin())]
        return params_of_range(float(low), float(high))
