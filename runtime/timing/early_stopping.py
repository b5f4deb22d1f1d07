"""The early-stopping estimate of MLPerf Inference: an upper bound of a percentile from a finite number of queries.

Of n independent queries, the number that take longer than the true p-th percentile is binomial, Bin(n, 1 - p). The t-th
largest latency may stand for the percentile with confidence c when t or fewer slower queries would be seen with
probability below 1 - c if the percentile really lay above it:

    P(Bin(n, 1 - (p - d)) <= t) = I_(p-d)(n - t, t + 1) < 1 - c

with I the regularized incomplete beta function and d a tolerance on p. The estimate is the t-th largest latency for the
largest such t >= 1. With few queries it lies far above the plain percentile and comes down to it as n grows; with too
few there is none. (MLPerf Inference rules, "Early stopping"; the load generator's `early_stopping.cc`.)
"""

import math

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.errors import UsageError

CONFIDENCE = 0.99


def estimate_rank(queries: int, percentile: float, *, confidence: float = CONFIDENCE, tolerance: float = 0.0) -> int:
    """The rank, from the top, of the latency that stands for a percentile: 1 is the largest; 0 for too few queries.

    Args:
        queries: Number of queries, 0 or more.
        percentile: Between 0 and 1, such as 0.9.
        confidence: That the true percentile is not above the estimate.
        tolerance: Taken off `percentile`; MLPerf uses 0.

    Raises:
        UsageError: A number is out of range.
    """
    return max(0, most_failures(queries, percentile, confidence=confidence, tolerance=tolerance))


def most_failures(queries: int, percentile: float, *, confidence: float = CONFIDENCE, tolerance: float = 0.0) -> int:
    """The most queries that may miss a latency bound while the percentile still lies within it; -1: not even none.

    A run in MLPerf's server scenario is good when no more queries than this took longer than the bound.

    Args:
        queries: Number of queries, 0 or more.
        percentile: Between 0 and 1.
        confidence: That the true percentile is within the bound.
        tolerance: Taken off `percentile`.

    Raises:
        UsageError: A number is out of range.
    """
    quantile = percentile - tolerance
    if queries < 0 or not 0 < quantile < 1 or not 0.5 <= confidence < 1:
        raise UsageError(
            "bad early-stopping request",
            got=f"{queries} queries, percentile {percentile}, tolerance {tolerance}, confidence {confidence}",
            expected="0 queries or more, shares between 0 and 1, a confidence of 0.5 or more",
        )
    # The log of the probability of k slower queries, from that of k - 1: p(k) = p(k-1) (n-k+1)/k (1-q)/q.
    # Up to one more than the mean the sum has passed one half, so it need not go on.
    last = min(queries, math.ceil(queries * (1 - quantile)) + 1)
    k = np.arange(1, last + 1, dtype=np.float64)
    steps = np.log((queries - k + 1) / k) + math.log((1 - quantile) / quantile)
    log_shares = queries * math.log(quantile) + np.concatenate([[0.0], np.cumsum(steps)])
    # Shares too small for a float become 0, which is what they add.
    at_most = np.cumsum(np.exp(log_shares))
    return int(np.searchsorted(at_most, 1 - confidence, side="left")) - 1


def percentile_estimate(
    latencies: npt.ArrayLike, percentile: float, *, confidence: float = CONFIDENCE, tolerance: float = 0.0
) -> float | None:
    """The early-stopping estimate of a latency percentile, a latency that was measured; None for too few queries.

    Args:
        latencies: (N,) durations in any unit, which is also the result's.
        percentile: Between 0 and 1.
        confidence: See `estimate_rank`.
        tolerance: See `estimate_rank`.
    """
    values = np.asarray(latencies, np.float64).ravel()
    rank = estimate_rank(values.size, percentile, confidence=confidence, tolerance=tolerance)
    if rank == 0:
        return None
    return float(np.partition(values, values.size - rank)[values.size - rank])
