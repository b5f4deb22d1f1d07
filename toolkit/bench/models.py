"""`edgeclf bench` without a scenario: one model in every configuration, or several in turns."""

from pathlib import Path

from edgeclf.runtime import DeviceChoice, ForeignModel, ModelSession
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.timing.comparison import CONFIDENCE, compare_models
from edgeclf.runtime.timing.latency import BenchResult, benchmark
from edgeclf.toolkit.bench.plot import Curve
from edgeclf.toolkit.bench.tables import energy_meter, print_compared, print_measured
from edgeclf.toolkit.console import print_json, progress_bar, warn
from edgeclf.toolkit.foreign import note_use, options_for, refuse_idle_options, use_json
from edgeclf.toolkit.reports.cpu_warning import warn_of_other_cpu


def measure_one(
    model: Path,
    device: DeviceChoice,
    foreign: ForeignModel | None,
    *,
    image: Path | None,
    batches: list[int],
    thread_counts: list[int] | None,
    duration_s: float,
    min_queries: int,
    warmup: int,
    requires_energy: bool,
    as_json: bool,
) -> list[Curve]:
    """Measures and prints one model in every configuration that was asked for; returns its curves for a plot.

    Raises:
        EdgeclfError: The model, the image or the device cannot be used, or there is no energy counter and there must be.
    """
    cpu = cpu_info()
    meter, no_energy = energy_meter(is_required=requires_energy)
    counts = thread_counts or [cpu.usable_cpus]
    session = ModelSession(model, threads=counts[0], device=device, foreign=foreign)
    if thread_counts is None and session.provider == "CPUExecutionProvider":
        counts = sorted({1, cpu.usable_cpus})
    note_use(session)
    spec = session.spec
    difference = warn_of_other_cpu(model, spec, cpu)
    _warn_of_many_threads(max(counts), cpu.usable_cpus)
    results: list[BenchResult] = []
    curves: list[Curve] = []
    with progress_bar() as progress:
        for count in counts:
            if session.threads != count:
                session = ModelSession(model, threads=count, device=device, foreign=foreign)
            for batch in batches:
                _warn_of_padding(session, batch)
                result, times = benchmark(
                    session,
                    image,
                    batch_size=batch,
                    duration_s=duration_s,
                    min_queries=min_queries,
                    warmup_queries=warmup,
                    meter=meter,
                    progress=progress,
                )
                results.append(result)
                label = f"batch {batch}, {count} thread{'s' * (count > 1)}"
                curves.append(Curve(label, times.query_ms, result.query.p90_ms, "p90"))
    if as_json:
        print_json(
            {
                "file": str(model),
                "architecture": spec.architecture,
                "precision": None if session.is_foreign else spec.precision,
                "used_as": use_json(session),
                "cpu": cpu.to_json(),
                "isa_difference": difference,
                "placement": session.placement,
                "energy": {"measured": meter is not None, "why_not": no_energy},
                "results": [result.to_json() for result in results],
            }
        )
    else:
        print_measured(model, session, cpu, results, no_energy)
    return curves


def compare(
    models: list[Path],
    device: DeviceChoice,
    foreign: ForeignModel,
    *,
    image: Path | None,
    batch: int,
    threads: int,
    duration_s: float,
    min_rounds: int,
    warmup: int,
    requires_energy: bool,
    as_json: bool,
) -> list[Curve]:
    """Measures and prints several models in turns; returns their curves for a plot.

    Raises:
        UsageError: Energy is asked for, or there are too few rounds.
        EdgeclfError: A model, the image or the device cannot be used.
    """
    if requires_energy:
        raise UsageError(
            "energy cannot be told apart", got="several models in turns", expected="one model", hint="bench each alone"
        )
    cpu = cpu_info()
    sessions: dict[str, ModelSession] = {}
    for number, model in enumerate(models, start=1):
        # The same file twice is a fair question: it shows what this machine cannot tell apart.
        name = str(model) if str(model) not in sessions else f"{model} ({number})"
        options = options_for(model, foreign, models)
        sessions[name] = ModelSession(model, threads=threads, device=device, foreign=options)
        note_use(sessions[name])
        warn_of_other_cpu(model, sessions[name].spec, cpu)
        _warn_of_padding(sessions[name], batch)
    refuse_idle_options(foreign, list(sessions.values()))
    with progress_bar() as progress:
        compared = compare_models(
            sessions,
            image,
            batch_size=batch,
            duration_s=duration_s,
            min_rounds=min_rounds,
            warmup_rounds=warmup,
            progress=progress,
        )
    if as_json:
        print_json(
            {
                "cpu": cpu.to_json(),
                "batch_size": batch,
                "threads": threads,
                "rounds": compared[0].query.samples // 2,
                "confidence": CONFIDENCE,
                "models": [{**item.to_json(), "used_as": use_json(sessions[item.name])} for item in compared],
            }
        )
    else:
        print_compared(cpu, compared, image, batch, threads)
    return [Curve(item.name, item.times.query_ms, item.query.p90_ms, "p90") for item in compared]


def _warn_of_many_threads(threads: int, cpus: int) -> None:
    if threads > cpus:
        warn(f"{threads} threads share the {cpus} CPUs this process may use")


def _warn_of_padding(session: ModelSession, batch: int) -> None:
    if session.fixed_batch is not None and batch % session.fixed_batch:
        warn(f"{session.path} takes batches of {session.fixed_batch} only: a batch of {batch} is padded and costs more")
