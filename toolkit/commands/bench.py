"""`edgeclf bench`: latency and throughput of a model, and the comparison of several."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeclf.toolkit.bench.tables import SYNTHETIC_FRAME
from edgeclf.toolkit.console import note
from edgeclf.toolkit.foreign import no_options, takes_foreign_files
from edgeclf.toolkit.options import (
    FILE_METAVAR,
    DeviceOption,
    EngineCacheOption,
    JsonOption,
    ProviderOptionOption,
    chosen_device,
    output_png,
)

if TYPE_CHECKING:
    from edgeclf.runtime import ForeignModel
    from edgeclf.toolkit.bench.plot import Curve

_DEFAULT_DURATION_S = 3.0
_DEFAULT_MIN_QUERIES = 100
_DEFAULT_WARMUP = 10
# As in MLPerf's server scenario of image classification (ResNet-50).
_DEFAULT_LATENCY_BOUND_MS = 15.0
# Rounds of a comparison; in each, every model runs twice.
_DEFAULT_MIN_ROUNDS = 30


@takes_foreign_files
def bench(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL", help="The .onnx file; several are compared with the first.", show_default=False
        ),
    ],
    scenario: Annotated[
        str | None,
        typer.Option(
            "--scenario",
            help="MLPerf-style with MLCommons' load generator: single-stream, multi-stream, server, offline or all; "
            '600 s each, or as long as the queries fit into the memory. Needs pip install "edgeclf[bench]".',
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="--scenario: 2 s and the fewest queries that give an estimate.")
    ] = False,
    latency_bound: Annotated[
        float | None,
        typer.Option(
            "--latency-bound-ms",
            help="--scenario server: what 99 % of the queries must keep to. Default: 15.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            help=f"--scenario: a folder of images, up to 1,024 of them in memory. Default: a {SYNTHETIC_FRAME}.",
            show_default=False,
        ),
    ] = None,
    with_preprocess: Annotated[
        bool,
        typer.Option(
            "--with-preprocess",
            help="--scenario: resizing and colour conversion are part of a query. MLPerf leaves them out.",
        ),
    ] = False,
    logs: Annotated[
        Path | None,
        typer.Option("--logs", help="--scenario: keep the load generator's logs in this folder.", show_default=False),
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            "--batch-sizes",
            help="Images in one inference, such as 1,8. Default: 1; 8 in scenario offline.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            help="Threads inside one inference, such as 1,2. Default: 1, and the CPUs this process may use; 1 "
            "in the scenarios server and offline, which classify several images at once. Several models have one each.",
            show_default=False,
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration",
            min=0.0,
            help="Seconds to measure a configuration, a model or a scenario. Default: 3; 600 for a scenario.",
            show_default=False,
        ),
    ] = None,
    min_queries: Annotated[
        int | None,
        typer.Option(
            "--min-queries",
            min=1,
            help="Queries (of a comparison: rounds) to measure even if that takes longer; p99 needs 100. Default: 100; "
            "30 rounds.",
            show_default=False,
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option("--warmup", min=0, help="Queries to run before measuring. Default: 10.", show_default=False),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            help=f"Measure with this file, reading and decoding it for every query. Default: a {SYNTHETIC_FRAME}.",
            show_default=False,
        ),
    ] = None,
    energy: Annotated[
        bool,
        typer.Option(
            "--energy",
            help="Energy per image is measured where the CPU's counters (RAPL) can be read; it is an error where not.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Draw the distribution of the latencies into this .png file.",
            parser=output_png("--plot", "latency.png"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    provider_option: ProviderOptionOption = None,
    engine_cache: EngineCacheOption = None,
    as_json: JsonOption = False,
    foreign: "ForeignModel | None" = None,
) -> None:
    """Measure latency percentiles and throughput, split into preprocessing, inference and postprocessing."""
    from edgeclf.runtime.cpus import check_batch_size, check_threads
    from edgeclf.runtime.errors import UsageError
    from edgeclf.toolkit.bench.models import compare, measure_one
    from edgeclf.toolkit.bench.plot import check_plot, draw_curves
    from edgeclf.toolkit.bench.scenarios import ScenarioOptions, bench_scenarios

    _check_combination(
        scenario,
        len(models),
        for_scenarios={
            "--quick": quick,
            "--images": images is not None,
            "--with-preprocess": with_preprocess,
            "--logs": logs is not None,
            "--latency-bound-ms": latency_bound is not None,
        },
        not_for_scenarios={
            "--image": image is not None,
            "--min-queries": min_queries is not None,
            "--warmup": warmup is not None,
        },
    )
    _check_scenario(scenario, {"--latency-bound-ms": latency_bound, "--batch-sizes": batch_sizes, "--plot": plot})
    if plot is not None:
        check_plot()
    choice = chosen_device(device, provider_option, engine_cache)
    batches = _counts("--batch-sizes", batch_sizes) if batch_sizes is not None else None
    thread_counts = _counts("--threads", threads) if threads is not None else None
    for size in batches or ():
        check_batch_size(size)
    for count in thread_counts or ():
        check_threads("number of threads", count)
    if (scenario is not None or len(models) > 1) and max(len(batches or [1]), len(thread_counts or [1])) > 1:
        raise UsageError("several batch sizes or numbers of threads", expected="one of each, where models are compared")
    curves: list[Curve]
    if scenario is not None:
        options = ScenarioOptions(
            scenario=scenario,
            quick=quick,
            duration_s=duration,
            latency_bound_ms=_DEFAULT_LATENCY_BOUND_MS if latency_bound is None else latency_bound,
            images=images,
            includes_preprocess=with_preprocess,
            logs=logs,
            batch_size=batches[0] if batches else None,
            threads=thread_counts[0] if thread_counts else None,
            requires_energy=energy,
        )
        bench_scenarios(models[0], options, choice, foreign, plot=plot, as_json=as_json)
        return
    if len(models) > 1:
        curves = compare(
            models,
            choice,
            foreign or no_options(),
            image=image,
            batch=(batches or [1])[0],
            threads=(thread_counts or [1])[0],
            duration_s=_DEFAULT_DURATION_S if duration is None else duration,
            min_rounds=min_queries or _DEFAULT_MIN_ROUNDS,
            warmup=_DEFAULT_WARMUP if warmup is None else warmup,
            requires_energy=energy,
            as_json=as_json,
        )
    else:
        curves = measure_one(
            models[0],
            choice,
            foreign,
            image=image,
            batches=batches or [1],
            thread_counts=thread_counts,
            duration_s=_DEFAULT_DURATION_S if duration is None else duration,
            min_queries=min_queries or _DEFAULT_MIN_QUERIES,
            warmup=_DEFAULT_WARMUP if warmup is None else warmup,
            requires_energy=energy,
            as_json=as_json,
        )
    if plot is not None:
        draw_curves(plot, curves, title="Latency of a query, from frame to prediction")
        note(f"latencies drawn in {plot}")


def _check_combination(
    scenario: str | None, models: int, *, for_scenarios: dict[str, bool], not_for_scenarios: dict[str, bool]
) -> None:
    """Refuses options that would do nothing."""
    from edgeclf.runtime.errors import UsageError

    if scenario is not None and models > 1:
        raise UsageError("a scenario runs one model", got=f"{models} models", expected="one", hint="run it for each")
    idle = for_scenarios if scenario is None else not_for_scenarios
    for option, is_given in idle.items():
        if is_given:
            raise UsageError(
                f"{option} does nothing here",
                got=f"{option} {'without' if scenario is None else 'with'} --scenario",
                expected="--scenario beside it" if scenario is None else "a bench without --scenario",
                hint="leave one of them out" if scenario is not None else "add --scenario, or leave it out",
            )


def _check_scenario(scenario: str | None, options: dict[str, object]) -> None:
    """Refuses options that would do nothing in the one scenario that is named."""
    from edgeclf.toolkit.options import refuse_idle

    # The rules fix how many images a query of a stream has; only a server has a bound; the one query of offline has no
    # distribution to draw.
    of_others = {
        "--latency-bound-ms": {"single-stream", "multi-stream", "offline"},
        "--batch-sizes": {"single-stream", "multi-stream"},
        "--plot": {"offline"},
    }
    for option, value in options.items():
        if scenario in of_others[option]:
            refuse_idle({option: value}, f"with --scenario {scenario}")


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
