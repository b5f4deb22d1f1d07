"""A classification report as a table."""

from typing import TYPE_CHECKING

from edgeclf.toolkit.console import print_table

if TYPE_CHECKING:
    from edgeclf.runtime.metrics import ClassificationReport


def print_report(title: str, report: "ClassificationReport") -> None:
    """Prints overall and per-class figures, and with few classes the confusion matrix."""
    print_table(
        title,
        ["class", "images", "precision", "recall", "F1"],
        [
            [figures.label, str(figures.support), *map(_share, (figures.precision, figures.recall, figures.f1))]
            for figures in report.per_class
        ]
        + [["all", str(report.count), "", f"accuracy {report.accuracy:.4f}", f"macro {report.macro_f1:.4f}"]],
    )
    print_table(
        "",
        ["", "expected calibration error"],
        [["", f"{report.expected_calibration_error:.4f}"]],
    )
    if len(report.labels) <= 12:
        print_table(
            "Confusion: rows true, columns predicted",
            ["", *report.labels],
            [[label, *map(str, row)] for label, row in zip(report.labels, report.confusion.tolist(), strict=True)],
        )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
