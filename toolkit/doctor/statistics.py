"""Confidence intervals of shares."""

import math

# Two-sided 95 %.
Z95 = 1.959964


def wilson_interval(hits: int, count: int, z: float = Z95) -> tuple[float, float]:
    """The interval of a binomial share that holds the true one with the confidence that z stands for.

    Wilson, E. B. (1927): Probable inference, the law of succession, and statistical inference. Unlike the normal
    approximation it is right near 0 and 1, and for few observations.

    Args:
        hits: Successes.
        count: Trials; none give (0, 1).
        z: Quantile of the normal distribution; default for 95 %, two-sided.
    """
    if not count:
        return 0.0, 1.0
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # The ends are exact where nothing, or everything, is a hit; rounding must not put them inside.
    return (max(0.0, centre - half) if hits else 0.0), (min(1.0, centre + half) if hits < count else 1.0)
