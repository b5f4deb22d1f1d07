"""What the load generator wrote about a run, and whether our own figures say the same."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.errors import InputError
from edgeclf.toolkit.bench.loadgen.scenario_rules import ScenarioFigures

DETAIL = "mlperf_log_detail.txt"
TRACE = "mlperf_log_trace.json"
_LINE = ":::MLLOG "
# Two clocks read one after the other in two languages, on a machine that also does something else.
SHARE = 0.02
LEAST_MS = 0.25
# In `server` a query passes from thread to thread between the two clocks, among others that keep all CPUs busy.
SERVER_SHARE = 0.05
SERVER_LEAST_MS = 1.0


@dataclass(frozen=True)
class GeneratorLog:
    """The figures of mlperf_log_detail.txt (mlperf_log_summary.txt has the same, rounded for the eye).

    Attributes:
        version: The generator's version.
        is_valid: Whether the generator calls the run valid.
        invalid_reason: Why not; empty when it does not say.
        errors: Errors that it logged.
        queries: Queries that were issued.
        mean_ms: Mean latency of queries.
        percentile_ms: Their latency at the scenario's percentile; None for `offline`.
        estimate_ms: Early-stopping estimate of the same; None for `server`, `offline` and too few queries.
        samples_per_s: Throughput: `offline` and `server` (completed); None elsewhere.
        overlatency: `server`: queries over the bound.
        early_stopping: Whether early stopping is content.
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
    """Reads the log of a run.

    Args:
        folder: Where the generator wrote it.
        figures: Our own figures of the run; says which scenario it was.

    Raises:
        InputError: There is no log, or it is not whole.
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
        # 0 stands for an estimate that could not be made.
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
    """One figure from both clocks.

    Attributes:
        name: What it is, with its unit.
        ours: From our own time stamps.
        generators: From the load generator's log.
        agrees: Whether they are the same within what two clocks may differ by.
    """

    name: str
    ours: float | None
    generators: float | None
    agrees: bool


def compare_with_log(figures: ScenarioFigures, log: GeneratorLog) -> list[Agreement]:
    """Holds our figures of a run against the generator's.

    Numbers of queries must be equal; latencies may differ by 2 % or 0.25 ms, whichever is more, rates by 2 %; in `server`
    latencies by 5 % or 1 ms, and queries over the bound by 2 % of all, since a latency next to the bound may fall on either side.
    """
    compared = [_exactly("queries", figures.queries, log.queries)]
    if figures.scenario == "offline":
        return [*compared, _closely("samples/s", figures.samples_per_s, log.samples_per_s)]
    tolerance = (SERVER_SHARE, SERVER_LEAST_MS) if figures.scenario == "server" else (SHARE, LEAST_MS)
    compared.append(_closely("mean ms", figures.mean_ms, log.mean_ms, *tolerance))
    compared.append(_closely("percentile ms", figures.percentile_ms, log.percentile_ms, *tolerance))
    if figures.scenario == "server":
        compared.append(_closely("samples/s", figures.samples_per_s, log.samples_per_s))
        ours, generators = float(figures.overlatency or 0), float(log.overlatency or 0)
        agrees = abs(ours - generators) <= SHARE * figures.queries
        return [*compared, Agreement("queries over the bound", ours, generators, agrees)]
    return [*compared, _closely("early-stopping estimate ms", figures.estimate_ms, log.estimate_ms, *tolerance)]


def send_delays_s(folder: Path) -> npt.NDArray[np.float64] | None:
    """How long after it was due each query was sent, by the generator's own trace, in the order of the queries.

    In `server` the generator counts a latency from when the query was due. Until it is sent, the thread that sends it has
    to be woken up, which on a busy machine takes milliseconds that a clock at the other end cannot see.

    Args:
        folder: Where the generator wrote its trace.

    Returns:
        (queries,) seconds; None when there is no trace, or it is not whole.
    """
    try:
        text = (folder / TRACE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The file as a whole is not always valid JSON; each sample is one line.
    found = re.findall(r'"query_seq":(\d+)[^\n]*?"issue_start_ns":(\d+)', text)
    delays = {int(number): int(nanoseconds) / 1e9 for number, nanoseconds in found}
    if sorted(delays) != list(range(len(delays))) or not delays:
        return None
    return np.array([delays[number] for number in range(len(delays))])


def _exactly(name: str, ours: float, generators: float) -> Agreement:
    return Agreement(name, ours, generators, ours == generators)


def _closely(
    name: str, ours: float | None, generators: float | None, share: float = SHARE, least: float = 0.0
) -> Agreement:
    if ours is None or generators is None:
        return Agreement(name, ours, generators, ours is None and generators is None)
    return Agreement(name, ours, generators, abs(ours - generators) <= max(least, share * abs(generators)))


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
