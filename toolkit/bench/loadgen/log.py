"""The load generator's log of a run, and its agreement with our own measurements."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.errors import InputError
from edgeclf.toolkit.bench.loadgen.scenario_rules import ScenarioFigures

DETAIL = "mlperf_log_detail.txt"
TRACE = "mlperf_log_trace.json"
_LINE = ":::MLLOG "
# Relative and absolute tolerance between the two clocks.
TOLERANCE = 0.02
TOLERANCE_MS = 0.25
# The same in `server`, where a query passes from thread to thread between the two clocks while all CPUs are busy.
SERVER_TOLERANCE = 0.05
SERVER_TOLERANCE_MS = 1.0


@dataclass(frozen=True)
class GeneratorLog:
    """Figures of mlperf_log_detail.txt (mlperf_log_summary.txt has the same, rounded).

    Attributes:
        version: The generator's version.
        is_valid: Whether the generator calls the run valid.
        invalid_reason: Why the run is invalid; empty where the log gives no reason.
        errors: Number of logged errors.
        queries: Number of issued queries.
        mean_ms: Mean latency of queries.
        percentile_ms: Latency of queries at the scenario's percentile; None for `offline`.
        estimate_ms: Early-stopping estimate of that latency; None for `server`, `offline` and too few queries.
        samples_per_s: Throughput: `offline` and `server` (completed); None elsewhere.
        overlatency: `server`: number of queries over the bound; None elsewhere.
        early_stopping: Whether the early-stopping criterion is met.
    """

    version: str
    is_valid: bool
    invalid_reason: str
    errors: int
    queries: int
    mean_ms: float
    percentile_ms: float | None
    estimate_ms: float | None
    samples_per_s: float | None
    overlatency: int | None
    early_stopping: bool

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


def read_log(folder: Path, figures: ScenarioFigures) -> GeneratorLog:
    """Reads the load generator's log of a run.

    Args:
        folder: The run's log folder.
        figures: Our own figures of the run, which name its scenario.

    Raises:
        InputError: There is no log, or the log is incomplete.
    """
    entries = _entries(folder / DETAIL)
    scenario = figures.scenario
    per_query = "_query" if scenario == "multi-stream" else ""
    in_name = "_per_query" if scenario == "multi-stream" else ""
    percent = {"single-stream": "90.00", "multi-stream": "99.00", "server": "99.00"}.get(scenario)
    estimate_key = {"single-stream": "early_stopping_latency_ss", "multi-stream": "early_stopping_latency_ms"}.get(
        scenario
    )
    rate_key = {"server": "result_completed_samples_per_sec", "offline": "result_samples_per_second"}.get(scenario)
    try:
        # The log has 0 where there were too few queries for an estimate.
        estimate_ns = entries.get(estimate_key or "", 0)
        return GeneratorLog(
            version=str(entries["loadgen_version"]).split(" ", 1)[0],
            is_valid=entries["result_validity"] == "VALID",
            invalid_reason=str(entries.get("result_invalid_reason", "")).strip(),
            errors=int(entries["num_errors"]),
            queries=int(entries["result_query_count"]),
            mean_ms=entries[f"result_mean{per_query}_latency_ns"] / 1e6,
            percentile_ms=entries[f"result_{percent}_percentile{in_name}_latency_ns"] / 1e6 if percent else None,
            estimate_ms=estimate_ns / 1e6 if estimate_ns else None,
            samples_per_s=float(entries[rate_key]) if rate_key else None,
            overlatency=int(entries["result_overlatency_query_count"]) if scenario == "server" else None,
            early_stopping=bool(entries["early_stopping_met"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot read the load generator's log {folder / DETAIL}",
            got=f"no usable {error}",
            expected="the log of a whole run",
        ) from error


@dataclass(frozen=True)
class Agreement:
    """Comparison of one figure of the two measurements.

    Attributes:
        name: Name of the figure, with its unit.
        ours: Value from our own time stamps.
        generators: Value from the load generator's log.
        agrees: Whether they are equal within the tolerance.
    """

    name: str
    ours: float | None
    generators: float | None
    agrees: bool


def compare_with_log(figures: ScenarioFigures, log: GeneratorLog) -> list[Agreement]:
    """Compares our figures of a run with the generator's.

    Numbers of queries must be equal; latencies may differ by 2 % or 0.25 ms, whichever is more, rates by 2 %; in `server`
    latencies by 5 % or 1 ms, and queries over the bound by 2 % of all, since latencies next to the bound may fall on either side.
    """
    compared = [_exactly("queries", figures.queries, log.queries)]
    if figures.scenario == "offline":
        return [*compared, _closely("samples/s", figures.samples_per_s, log.samples_per_s)]
    tolerance = (SERVER_TOLERANCE, SERVER_TOLERANCE_MS) if figures.scenario == "server" else (TOLERANCE, TOLERANCE_MS)
    compared.append(_closely("mean ms", figures.mean_ms, log.mean_ms, *tolerance))
    compared.append(_closely("percentile ms", figures.percentile_ms, log.percentile_ms, *tolerance))
    if figures.scenario == "server":
        compared.append(_closely("samples/s", figures.samples_per_s, log.samples_per_s))
        ours, generators = float(figures.overlatency or 0), float(log.overlatency or 0)
        agrees = abs(ours - generators) <= TOLERANCE * figures.queries
        return [*compared, Agreement("queries over the bound", ours, generators, agrees)]
    return [*compared, _closely("early-stopping estimate ms", figures.estimate_ms, log.estimate_ms, *tolerance)]


def send_delays_s(folder: Path) -> Float64Array | None:
    """Delays between when queries were due and when they were sent, by the generator's trace.

    In `server` the generator counts latency from the time a query was due. On a busy machine it takes milliseconds until the
    sending thread wakes up, which the system under test cannot see.

    Args:
        folder: The run's log folder.

    Returns:
        (queries,) seconds in the order of the queries; None where the trace is missing or incomplete.
    """
    try:
        text = (folder / TRACE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The file as a whole is not always valid JSON; each sample has a line.
    found = re.findall(r'"query_seq":(\d+)[^\n]*?"issue_start_ns":(\d+)', text)
    delays = {int(number): int(nanoseconds) / 1e9 for number, nanoseconds in found}
    if sorted(delays) != list(range(len(delays))) or not delays:
        return None
    return np.array([delays[number] for number in range(len(delays))])


def _exactly(name: str, ours: float, generators: float) -> Agreement:
    return Agreement(name, ours, generators, ours == generators)


def _closely(
    name: str, ours: float | None, generators: float | None, relative: float = TOLERANCE, absolute: float = 0.0
) -> Agreement:
    if ours is None or generators is None:
        return Agreement(name, ours, generators, ours is None and generators is None)
    return Agreement(name, ours, generators, abs(ours - generators) <= max(absolute, relative * abs(generators)))


def _entries(path: Path) -> dict[str, Any]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(
            f"cannot read the load generator's log {path}", got=str(error.strerror), expected="the log of a whole run"
        ) from error
    entries: dict[str, Any] = {}
    for line in lines:
        if line.startswith(_LINE):
            try:
                entry = json.loads(line[len(_LINE) :])
            except ValueError:
                # The generator does not escape everything that it quotes; the figures are in lines of their own.
                continue
            entries[entry["key"]] = entry["value"]
    return entries
