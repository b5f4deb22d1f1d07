"""Execution of one scenario: calibration, search for the server rate, the run that counts, its verdict."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.timing.energy import EnergyMeter
from edgeclf.toolkit.bench.loadgen.log import Agreement, GeneratorLog, compare_with_log, read_log, send_delays_s
from edgeclf.toolkit.bench.loadgen.memory import available_memory_bytes, check_fits, longest_s
from edgeclf.toolkit.bench.loadgen.process import LoadgenProcess
from edgeclf.toolkit.bench.loadgen.scenario_rules import (
    Scenario,
    ScenarioFigures,
    ScenarioRules,
    scenario_figures,
    unmet_rules,
    within_bound,
)
from edgeclf.toolkit.bench.loadgen.search import Probe, highest_rate
from edgeclf.toolkit.bench.loadgen.sut import RunRequest

# Fraction of the duration and number of queries of a search run: long enough for a growing queue to show, and short, because
# there are about ten. They use the plain percentile; the run that counts must pass with the confidence of the rules.
_SEARCH_DURATION_FRACTION = 0.05
_SEARCH_QUERIES = 200
_CONFIRMATIONS = 5
# Most queries that are traced, at 500 bytes each.
_MOST_TRACED = 200_000
_OFFLINE_TRIES = 3
# Of a default duration that is cut to the memory: the share of the longest that fits, and the least that says anything.
_OF_LONGEST, _SHORTEST_S = 0.9, 0.2


@dataclass(frozen=True)
class ScenarioPlan:
    """Plan of a scenario.

    Attributes:
        scenario: The scenario.
        rules: Counts and duration of this run.
        official_rules: Counts and duration that MLPerf's rules demand.
        precision: `server`: relative precision of the search.
        latency_bound_ms: `server`: the bound.
        may_be_shorter: Whether the duration is the default one, which gives way to the memory that the queries need.
    """

    scenario: Scenario
    rules: ScenarioRules
    official_rules: ScenarioRules
    precision: float
    latency_bound_ms: float
    may_be_shorter: bool = False


@dataclass(frozen=True)
class ScenarioResult:
    """Result of a scenario.

    Attributes:
        plan: Plan of the scenario.
        figures: Our figures of the run that counts; None for a `server` without a rate that keeps to the bound.
        log: The generator's figures of the same run.
        agreement: Comparison of the two.
        lacks: Unmet rules of MLPerf on counts and duration, a phrase each.
        rate_per_s: `server`: queries per second sent; None elsewhere.
        probes: `server`: the rates tried in the search.
        energy_mj_per_image: Energy of the CPU package per image, in millijoules; None where it cannot be read.
        send_delay_ms: `server`: mean time from when a query was due until it was sent, part of its latency; None elsewhere,
            and where there are too many queries to trace.
        latencies_ms: (queries,) latencies of the run, in the order of the queries.
        note: Note for the report; empty for none.
    """

    plan: ScenarioPlan
    figures: ScenarioFigures | None
    log: GeneratorLog | None
    agreement: tuple[Agreement, ...]
    lacks: tuple[str, ...]
    rate_per_s: float | None
    probes: tuple[Probe, ...]
    energy_mj_per_image: float | None
    send_delay_ms: float | None
    latencies_ms: Float64Array
    note: str

    @property
    def agrees(self) -> bool:
        """Whether the generator's log and our figures agree."""
        return all(item.agrees for item in self.agreement)

    @property
    def meets_rules(self) -> bool:
        """Whether every rule of count and duration was met and the generator calls the run valid."""
        return not self.lacks and self.log is not None and self.log.is_valid

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values, without the single latencies."""
        return {
            "scenario": self.plan.scenario,
            "latency_bound_ms": self.plan.latency_bound_ms if self.plan.scenario == "server" else None,
            "rate_per_s": self.rate_per_s,
            "figures": self.figures.to_json() if self.figures else None,
            "loadgen": self.log.to_json() if self.log else None,
            "agreement": [asdict(item) for item in self.agreement],
            "agrees": self.agrees,
            "meets_mlperf_rules": self.meets_rules,
            "lacks": list(self.lacks),
            "search": [asdict(probe) for probe in self.probes],
            "energy_mj_per_image": self.energy_mj_per_image,
            "send_delay_ms": self.send_delay_ms,
            "remark": self.note,
        }


@dataclass(frozen=True)
class _Run:
    figures: ScenarioFigures
    log: GeneratorLog
    latencies_ms: Float64Array
    energy_mj_per_image: float | None
    send_delay_ms: float | None


class ScenarioRunner:
    """Runs scenarios against one process.

    Args:
        process: The process.
        log_folder: Folder for the generator's logs, with a folder for each run.
        meter: Meter of the energy used; None for none.
        progress: Reports the seconds that have passed.
    """

    def __init__(
        self, process: LoadgenProcess, log_folder: Path, meter: EnergyMeter | None, progress: Progress
    ) -> None:
        self._process = process
        self._log_folder = log_folder
        self._meter = meter
        self._progress = progress

    def run(self, plan: ScenarioPlan) -> ScenarioResult:
        """Runs a scenario."""
        if plan.scenario == "server":
            return self._server(plan)
        return self._offline(plan) if plan.scenario == "offline" else self._stream(plan)

    def _stream(self, plan: ScenarioPlan) -> ScenarioResult:
        # Half of the fastest query: the generator prepares as many queries as fit into the duration.
        expected_s = 0.5 * self._process.query_s(plan.rules.samples_per_query)
        fitting = _fitting(plan, expected_s)
        return _result(fitting, self._once(fitting, plan.scenario, expected_s=expected_s))

    def _offline(self, plan: ScenarioPlan) -> ScenarioResult:
        rate = self._process.samples_per_s(min(5.0, plan.rules.min_duration_s / 2))
        run = None
        for number in range(_OFFLINE_TRIES):
            plan = _fitting(plan, 1 / rate)
            # The single query is sized by the expected rate; where it ends too early, a larger one is sent.
            run = self._once(plan, "offline" if number == 0 else f"offline-{number + 1}", expected_per_s=rate)
            if run.figures.duration_s >= plan.rules.min_duration_s:
                break
            rate = max(1.2 * rate, run.figures.samples_per_s)
        if run is None:
            raise AssertionError("no try")
        return _result(plan, run)

    def _server(self, plan: ScenarioPlan) -> ScenarioResult:
        self._process.query_s(1)
        capacity = self._process.samples_per_s(min(5.0, plan.rules.min_duration_s / 2))
        plan = _fitting(plan, 1 / capacity)
        search_s = max(min(2.0, plan.rules.min_duration_s), _SEARCH_DURATION_FRACTION * plan.rules.min_duration_s)
        search_plan = replace(plan, rules=replace(plan.rules, min_duration_s=search_s, min_queries=_SEARCH_QUERIES))
        count = 0

        def passes(rate: float) -> bool:
            nonlocal count
            count += 1
            log = self._once(search_plan, f"server-search-{count:02d}", expected_per_s=rate).log
            return log.percentile_ms is not None and log.percentile_ms <= plan.latency_bound_ms

        alone_ms = 1e3 * self._process.query_s(1)
        if alone_ms > plan.latency_bound_ms:
            return _no_rate(plan, f"one image alone takes {alone_ms:.3g} ms", ())
        rate, probes = highest_rate(passes, capacity, precision=plan.precision)
        if rate is None:
            return _no_rate(plan, f"not even {probes[-1].rate:.3g} queries/s keep to it", tuple(probes))
        plan = _fitting(plan, 1 / rate)
        # A rate that passed a short run by chance may fail the full one.
        for number in range(1, _CONFIRMATIONS + 1):
            run = self._once(plan, f"server-{number}", expected_per_s=rate)
            # Both must pass: the generator counts from when a query was due, so that its latencies are longer.
            if within_bound(run.figures) and run.log.early_stopping:
                result = _result(plan, run)
                failed = [f"{number - 1} higher rates did not pass the full run"] if number > 1 else []
                note = "; ".join([*failed, *filter(None, [result.note])])
                return replace(result, rate_per_s=rate, probes=tuple(probes), note=note)
            probes.append(Probe(rate, passed=False))
            # In growing steps, so that a search that ended far too high still finds a rate.
            rate /= 1 + plan.precision * 2 ** (number - 1)
        return _no_rate(
            plan, f"{_CONFIRMATIONS} rates from the one that passed the search downwards failed", tuple(probes)
        )

    def _once(self, plan: ScenarioPlan, name: str, *, expected_s: float = 0.001, expected_per_s: float = 1.0) -> _Run:
        folder = self._log_folder / name
        folder.mkdir(parents=True, exist_ok=True)
        rules = plan.rules
        request = RunRequest(
            scenario=plan.scenario,
            min_duration_s=rules.min_duration_s,
            min_queries=rules.min_samples if plan.scenario == "offline" else rules.min_queries,
            log_folder=folder,
            expected_s=expected_s,
            expected_per_s=expected_per_s,
            latency_bound_ms=plan.latency_bound_ms,
            traces=plan.scenario == "server" and expected_per_s * rules.min_duration_s <= _MOST_TRACED,
        )
        every_s = expected_s if plan.scenario.endswith("-stream") else 1 / expected_per_s
        check_fits(plan.scenario, rules.min_duration_s, every_s, rules.samples_per_query, available_memory_bytes())
        before = self._meter.read() if self._meter else None
        record = self._process.run(request, self._waiting(plan, name))
        joules = self._meter.joules_since(before) if self._meter and before else None
        bound_ms = plan.latency_bound_ms if plan.scenario == "server" else None
        # Our time stamps begin at the arrival of a query, its latency when it was due.
        delays_s = send_delays_s(folder) if request.traces else None
        if delays_s is not None and delays_s.size == record.start_s.size:
            record = replace(record, start_s=record.start_s - delays_s)
        else:
            delays_s = None
        figures = scenario_figures(
            plan.scenario, record.start_s, record.end_s, record.samples, latency_bound_ms=bound_ms
        )
        return _Run(
            figures,
            read_log(folder, figures),
            (record.end_s - record.start_s) * 1e3,
            None if joules is None else 1e3 * joules / record.samples,
            None if delays_s is None else 1e3 * float(delays_s.mean()),
        )

    def _waiting(self, plan: ScenarioPlan, name: str) -> Callable[[float], None]:
        total = max(1, round(plan.rules.min_duration_s))

        def report(seconds: float) -> None:
            # A slow model takes longer than the shortest duration, for its number of queries.
            self._progress(f"{plan.scenario} (s): {name}", int(seconds), max(total, int(seconds) + 1))

        return report


def _fitting(plan: ScenarioPlan, every_s: float) -> ScenarioPlan:
    """The plan with a default duration that its queries fit into the memory with; as it is where that leaves next to nothing.

    Args:
        plan: The plan.
        every_s: Expected time from one query, or sample of `offline`, to the next.
    """
    longest = longest_s(plan.scenario, every_s, plan.rules.samples_per_query, available_memory_bytes())
    if not plan.may_be_shorter or not _SHORTEST_S <= longest < plan.rules.min_duration_s:
        return plan
    # A little less: memory that is left changes.
    return replace(plan, rules=replace(plan.rules, min_duration_s=_OF_LONGEST * longest))


def _result(plan: ScenarioPlan, run: _Run) -> ScenarioResult:
    lacks = unmet_rules(run.figures, plan.official_rules)
    if not run.log.is_valid:
        lacks.append(f"the load generator calls the run invalid: {run.log.invalid_reason or 'early stopping'}")
    is_shorter = plan.may_be_shorter and plan.rules.min_duration_s < plan.official_rules.min_duration_s
    note = "shorter than by default, so that the queries fit into the memory" if is_shorter else ""
    return ScenarioResult(
        plan=plan,
        figures=run.figures,
        log=run.log,
        agreement=tuple(compare_with_log(run.figures, run.log)),
        lacks=tuple(lacks),
        rate_per_s=None,
        probes=(),
        energy_mj_per_image=run.energy_mj_per_image,
        send_delay_ms=run.send_delay_ms,
        latencies_ms=run.latencies_ms,
        note=note,
    )


def _no_rate(plan: ScenarioPlan, why: str, probes: tuple[Probe, ...]) -> ScenarioResult:
    return ScenarioResult(
        plan=plan,
        figures=None,
        log=None,
        agreement=(),
        lacks=("no rate keeps to the latency bound",),
        rate_per_s=None,
        probes=probes,
        energy_mj_per_image=None,
        send_delay_ms=None,
        latencies_ms=np.empty(0),
        note=f"p99 stays above {plan.latency_bound_ms:g} ms: {why}",
    )
