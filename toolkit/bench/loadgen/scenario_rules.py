"""Rules and figures of the four scenarios of MLPerf Inference, pure functions of time stamps.

A figure here is "MLPerf-style": the scenarios, query counts, durations and estimates are those of the MLPerf Inference
rules (July 2026), the model, the data and the review that make an official result are not.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.timing.early_stopping import estimate_rank, most_failures, percentile_estimate

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)


@dataclass(frozen=True)
class ScenarioRules:
    """Counts and duration that a run of a scenario must reach.

    Attributes:
        percentile: Percentile of latency that is reported or bounded, 0..1; None where the figure is a throughput.
        samples_per_query: Images in one query; 1 for `offline`, whose only query holds all samples.
        min_queries: Smallest number of queries.
        min_samples: Smallest number of images.
        min_duration_s: Shortest duration.
    """

    percentile: float | None
    samples_per_query: int
    min_queries: int
    min_samples: int
    min_duration_s: float


RULES: Mapping[Scenario, ScenarioRules] = {
    "single-stream": ScenarioRules(0.90, 1, 64, 64, 600.0),
    "multi-stream": ScenarioRules(0.99, 8, 662, 8 * 662, 600.0),
    "server": ScenarioRules(0.99, 1, 662, 662, 600.0),
    "offline": ScenarioRules(None, 1, 1, 24_576, 600.0),
}
# The fewest queries that give every figure, in the shortest time: for a quick check, not for a report.
QUICK_RULES: Mapping[Scenario, ScenarioRules] = {
    "single-stream": ScenarioRules(0.90, 1, 64, 64, 2.0),
    "multi-stream": ScenarioRules(0.99, 8, 662, 8 * 662, 2.0),
    "server": ScenarioRules(0.99, 1, 662, 662, 2.0),
    "offline": ScenarioRules(None, 1, 1, 256, 2.0),
}
# Largest time between the generator's start and the arrival of the first query.
_ARRIVAL_S = 0.05


@dataclass(frozen=True)
class ScenarioFigures:
    """Figures of one run of a scenario.

    Latencies are per query: of one image in `single-stream` and `server`, of eight in `multi-stream`, of all in `offline`.

    Attributes:
        scenario: The scenario.
        queries: Number of completed queries.
        samples: Number of classified images.
        duration_s: From the first query's start to the last one's end.
        samples_per_s: Images per second over that duration.
        mean_ms: Mean latency.
        p50_ms: Median latency.
        percentile_ms: Latency at the scenario's percentile, as the load generator takes it; None for `offline`.
        estimate_ms: Early-stopping estimate of that latency; None for `offline` and for too few queries.
        discarded: Queries above that estimate's rank.
        overlatency: `server`: number of queries over the bound.
        allowed_overlatency: `server`: largest number of them; -1 where there are too few queries to show any bound.
    """

    scenario: Scenario
    queries: int
    samples: int
    duration_s: float
    samples_per_s: float
    mean_ms: float
    p50_ms: float
    percentile_ms: float | None
    estimate_ms: float | None
    discarded: int | None
    overlatency: int | None
    allowed_overlatency: int | None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


def scenario_figures(
    scenario: Scenario,
    start_s: npt.ArrayLike,
    end_s: npt.ArrayLike,
    samples: int,
    *,
    latency_bound_ms: float | None = None,
) -> ScenarioFigures:
    """Summarises a run from the time stamps of its queries.

    Args:
        scenario: The scenario.
        start_s: (queries,) seconds at which each query was issued.
        end_s: (queries,) seconds at which each was complete.
        samples: Images in all queries together.
        latency_bound_ms: The bound in `server`, None elsewhere.

    Raises:
        InputError: There is no query, or a time is missing.
    """
    start, end = np.asarray(start_s, np.float64), np.asarray(end_s, np.float64)
    if start.shape != end.shape or start.ndim != 1 or not start.size or not np.isfinite([start, end]).all():
        raise InputError(
            "cannot summarise a run",
            got=f"times of shape {start.shape} and {end.shape}",
            expected="one finite start and end for each of at least one query",
        )
    latency_ms = np.sort(end - start) * 1e3
    count = latency_ms.size
    percentile = RULES[scenario].percentile
    duration_s = float(end.max() - start.min())
    rank = 0 if percentile is None else estimate_rank(count, percentile)
    return ScenarioFigures(
        scenario=scenario,
        queries=count,
        samples=samples,
        duration_s=duration_s,
        samples_per_s=samples / duration_s,
        mean_ms=float(latency_ms.mean()),
        p50_ms=_load_generators_percentile(latency_ms, 0.5),
        percentile_ms=None if percentile is None else _load_generators_percentile(latency_ms, percentile),
        estimate_ms=None if percentile is None else percentile_estimate(latency_ms, percentile),
        discarded=rank - 1 if rank else None,
        overlatency=None if latency_bound_ms is None else int((latency_ms > latency_bound_ms).sum()),
        allowed_overlatency=None
        if latency_bound_ms is None or percentile is None
        else most_failures(count, percentile),
    )


def within_bound(figures: ScenarioFigures) -> bool:
    """Whether a `server` run shows, with the confidence of early stopping, that its percentile keeps to the bound."""
    if figures.overlatency is None or figures.allowed_overlatency is None:
        return False
    return figures.overlatency <= figures.allowed_overlatency


def unmet_rules(figures: ScenarioFigures, rules: ScenarioRules) -> list[str]:
    """Unmet rules of count and duration, a phrase each."""
    lacks = []
    # Our duration begins with the arrival of the first query; the generator's own decides (`is_valid`).
    if figures.duration_s < rules.min_duration_s - _ARRIVAL_S:
        lacks.append(f"{figures.duration_s:.1f} of {rules.min_duration_s:g} s")
    if figures.queries < rules.min_queries:
        lacks.append(f"{figures.queries} of {rules.min_queries} queries")
    if figures.samples < rules.min_samples:
        lacks.append(f"{figures.samples} of {rules.min_samples} samples")
    if figures.scenario == "server" and not within_bound(figures):
        lacks.append(f"{figures.overlatency} queries over the latency bound, {figures.allowed_overlatency} may be")
    return lacks


def _load_generators_percentile(ordered: Float64Array, share: float) -> float:
    """Percentile as in mlperf_log_summary.txt: the value at index floor(n p), one above the nearest rank."""
    return float(ordered[int(ordered.size * share)])
