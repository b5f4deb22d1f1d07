"""`edgeclf bench --scenario`: plans of the scenarios, their threads, and the report."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.toolkit.bench.plot import Curve, draw_curves
from edgeclf.toolkit.bench.tables import SYNTHETIC_FRAME, cpu_text, energy_meter, ms_text, rate_text
from edgeclf.toolkit.console import note, print_json, print_result, print_table, progress_bar, warn

if TYPE_CHECKING:
    from edgeclf.runtime import DeviceChoice, ForeignModel
    from edgeclf.runtime.cpus import CpuInfo
    from edgeclf.toolkit.bench.loadgen.process import SystemFacts, SystemSetup
    from edgeclf.toolkit.bench.loadgen.runs import ScenarioPlan, ScenarioResult
    from edgeclf.toolkit.bench.loadgen.scenario_rules import Scenario

_PRECISION, _QUICK_PRECISION = 0.02, 0.1
_OFFLINE_BATCH = 8


@dataclass(frozen=True)
class ScenarioOptions:
    """Options of `edgeclf bench --scenario`, as its `--help` describes them."""

    scenario: str
    quick: bool
    duration_s: float | None
    latency_bound_ms: float
    images: Path | None
    includes_preprocess: bool
    logs: Path | None
    batch_size: int | None
    threads: int | None
    requires_energy: bool


def bench_scenarios(
    model: Path,
    options: ScenarioOptions,
    device: "DeviceChoice",
    foreign: "ForeignModel | None",
    *,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Runs the scenarios and prints their results.

    Args:
        model: Path of the model file.
        options: Options of the command.
        device: Device that runs the model.
        foreign: How a file without an edgeclf spec is to be used.
        plot: PNG file for the latencies; None for none.
        as_json: Whether to print one JSON document.

    Raises:
        GateError: The load generator's log and our own clock do not agree.
        EdgeclfError: The model, the device, the images or the log folder cannot be used.
    """
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.errors import GateError
    from edgeclf.toolkit.bench.loadgen.process import LoadgenProcess, check_installed
    from edgeclf.toolkit.bench.loadgen.runs import ScenarioRunner

    check_installed()
    cpu = cpu_info()
    meter, no_energy = energy_meter(is_required=options.requires_energy)
    plans = _plans(options)
    paths = _image_paths(options.images)
    results: list[ScenarioResult] = []
    setups: list[SystemSetup] = []
    try:
        with _log_folder(options.logs) as folder, progress_bar() as progress:
            for plan in plans:
                setup = _setup(model, plan.scenario, options, paths, device, foreign, cpu)
                with LoadgenProcess(setup) as process:
                    facts = process.facts
                    result = ScenarioRunner(process, folder, meter, progress).run(plan)
                if as_json:
                    note(f"{plan.scenario}: {_headline(result)}")
                else:
                    # At once: each takes minutes, and may be the last that this run comes to.
                    if not results:
                        _print_head(model, options, cpu, facts, result)
                    _print_scenario(result)
                results.append(result)
                setups.append(setup)
    finally:
        # Of those that were measured before Ctrl-C or an error as well.
        if as_json and results:
            print_json(_document(model, options, cpu, facts, setups, results, no_energy))
    if facts.unreadable:
        warn(f"{facts.unreadable} images could not be read and were passed over, the first: {facts.first_error}")
    if not as_json:
        _print_table(setups, results, no_energy)
    if options.logs is not None:
        note(f"the load generator's logs are in {options.logs}")
    if plot is not None:
        _draw(plot, results)
    disagreeing = [result.plan.scenario for result in results if not result.agrees]
    if disagreeing:
        raise GateError(
            "the load generator's log and our own clock do not agree",
            got=f"other figures in {', '.join(disagreeing)}",
            expected="the same within 2 % or 0.25 ms (server 5 % or 1 ms)",
            hint="close other programs and run it again",
        )


