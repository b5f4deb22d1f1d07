"""Tables of `edgeclf bench`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.toolkit.console import note, print_result, print_table

if TYPE_CHECKING:
    from edgeclf.runtime import ModelSession
    from edgeclf.runtime.cpus import CpuInfo
    from edgeclf.runtime.timing.comparison import ComparedModel, Ratio
    from edgeclf.runtime.timing.energy import EnergyMeter
    from edgeclf.runtime.timing.latency import BenchResult

# What is measured without an image of the user's, see `runtime.timing.queries.synthetic_frame`.
SYNTHETIC_FRAME = "synthetic 640x480 frame"
_COLUMNS = ("batch", "threads", "p50", "p90", "p95", "p99", "mean", "min", "images/s", "pre", "infer", "post")


def energy_meter(*, is_required: bool) -> "tuple[EnergyMeter | None, str | None]":
    """An energy meter, or the reason why there is none.

    Raises:
        DeviceUnavailableError: There is none and there must be.
    """
    from edgeclf.runtime.errors import DeviceUnavailableError
    from edgeclf.runtime.timing.energy import EnergyMeter

    try:
        return EnergyMeter(), None
    except DeviceUnavailableError as error:
        if is_required:
            raise
        return None, error.got


def print_measured(
    model: Path, session: "ModelSession", cpu: "CpuInfo", results: "Sequence[BenchResult]", no_energy: str | None
) -> None:
    """Prints the figures of one model, a row for each configuration."""
    spec = session.spec
    print_result(f"{model}: {spec.architecture}, {'precision unknown' if session.is_foreign else spec.precision}")
    print_result(f"{session.provider} on {cpu_text(cpu)}{placement_text(session.provider, session.placement)}")
    decoded = "read and decoded for every query" if results[0].includes_decode else "nothing to decode"
    print_result(f"input: {results[0].source}, {decoded}; {spec.preprocess.key}")
    columns = _COLUMNS if no_energy else (*_COLUMNS, "mJ/image")
    print_table("", columns, [_row(result, has_energy=not no_energy) for result in results])
    note("p50 to min: ms for a whole query (batch). pre, infer, post: mean ms for one image. One query at a time.")
    if min(result.query.samples for result in results) < 100:
        note("- : too few queries for this percentile (p90 needs 10, p95 20, p99 100; see --min-queries)")
    note(
        f"energy: not measured ({no_energy})" if no_energy else "mJ/image: the CPU package, all it did beside included."
    )


def print_compared(
    cpu: "CpuInfo", compared: "Sequence[ComparedModel]", image: Path | None, batch: int, threads: int
) -> None:
    """Prints the comparison of several models, a row for each."""
    from edgeclf.runtime.timing.comparison import CONFIDENCE

    print_result(f"{compared[0].provider} on {cpu_text(cpu)}, batch {batch}, {threads} thread{'s' * (threads > 1)}")
    print_result(f"input: {image or SYNTHETIC_FRAME}; {compared[0].query.samples // 2} rounds, models in turns")
    columns = ("model", "input", "query p50", "p90", "infer p50", "query ratio", "infer ratio", "verdict")
    rows = [
        [
            item.name,
            f"{item.size_hw[1]}x{item.size_hw[0]}",
            ms_text(item.query.p50_ms),
            ms_text(item.query.p90_ms),
            ms_text(item.infer.p50_ms),
            "1" if item is compared[0] else _ratio(item.query_ratio),
            "1" if item is compared[0] else _ratio(item.infer_ratio),
            "reference" if item is compared[0] else item.query_ratio.verdict,
        ]
        for item in compared
    ]
    print_table("", columns, rows)
    note(
        "ms. query: from frame to prediction. Ratio to the first model: the median over rounds, in brackets the interval "
        f"that holds it with {CONFIDENCE:.0%} confidence (sign test); the verdict is about the query."
    )


def ms_text(value: float | None) -> str:
    """Milliseconds with as many digits as are worth reading; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def rate_text(value: float | None) -> str:
    """A rate with four digits; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def placement_text(provider: str, placement: Mapping[str, int] | None) -> str:
    """Number of nodes by provider, as a phrase, for a device that shares a network with the CPU; empty for the CPU alone."""
    if provider == "CPUExecutionProvider":
        return ""
    if placement is None:
        return "; this ONNX Runtime does not tell how many nodes run there"
    return "; nodes: " + ", ".join(f"{count} on {name}" for name, count in placement.items())


def cpu_text(cpu: "CpuInfo") -> str:
    """The CPU's model and, in brackets, its instruction sets or its architecture."""
    return f"{cpu.model} ({' '.join(cpu.isa_flags) or cpu.architecture})"


def _ratio(ratio: "Ratio") -> str:
    return f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def _row(result: "BenchResult", *, has_energy: bool) -> list[str]:
    query = result.query
    latencies: list[Any] = [query.p50_ms, query.p90_ms, query.p95_ms, query.p99_ms, query.mean_ms, query.min_ms]
    stages = [result.preprocess.mean_ms, result.infer.mean_ms, result.postprocess.mean_ms]
    return [
        str(result.batch_size),
        str(result.threads),
        *(ms_text(value) for value in latencies),
        rate_text(result.images_per_s),
        *(ms_text(value) for value in stages),
        *([f"{result.energy_mj_per_image:.3g}"] if has_energy and result.energy_mj_per_image is not None else []),
    ]
