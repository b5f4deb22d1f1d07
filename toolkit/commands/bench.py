"""`edgeclf bench`: what a model costs on this machine, and where the time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, print_json, print_result, print_table, progress_bar, warn
from edgeclf.toolkit.options import DeviceOption, JsonOption, LabelsOption, MeanOption, StdOption, model_arguments
from edgeclf.toolkit.other_cpu import warn_of_other_cpu

if TYPE_CHECKING:
    from edgeclf.runtime.bench import BenchResult
    from edgeclf.runtime.session import ModelSession

_COLUMNS = ("batch", "threads", "p50", "p90", "p95", "p99", "mean", "min", "images/s", "pre", "infer", "post")


def bench(
    model: Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)],
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", help="Images in one inference, such as 1,8.")] = "1",
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            help="Threads inside one inference, such as 1,2. Default: 1, and the CPUs this process may use.",
            show_default=False,
        ),
    ] = None,
    duration: Annotated[float, typer.Option("--duration", min=0.0, help="Seconds to measure a configuration.")] = 3.0,
    min_queries: Annotated[
        int,
        typer.Option("--min-queries", min=1, help="Queries to measure even if that takes longer; p99 needs 100."),
    ] = 100,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Queries to run before measuring.")] = 10,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            help="Measure with this file, reading and decoding it for every query. Default: a synthetic 640x480 frame.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    labels: LabelsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency percentiles and throughput, split into preprocessing, inference and postprocessing."""
    from edgeclf.runtime.bench import benchmark
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.session import ModelSession

    cpu = cpu_info()
    batches = _counts("--batch-sizes", batch_sizes)
    thread_counts = _counts("--threads", threads) if threads is not None else [cpu.usable_cpus]
    arguments = model_arguments(labels, mean, std)
    session = ModelSession(model, device=device, threads=thread_counts[0], **arguments)
    if threads is None and session.provider == "CPUExecutionProvider":
        thread_counts = sorted({1, cpu.usable_cpus})
    spec = session.spec
    difference = warn_of_other_cpu(model, spec, cpu)
    if max(thread_counts) > cpu.usable_cpus:
        warn(f"{max(thread_counts)} threads share the {cpu.usable_cpus} CPUs this process may use")
    results: list[BenchResult] = []
    with progress_bar() as progress:
        for count in thread_counts:
            if session.threads != count:
                session = ModelSession(model, device=device, threads=count, **arguments)
            for batch in batches:
                _warn_of_padding(session, batch)
                result = benchmark(
                    session,
                    image,
                    batch_size=batch,
                    duration_s=duration,
                    min_queries=min_queries,
                    warmup_queries=warmup,
                    progress=progress,
                )
                results.append(result)
    if as_json:
        print_json(
            {
                "file": str(model),
                "architecture": spec.architecture,
                "precision": None if session.is_foreign else spec.precision,
                "cpu": cpu.to_json(),
                "isa_difference": difference,
                "results": [result.to_json() for result in results],
            }
        )
        return
    print_result(f"{model}: {spec.architecture}, {'precision unknown' if session.is_foreign else spec.precision}")
    print_result(f"{results[0].provider} on {cpu.model} ({' '.join(cpu.isa_flags) or cpu.architecture})")
    decoded = "read and decoded for every query" if results[0].includes_decode else "nothing to decode"
    print_result(f"input: {results[0].source}, {decoded}; {spec.preprocess.key}")
    print_table("", _COLUMNS, [_row(result) for result in results])
    note("p50 to min: ms for a whole query (batch). pre, infer, post: mean ms for one image. One query at a time.")
    if min(result.query.samples for result in results) < 100:
        note("- : too few queries for this percentile (p90 needs 10, p95 20, p99 100; see --min-queries)")


def _counts(option: str, text: str) -> list[int]:
    """The numbers in `1,2,8`, each once, in their order."""
    from edgeclf.runtime.errors import UsageError

    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UsageError(f"bad {option}", got=repr(text), expected="whole numbers from 1 on, such as 1,2")
    return list(dict.fromkeys(counts))


def _warn_of_padding(session: "ModelSession", batch: int) -> None:
    if session.fixed_batch is not None and batch % session.fixed_batch:
        warn(f"{session.path} takes batches of {session.fixed_batch} only: a batch of {batch} is padded and costs more")


def _row(result: "BenchResult") -> Sequence[str]:
    query = result.query
    latencies: list[Any] = [query.p50_ms, query.p90_ms, query.p95_ms, query.p99_ms, query.mean_ms, query.min_ms]
    stages = [result.preprocess.mean_ms, result.infer.mean_ms, result.postprocess.mean_ms]
    return [
        str(result.batch_size),
        str(result.threads),
        *(_ms(value) for value in latencies),
        f"{result.images_per_s:.4g}" if result.images_per_s < 1000 else f"{result.images_per_s:.0f}",
        *(_ms(value) for value in stages),
    ]


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