def _plans(options: ScenarioOptions) -> "list[ScenarioPlan]":
    import math

    from edgeclf.runtime.errors import UsageError
    from edgeclf.toolkit.bench.loadgen.runs import ScenarioPlan
    from edgeclf.toolkit.bench.loadgen.scenario_rules import QUICK_RULES, RULES, SCENARIOS

    chosen = [name for name in SCENARIOS if options.scenario in {name, "all"}]
    if not chosen:
        raise UsageError(
            f"unknown scenario {options.scenario!r}",
            expected=" or ".join((*SCENARIOS, "all")),
            hint="choose one of them",
        )
    if not (math.isfinite(options.latency_bound_ms) and options.latency_bound_ms > 0):
        raise UsageError("bad --latency-bound-ms", got=f"{options.latency_bound_ms:g}", expected="more than 0")
    plans = []
    for name in chosen:
        rules = (QUICK_RULES if options.quick else RULES)[name]
        if options.duration_s is not None:
            rules = replace(rules, min_duration_s=max(options.duration_s, 0.1))
        precision = _QUICK_PRECISION if options.quick else _PRECISION
        # With --quick, seconds were asked for.
        may_be_shorter = options.duration_s is None and not options.quick
        plans.append(ScenarioPlan(name, rules, RULES[name], precision, options.latency_bound_ms, may_be_shorter))
    return plans


def _image_paths(folder: Path | None) -> tuple[Path, ...]:
    if folder is None:
        return ()
    from edgeclf.runtime import image_paths

    return tuple(image_paths([folder]))


