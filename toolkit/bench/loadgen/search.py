"""The highest rate that keeps to a latency bound, by bisection."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """One rate that was tried.

    Attributes:
        rate: Queries per second.
        passed: Whether it kept to the bound.
    """

    rate: float
    passed: bool


def highest_rate(
    passes: Callable[[float], bool], guess: float, *, precision: float, most_probes: int = 24
) -> tuple[float | None, list[Probe]]:
    """The highest rate found to pass, and all that were tried.

    From the guess the rate goes up or down by half until one has passed and a higher one has not; then the interval is
    halved, in the logarithm, until its ends are within `precision` of each other. Chance decides near the limit, so the
    answer is a rate that passed once, to be confirmed.

    Args:
        passes: Runs a rate and says whether it keeps to the bound.
        guess: Where to begin, above 0; the capacity of the system is a good one.
        precision: Relative width of the last interval, such as 0.02.
        most_probes: After so many the best so far has to do.

    Returns:
        The rate, None when none passed; and the probes in order.
    """
    low: float | None = None
    high: float | None = None
    probes: list[Probe] = []
    rate = guess
    while len(probes) < most_probes:
        probes.append(Probe(rate, passes(rate)))
        if probes[-1].passed:
            low = rate
        else:
            high = rate
        if low is None:
            rate /= 1.5
        elif high is None:
            rate *= 1.5
        elif high <= low * (1 + precision):
            break
        else:
            rate = math.sqrt(low * high)
    return low, probes
