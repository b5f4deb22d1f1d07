import json
from dataclasses import replace

import numpy as np
import pytest

from edgeclf.runtime.errors import InputError
from edgeclf.toolkit.bench.loadgen.scenario_rules import (
    QUICK_RULES,
    RULES,
    SCENARIOS,
    scenario_figures,
    unmet_rules,
    within_bound,
)

from ....randomness import fresh_rng


def run_of(scenario, latencies_ms, **arguments):
    latencies_s = np.asarray(latencies_ms, float) / 1e3
    ends = np.cumsum(latencies_s)
    return scenario_figures(scenario, ends - latencies_s, ends, len(latencies_s), **arguments)


def test_figures_of_queries_one_after_the_other():
    figures = run_of("single-stream", fresh_rng().permutation(np.arange(1, 1025)))
    assert (figures.queries, figures.samples) == (1024, 1024)
    assert figures.duration_s == pytest.approx(524.8)
    assert figures.samples_per_s == pytest.approx(1024 / 524.8)
    assert figures.mean_ms == pytest.approx(512.5)
    # The generator's percentile is the value at index floor(n p), its estimate the 80th largest.
    assert figures.percentile_ms == pytest.approx(922)
    assert (figures.estimate_ms, figures.discarded) == (pytest.approx(945), 79)
    assert figures.overlatency is None
    assert json.loads(json.dumps(figures.to_json(), allow_nan=False))["scenario"] == "single-stream"


def test_too_few_queries_give_no_estimate():
    figures = run_of("multi-stream", np.ones(661))
    assert (figures.estimate_ms, figures.discarded) == (None, None)
    assert figures.percentile_ms == pytest.approx(1)


def test_a_bound_is_kept_with_confidence_or_not_at_all():
    fast, slow = np.ones(1000), np.full(1, 50.0)
    assert within_bound(run_of("server", fast, latency_bound_ms=10))
    # 1 of 459 is one too many, and with 458 even none shows nothing.
    assert within_bound(run_of("server", fast[:459], latency_bound_ms=10))
    assert not within_bound(run_of("server", fast[:458], latency_bound_ms=10))
    assert not within_bound(run_of("server", np.concatenate([fast[:458], slow]), latency_bound_ms=10))
    assert not within_bound(run_of("single-stream", fast))


def test_what_a_run_lacks_of_the_rules_is_named():
    short = run_of("single-stream", np.ones(63))
    assert unmet_rules(short, RULES["single-stream"]) == ["0.1 of 600 s", "63 of 64 queries", "63 of 64 samples"]
    assert unmet_rules(replace(short, duration_s=600, queries=64, samples=64), RULES["single-stream"]) == []
    offline = run_of("offline", [700_000.0])
    assert unmet_rules(offline, RULES["offline"]) == ["1 of 24576 samples"]
    server = replace(run_of("server", np.full(700, 9.0), latency_bound_ms=5), duration_s=601)
    assert unmet_rules(server, RULES["server"]) == ["700 queries over the latency bound, 1 may be"]


def test_quick_rules_ask_for_less_and_for_as_many_queries_as_an_estimate_needs():
    for scenario in SCENARIOS:
        quick, full = QUICK_RULES[scenario], RULES[scenario]
        assert quick.min_duration_s < full.min_duration_s
        assert quick.min_queries == full.min_queries
        assert quick.min_samples <= full.min_samples


@pytest.mark.parametrize("times", [([], []), ([0.0], [1.0, 2.0]), ([0.0], [np.nan])])
def test_a_run_without_whole_times_is_refused(times):
    with pytest.raises(InputError):
        scenario_figures("single-stream", *times, 1)
