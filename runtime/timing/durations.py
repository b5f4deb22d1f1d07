"""Percentiles of durations, left out where there are too few samples for them."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.errors import InputError

_PERCENTS = (50, 90, 95, 99)


@dataclass(frozen=True)
class Distribution:
    """Distribution of the durations of many repetitions, in milliseconds.

    A percentile is the nearest-rank one, a duration that was really measured; it is None where fewer samples than
    1 / (1 - p) were taken (10 for p90, 20 for p95, 100 for p99), because then it would only repeat the maximum.

    Attributes:
        samples: Number of repetitions.
        mean_ms: Mean.
        min_ms: Shortest.
        max_ms: Longest.
        p50_ms: Median.
        p90_ms: 90th percentile.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
    """

    samples: int
    mean_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


def distribution(durations_ms: npt.ArrayLike) -> Distribution:
    """The distribution of durations.

    Args:
        durations_ms: (N,) durations in milliseconds, N >= 1.

    Raises:
        InputError: There are none, or one is not finite.
    """
    values = np.sort(np.asarray(durations_ms, np.float64).ravel())
    if values.size == 0 or not np.isfinite(values).all():
        raise InputError("cannot summarise durations", got=f"{values.size} values", expected="one or more finite ones")

    p50, p90, p95, p99 = (_nearest_rank(values, percent) for percent in _PERCENTS)
    return Distribution(
        samples=values.size,
        mean_ms=float(values.mean()),
        min_ms=float(values[0]),
        max_ms=float(values[-1]),
        p50_ms=p50,
        p90_ms=p90 if values.size >= 10 else None,
        p95_ms=p95 if values.size >= 20 else None,
        p99_ms=p99 if values.size >= 100 else None,
    )


def _nearest_rank(ordered: Float64Array, percent: int) -> float:
    return float(ordered[math.ceil(percent * ordered.size / 100) - 1])
