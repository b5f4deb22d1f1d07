"""Parity and export figures as tables."""

import math
from typing import TYPE_CHECKING

from edgeclf.toolkit.console import note, print_result, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeclf.export import ExportReport, LayerFacts, ParityFacts
    from edgeclf.export.verify.verdict import Limits


def print_parity(title: str, facts: "ParityFacts", outcome: str, differing: "Sequence[Path]") -> None:
    """Prints one comparison as a table, and on stderr the images that get another label."""
    print_table(title, ["", *PARITY_COLUMNS], [[facts.split, *parity_cells(facts, outcome)]])
    for line in parity_notes(facts):
        print_result(line)
    for path in differing:
        note(f"different label: {path}")


def limits_sentence(limits: "Limits", recorded: "Limits | None") -> str:
    """Which limits apply, and whether the file was written with others."""
    from edgeclf.export.verify.verdict import describe_limits

    applied = describe_limits(limits)
    if recorded is None:
        return f"judged by {applied}; the file records no limits"
    if recorded == limits:
        return f"judged by the limits recorded in the file: {applied}"
    return f"judged by {applied}; the file was written with other limits: {describe_limits(recorded)}"


# Where labels are to be kept and accuracy is not known, rounding usually keeps as many.
_USUAL_AGREEMENT = 0.99
PARITY_COLUMNS = (
    "images",
    "same label",
    "where sure",
    "max error",
    "accuracy",
    "points lost",
    "verdict",
)


def parity_cells(facts: "ParityFacts", outcome: str) -> list[str]:
    """One comparison, and its verdict, as cells of a table."""
    drop, interval = facts.accuracy_drop, facts.accuracy_drop_interval
    return [
        str(facts.images),
        f"{facts.agreement:.4f}",
        "-" if facts.sure_agreement is None else f"{facts.sure_agreement:.4f}",
        f"{facts.max_error:.2e}",
        "-" if drop is None else f"{facts.reference_accuracy:.4f} -> {facts.candidate_accuracy:.4f}",
        "-" if drop is None or interval is None else _points(drop, interval),
        outcome,
    ]


def _points(drop: float, interval: tuple[float, float]) -> str:
    """A loss of accuracy in points with its interval, whose ends are rounded outwards."""
    low, high = math.floor(1e3 * interval[0]) / 10, math.ceil(1e3 * interval[1]) / 10
    # Without the sign of a rounded zero.
    return f"{round(100 * drop, 1) + 0.0:.1f} ({low:.1f} to {high:.1f})"


def parity_notes(facts: "ParityFacts") -> list[str]:
    """What a comparison says beyond its row: intervals, the agreement that its errors let expect, and the decisions."""
    line = f"On {facts.split} images the same label for {_with_interval(facts.agreement, facts.agreement_interval)}"
    if expected := facts.expected_agreement:
        mean, low, high = expected
        line += f"; errors of the measured size let expect {mean:.4f} ({low:.4f} to {high:.4f})"
    lines = [f"{line}."]
    before, after = facts.reference_accuracy_interval, facts.candidate_accuracy_interval
    if before is not None and after is not None:
        lines.append(
            f"On {facts.split} images accuracy {_with_interval(facts.reference_accuracy or 0.0, before)} before, "
            f"{_with_interval(facts.candidate_accuracy or 0.0, after)} after."
        )
    if facts.decision_agreement is not None:
        lines.append(
            f"On {facts.split} images the same decision, label or unknown, for {facts.decision_agreement:.4f}; unknown were "
            f"{facts.reference_rejected:.4f} before, {facts.candidate_rejected:.4f} after."
        )
    return lines


def _with_interval(share: float, interval: tuple[float, float]) -> str:
    """A share with its 95 % interval, whose ends are rounded outwards."""
    low, high = math.floor(1e4 * interval[0]) / 1e4, math.ceil(1e4 * interval[1]) / 1e4
    return f"{share:.4f} (95 % interval {low:.4f} to {high:.4f})"


