"""Parity and export figures as tables."""

from typing import TYPE_CHECKING

from edgeclf.toolkit.console import note, print_result, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeclf.export import ExportReport, LayerFacts, ParityFacts


def print_parity(title: str, facts: "ParityFacts", differing: "Sequence[Path]") -> None:
    """Prints one comparison as a table, and on stderr the images that get another label."""
    print_table(title, ["", *PARITY_COLUMNS], [[facts.split, *parity_cells(facts)]])
    for path in differing:
        note(f"different label: {path}")


PARITY_COLUMNS = ("images", "same label", "max error", "mean error", "accuracy before", "after")


def parity_cells(facts: "ParityFacts") -> list[str]:
    """One comparison as cells of a table."""
    return [
        str(facts.images),
        f"{facts.agreement:.4f}",
        f"{facts.max_error:.2e}",
        f"{facts.mean_error:.2e}",
        "-" if facts.reference_accuracy is None else f"{facts.reference_accuracy:.4f}",
        "-" if facts.candidate_accuracy is None else f"{facts.candidate_accuracy:.4f}",
    ]


def print_export(report: "ExportReport", cpu_model: str) -> None:
    """Prints the figures of an export: parity, then size and latency, then the recommended file."""
    rows = [
        [candidate.name if number == 0 else "", facts.split, *parity_cells(facts)]
        for candidate in report.candidates
        for number, facts in enumerate(candidate.parity)
    ]
    print_table("Parity with the Keras model", ["", "part", *PARITY_COLUMNS], rows)
    if report.trained_in_8_bits:
        print_result("int8 is compared with the network in the 8-bit arithmetic that it was trained in.")
    first = report.candidates[0]
    rows = []
    for candidate in report.candidates:
        latency = candidate.latency
        rows.append(
            [
                candidate.name,
                f"{candidate.file_bytes / 1e6:.2f} MB",
                f"{candidate.file_bytes / first.file_bytes:.2f}x",
                "-" if latency is None else f"{latency.median_ms:.2f} ms",
                "-" if latency is None else f"{latency.p90_ms:.2f} ms",
                "-" if latency is None else f"{latency.ratio:.2f}x",
                "failed" if candidate.failures else "passed",
                "ship this" if candidate.name == report.recommendation.precision else "",
            ]
        )
    columns = ["", "size", "of fp32", "median", "p90", "of fp32", "gate", ""]
    print_table(f"One image, one thread, {cpu_model}", columns, rows)
    if len(report.recipes) > 1:
        print_recipes(report)
    print_result(f"Ship {report.recommendation.precision}: {report.recommendation.reason}.")


def print_recipes(report: "ExportReport") -> None:
    """Prints the int8 recipes that were tried, the best first."""
    from edgeclf.export import pareto_front

    front = pareto_front(report.recipes)
    rows = []
    for position, item in enumerate(report.recipes):
        facts = item.parity[0]
        rows.append(
            [
                item.name,
                f"{facts.agreement:.4f}",
                f"{facts.mean_error:.2e}",
                "-" if facts.candidate_accuracy is None else f"{facts.candidate_accuracy:.4f}",
                f"{item.file_bytes / 1e6:.2f} MB",
                "-" if item.latency is None else f"{item.latency.ratio:.2f}x",
                "failed" if item.failures else "passed",
                "none better" if position in front else "",
            ]
        )
    first = report.recipes[0].parity[0]
    columns = ["", "same label", "mean error", "accuracy", "size", "of fp32", "gate", ""]
    reused = f", {report.reused_recipes} of them tried by an earlier export" if report.reused_recipes else ""
    print_table(f"int8 recipes on {first.images} {first.split} images{reused}", columns, rows)


def print_layers(layers: "Sequence[LayerFacts]") -> None:
    """Prints the layers of an int8 file, those that lose most first."""
    from edgeclf.export import worst_first

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f} dB"

    rows = [
        [str(item.position), item.name, item.operator, item.precision]
        + [cell(value) for value in (item.weight_sqnr_db, item.output_sqnr_db, item.lost_db)]
        for item in worst_first(tuple(layers))
    ]
    columns = ["", "layer", "operator", "", "weights", "outputs", "lost here"]
    print_table("Signal to quantization noise, the most lost first", columns, rows)