def _setup(
    model: Path,
    scenario: "Scenario",
    options: ScenarioOptions,
    paths: tuple[Path, ...],
    device: "DeviceChoice",
    foreign: "ForeignModel | None",
    cpu: "CpuInfo",
) -> "SystemSetup":
    """Configuration of the system: all CPUs for the single query of a stream, else one thread per worker."""
    from edgeclf.toolkit.bench.loadgen.process import SystemSetup

    is_stream = scenario.endswith("-stream")
    threads = options.threads or (cpu.usable_cpus if is_stream else 1)
    default_batch = _OFFLINE_BATCH if scenario == "offline" else 1
    return SystemSetup(
        model=model,
        device=device,
        threads=threads,
        workers=max(1, cpu.usable_cpus // threads),
        batch_size=options.batch_size or default_batch,
        image_paths=paths,
        includes_preprocess=options.includes_preprocess,
        foreign=foreign,
    )


@contextlib.contextmanager
def _log_folder(path: Path | None) -> Iterator[Path]:
    from edgeclf.runtime.errors import OutputError
    from edgeclf.runtime.files import output_error

    if path is None:
        with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as folder:
            yield Path(folder)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_used = any(path.iterdir())
    except FileExistsError as error:
        raise OutputError(
            f"cannot keep logs in {path}", got="a file", expected="a folder", hint="choose another path"
        ) from error
    except OSError as error:
        raise output_error(path, error) from error
    if is_used:
        raise OutputError(
            f"cannot keep logs in {path}", got="a folder that is not empty", expected="a new one", hint="name another"
        )
    yield path


def _claim(result: "ScenarioResult") -> str:
    """Claim about a result. It never calls itself an MLPerf result, which takes a review."""
    if result.meets_rules:
        return "MLPerf-style, rules of count and duration met"
    return f"MLPerf-style, not by its rules: {'; '.join(result.lacks)}"


def _document(
    model: Path,
    options: ScenarioOptions,
    cpu: "CpuInfo",
    facts: "SystemFacts",
    setups: "Sequence[SystemSetup]",
    results: "Sequence[ScenarioResult]",
    no_energy: str | None,
) -> dict[str, Any]:
    return {
        "file": str(model),
        "provider": facts.provider,
        "used_as": facts.used_as,
        "cpu": cpu.to_json(),
        "samples": {
            "source": SYNTHETIC_FRAME if options.images is None else str(options.images),
            "count": facts.samples,
            "unreadable": facts.unreadable,
        },
        "includes_preprocess": options.includes_preprocess,
        "energy": {"measured": no_energy is None, "why_not": no_energy},
        "scenarios": [
            {
                **result.to_json(),
                "claim": _claim(result),
                "threads": setup.threads,
                "workers": 1 if _is_stream(result) else setup.workers,
                "batch_size": result.plan.rules.samples_per_query if _is_stream(result) else setup.batch_size,
            }
            for setup, result in zip(setups, results, strict=True)
        ],
    }


def _is_stream(result: "ScenarioResult") -> bool:
    """Whether a scenario has one query at a time."""
    return result.plan.scenario.endswith("-stream")


def _print_head(
    model: Path, options: ScenarioOptions, cpu: "CpuInfo", facts: "SystemFacts", first: "ScenarioResult"
) -> None:
    print_result(f"{model}: MLPerf-style, load generator {first.log.version if first.log else '?'}")
    print_result(f"{facts.provider} on {cpu_text(cpu)}")
    source = SYNTHETIC_FRAME if options.images is None else f"{facts.samples} images of {options.images}"
    timed = "preprocessing, inference, postprocessing" if options.includes_preprocess else "inference, postprocessing"
    print_result(f"samples: {source}, in memory; timed: {timed}")


def _print_scenario(result: "ScenarioResult") -> None:
    """Prints one result, where stdout is a pipe as well."""
    words = [_headline(result), _claim(result), *([result.note] if result.note else [])]
    print_result(f"{result.plan.scenario}: {'. '.join(words)}")
    for item in result.agreement:
        if not item.agrees:
            print_result(f"  {item.name}: ours {item.ours}, the load generator's {item.generators}")
    sys.stdout.flush()
    if result.send_delay_ms is not None:
        note(f"server: queries were sent {result.send_delay_ms:.3g} ms late on average; latencies count from when due")
    if result.probes:
        tried = ", ".join(f"{probe.rate:.4g}{'' if probe.passed else ' (no)'}" for probe in result.probes)
        note(f"server: queries/s that were tried, by bisection: {tried}")


def _print_table(setups: "Sequence[SystemSetup]", results: "Sequence[ScenarioResult]", no_energy: str | None) -> None:
    columns = ["scenario", "threads", "batch", "queries", "result", "p50", "percentile", "duration", "log = ours"]
    rows = []
    for setup, result in zip(setups, results, strict=True):
        figures, is_stream = result.figures, _is_stream(result)
        workers = "" if is_stream or setup.workers == 1 else f"{setup.workers} x "
        rows.append(
            [
                result.plan.scenario,
                f"{workers}{setup.threads}",
                str(result.plan.rules.samples_per_query if is_stream else setup.batch_size),
                str(figures.queries) if figures else "-",
                _headline(result),
                ms_text(figures.p50_ms) if figures and figures.percentile_ms is not None else "-",
                _percentile(result),
                f"{figures.duration_s:.1f} s" if figures else "-",
                "-" if not result.agreement else "yes" if result.agrees else "NO",
            ]
        )
        if no_energy is None:
            energy = result.energy_mj_per_image
            rows[-1].append("-" if energy is None else f"{energy:.3g}")
    print_table("", columns if no_energy else [*columns, "mJ/image"], rows)
    note("Latencies in ms. log = ours: the load generator's log and our own clock give the same figures.")
    if no_energy:
        note(f"energy: not measured ({no_energy})")


def _headline(result: "ScenarioResult") -> str:
    """The scenario's reported figure, from the load generator's log."""
    log, scenario = result.log, result.plan.scenario
    if log is None:
        return "no rate"
    if scenario == "server":
        return f"{rate_text(log.samples_per_s)} queries/s"
    if scenario == "offline":
        return f"{rate_text(log.samples_per_s)} images/s"
    percent = f"p{100 * (result.plan.rules.percentile or 0):.0f}"
    return f"{percent} {ms_text(log.estimate_ms)} ms" if log.estimate_ms is not None else f"too few for {percent}"


def _percentile(result: "ScenarioResult") -> str:
    log, percentile = result.log, result.plan.rules.percentile
    if log is None or percentile is None:
        return "-"
    return f"p{100 * percentile:.0f} {ms_text(log.percentile_ms)}"


def _draw(path: Path, results: "Sequence[ScenarioResult]") -> None:
    curves = []
    for result in results:
        # The single query of `offline` has no distribution.
        if result.figures is None or result.plan.rules.percentile is None:
            continue
        percent = f"p{100 * result.plan.rules.percentile:.0f}"
        is_server = result.plan.scenario == "server"
        rate = f", {rate_text(result.rate_per_s)} queries/s" if is_server else ""
        curves.append(
            Curve(
                f"{result.plan.scenario}{rate}",
                result.latencies_ms,
                result.figures.percentile_ms if is_server else result.figures.estimate_ms,
                percent if is_server else f"{percent}, early-stopping estimate",
                result.plan.latency_bound_ms if is_server else None,
            )
        )
    if not curves:
        warn(f"nothing to draw in {path}: no scenario gave latencies of queries")
        return
    draw_curves(path, curves, title="Latency of a query, MLPerf-style")
    note(f"latencies drawn in {path}")