def unlabelled_warning(facts: "ParityFacts") -> str | None:
    """What to think of a rounded file that changes many labels, where no image has one; None of any other.

    Args:
        facts: The comparison that decides.
    """
    if facts.candidate_accuracy is not None or facts.agreement_interval[1] >= _USUAL_AGREEMENT:
        return None
    return (
        f"{facts.flips} of {facts.images} {facts.split} images get another label, and without labels nobody can say whether the "
        "better one: photographs of what the model was made for, sorted by class, would tell; --min-agreement "
        f"{_USUAL_AGREEMENT:g} refuses such a file and tries more"
    )


def replacement_sentence(facts: "ParityFacts") -> str:
    """What a network that was trained anew gains or loses against the one whose place it takes."""
    drop, interval = facts.accuracy_drop, facts.accuracy_drop_interval
    return (
        f"accuracy {facts.reference_accuracy:.4f} -> {facts.candidate_accuracy:.4f} on {facts.images} {facts.split} images, "
        f"points lost {_points(drop, interval)}, same label for {facts.agreement:.4f}"
        if drop is not None and interval is not None
        else f"same label for {facts.agreement:.4f} of {facts.images} {facts.split} images"
    )


def print_export(report: "ExportReport", cpu_model: str) -> None:
    """Prints the figures of an export: parity, then size and latency, then the recommended file."""
    rows = [
        [
            candidate.name if number == 0 else "",
            facts.split,
            *parity_cells(facts, candidate.verdict.outcome if number == 0 or candidate.name == "fp32" else "-"),
        ]
        for candidate in report.candidates
        for number, facts in enumerate(candidate.parity)
    ]
    print_table(f"Parity with {report.reference}", ["", "split", *PARITY_COLUMNS], rows)
    for facts in report.candidates[-1].parity:
        for line in parity_notes(facts):
            print_result(line)
    fit = report.candidates[-1].rejection
    if fit is not None and fit.threshold != fit.trained_threshold:
        print_result(
            f"The rejection threshold is {fit.threshold:.4f} in this file: at {fit.trained_threshold:.4f}, that of the "
            f"training, it would reject {fit.rejected_at_trained:.2%} of the validation images and not "
            f"{fit.reference_rejected:.2%}; now {fit.rejected:.2%}."
        )
    if report.trained_in_8_bits:
        print_result("int8 is compared with the network in the 8-bit arithmetic that it was trained in.")
    if replaced := report.candidates[-1].replaced:
        rows = [[report.precision, facts.split, *parity_cells(facts, "-")] for facts in replaced]
        print_table("Compared with the network before it was trained for 8 bits", ["", "split", *PARITY_COLUMNS], rows)
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
                candidate.verdict.outcome,
                "ship this" if candidate.name == report.recommendation.precision and not candidate.failures else "",
            ]
        )
    columns = ["", "size", "of fp32", "median", "p90", "of fp32", "gate", ""]
    print_table(f"One image, one thread, {cpu_model}", columns, rows)
    if len(report.recipes) > 1:
        print_recipes(report)
    if not report.candidates[0].failures:
        # fp32 is what every recommendation falls back to.
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
                "yes" if item.portable else "no",
                item.verdict.outcome,
                _remark(position, failed=bool(item.failures), on_front=position in front and item.latency is not None),
            ]
        )
    first = report.recipes[0].parity[0]
    columns = ["", "same label", "mean error", "accuracy", "size", "of fp32", "portable", "gate", ""]
    reused = f", {report.reused_recipes} of them tried by an earlier export" if report.reused_recipes else ""
    print_table(f"int8 recipes on {first.images} {first.split} images{reused}", columns, rows)


def _remark(position: int, *, failed: bool, on_front: bool) -> str:
    """The first recipe is the one whose figures the other tables and the error quote; others may be as good in their way."""
    if position == 0:
        return "best" if failed else "chosen"
    return "none better" if on_front else ""


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
