"""Temporal smoothing: an exponential mean of probabilities, and a label with hysteresis.

Pure functions on a state that is passed along; frames may come at any rate, regular or not.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.spec import UNKNOWN_LABEL

# The index of a label that is no class: the model's confidence is below its threshold.
UNKNOWN_INDEX = -1


@dataclass(frozen=True)
class Smoothing:
    """Conditions for a change of the label.

    Attributes:
        time_constant_s: Time constant of the mean in seconds: the weight of a frame falls to 1/e; 0 for no averaging.
        margin: Lead in probability that another label needs over the present one, 0..1.
        hold_s: Seconds for which it must keep that lead without a break.

    Raises:
        UsageError: A number is negative or not finite, or the margin is 1 or more.
    """

    time_constant_s: float = 0.0
    margin: float = 0.0
    hold_s: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.time_constant_s, self.margin, self.hold_s)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or self.margin >= 1:
            raise UsageError(
                "bad smoothing",
                got=f"time constant {self.time_constant_s:g} s, margin {self.margin:g}, hold {self.hold_s:g} s",
                expected="seconds from 0 on, and a margin from 0 to below 1",
            )

    @property
    def is_off(self) -> bool:
        """Whether nothing is smoothed: each frame's own label stands."""
        return not (self.time_constant_s or self.margin or self.hold_s)

    def to_json(self) -> dict[str, float]:
        """The conditions as plain JSON values."""
        return {"time_constant_s": self.time_constant_s, "margin": self.margin, "hold_s": self.hold_s}


@dataclass(frozen=True, eq=False)
class LabelState:
    """State of the smoothing between two frames.

    Attributes:
        mean: (C,) float64, the probabilities averaged over time.
        at_s: Time of the last frame, in seconds.
        index: The label now; `UNKNOWN_INDEX` for none of the classes.
        candidate: Index of the label that leads by the margin, None where there is none.
        candidate_since_s: Time since which it leads, in seconds.
    """

    mean: Float64Array
    at_s: float
    index: int
    candidate: int | None = None
    candidate_since_s: float = 0.0

    @property
    def confidence(self) -> float:
        """Averaged probability of the label; that of the most probable class where the label is `unknown`."""
        return float(self.mean.max() if self.index == UNKNOWN_INDEX else self.mean[self.index])

    @property
    def rejected(self) -> bool:
        """Whether the label is none of the classes, be one of them called `unknown` as well."""
        return self.index == UNKNOWN_INDEX

    def label(self, labels: tuple[str, ...]) -> str:
        """Name of the label, given the class names in the order of the model's output."""
        return UNKNOWN_LABEL if self.index == UNKNOWN_INDEX else labels[self.index]


def smooth(
    state: LabelState | None,
    probabilities: npt.NDArray[np.floating],
    at_s: float,
    smoothing: Smoothing,
    threshold: float | None = None,
) -> LabelState:
    """The state after one more frame.

    The mean is the exponential one for samples at irregular times: after a pause of dt, the new sample has the weight
    1 - exp(-dt / time_constant).

    Args:
        state: The state before; None at the beginning, where the frame's own label stands.
        probabilities: (C,) float, 0..1, of the new frame.
        at_s: Time of the frame, in seconds on any monotonic clock; an earlier time than the last counts as the last.
        smoothing: Conditions for a change of the label.
        threshold: The model's rejection threshold, 0..1: a label whose mean is below it is `UNKNOWN_INDEX` at once. None for
            none.

    Returns:
        The new state; `state` is not changed.
    """
    values = np.asarray(probabilities, np.float64)
    if state is None or state.mean.shape != values.shape:
        return LabelState(values, at_s, _best(values, threshold))
    at_s = max(at_s, state.at_s)
    weight = 1.0 if smoothing.time_constant_s == 0 else -math.expm1((state.at_s - at_s) / smoothing.time_constant_s)
    mean = state.mean + weight * (values - state.mean)
    best, index = _best(mean, threshold), state.index
    if index != UNKNOWN_INDEX and threshold is not None and mean[index] < threshold:
        # Without margin and hold, which are for the label that comes next: this one is not sure any more.
        index = UNKNOWN_INDEX
    if best == index or not _leads(mean, best, index, smoothing.margin, threshold):
        return LabelState(mean, at_s, index)
    since_s = state.candidate_since_s if state.candidate == best else at_s
    if at_s - since_s >= smoothing.hold_s:
        return LabelState(mean, at_s, best)
    return LabelState(mean, at_s, index, best, since_s)


def _best(mean: Float64Array, threshold: float | None) -> int:
    index = int(mean.argmax())
    return UNKNOWN_INDEX if threshold is not None and mean[index] < threshold else index


def _leads(mean: Float64Array, best: int, index: int, margin: float, threshold: float | None) -> bool:
    """Whether `best`, a class, leads `index` by the margin."""
    if index == UNKNOWN_INDEX:
        # The margin above the threshold, but at most half of the way from there to 1.
        lowest = threshold or 0.0
        return bool(mean[best] >= min(lowest + margin, (lowest + 1) / 2))
    return bool(mean[best] - mean[index] >= margin)
