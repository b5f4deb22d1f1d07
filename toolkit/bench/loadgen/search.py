"""Search for the highest rate that keeps to a latency bound, by bisection."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """One tried rate.

    Attributes:
        rate: Queries per second.
        passed: Whether it kept to the bound.
    """

    rate: float
    passed: bool


def highest_rate(
    passes: Callable[[float], bool], guess: float, *, precision: float, most_probes: int = 24
) -> tuple[float | None, list[Probe]]:
    """Searches the highest rate that passes.

    From the guess the rate is multiplied or divided by 1.5 until one passes and a higher one fails; then the interval is
    bisected on a logarithmic scale until its ends are within `precision`. Near the limit chance decides, so the result needs
    to be confirmed.

    Args:
        passes: Runs a rate; True where it keeps to the bound.
        guess: First rate, above 0, such as the capacity of the system.
        precision: Relative width of the last interval, such as 0.02.
        most_probes: Largest number of probes.

    Returns:
        The highest rate that passed, None where none did; and the probes in order.
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
