import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.toolkit.bench.loadgen.search import highest_rate


@given(st.floats(0.1, 1e5), st.floats(0.02, 50), st.sampled_from([0.02, 0.1]))
def test_the_limit_is_found_to_the_precision_from_any_guess(limit, factor, precision):
    tried = []

    def passes(rate):
        tried.append(rate)
        return rate <= limit

    rate, probes = highest_rate(passes, limit * factor, precision=precision)
    assert rate <= limit < rate * (1 + precision) * (1 + 1e-9)
    assert [probe.rate for probe in probes] == tried
    assert all(probe.passed == (probe.rate <= limit) for probe in probes)


def test_where_nothing_passes_there_is_no_rate_and_an_end():
    rate, probes = highest_rate(lambda _rate: False, 100.0, precision=0.02, most_probes=10)
    assert rate is None
    assert len(probes) == 10
    assert probes[-1].rate == pytest.approx(100 / 1.5**9)


def test_where_everything_passes_there_is_an_end_too():
    rate, probes = highest_rate(lambda _rate: True, 1.0, precision=0.02, most_probes=5)
    assert (rate, len(probes)) == (pytest.approx(1.5**4), 5)
