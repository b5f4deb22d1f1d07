import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.timing.early_stopping import estimate_rank, most_failures, percentile_estimate

from ...randomness import fresh_rng

PERCENTILES = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@pytest.mark.parametrize(("percentile", "count"), [(0.90, 64), (0.95, 130), (0.99, 662)])
def test_the_smallest_counts_of_the_rules(percentile, count):
    assert estimate_rank(count, percentile) == 1
    assert estimate_rank(count - 1, percentile) == 0
    assert percentile_estimate(np.arange(count - 1), percentile) is None


@pytest.mark.parametrize(
    ("queries", "percentile", "rank"), [(1024, 0.9, 80), (200, 0.9, 10), (10_000, 0.99, 77), (270_336, 0.99, 2583)]
)
def test_the_ranks_that_the_load_generator_reports(queries, percentile, rank):
    assert estimate_rank(queries, percentile) == rank
    latencies = fresh_rng().permutation(queries)
    assert percentile_estimate(latencies, percentile) == queries - rank


def at_most(failures, queries, share):
    """The binomial sum in whole numbers, term by term."""
    return sum(math.comb(queries, k) * share**k * (1 - share) ** (queries - k) for k in range(failures + 1))


@given(st.integers(0, 900), PERCENTILES, st.sampled_from([0.0, 0.005]), st.sampled_from([0.9, 0.99, 0.999]))
def test_one_more_failure_would_be_too_likely(queries, percentile, tolerance, confidence):
    failures = most_failures(queries, percentile, confidence=confidence, tolerance=tolerance)
    share = 1 - percentile + tolerance
    assert failures == -1 or at_most(failures, queries, share) < 1 - confidence
    assert at_most(failures + 1, queries, share) >= 1 - confidence


@given(st.integers(1, 3000), PERCENTILES)
def test_the_estimate_is_never_below_the_percentile(queries, percentile):
    estimate = percentile_estimate(np.arange(queries), percentile)
    if estimate is not None:
        assert estimate >= math.ceil(percentile * queries) - 1


def test_the_estimate_holds_the_true_percentile_as_often_as_it_says():
    latencies = np.random.default_rng(0).exponential(size=(4000, 300))
    true_p90 = -math.log(0.1)
    below = sum(percentile_estimate(row, 0.9) < true_p90 for row in latencies)
    # 1 % of 4000 at most, give or take five standard deviations.
    assert below < 40 + 5 * math.sqrt(40)


@pytest.mark.parametrize(
    "arguments",
    [
        {"queries": -1, "percentile": 0.9},
        {"queries": 9, "percentile": 1.0},
        {"queries": 9, "percentile": 0.9, "tolerance": 0.9},
        {"queries": 9, "percentile": 0.9, "confidence": 0.4},
    ],
)
def test_shares_out_of_range_are_usage_errors(arguments):
    with pytest.raises(UsageError):
        most_failures(**arguments)
