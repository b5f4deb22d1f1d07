"""A classification report as a table."""

from typing import TYPE_CHECKING

from edgeclf.toolkit.console import print_result, print_table

if TYPE_CHECKING:
    from edgeclf.runtime.metrics import ClassificationReport

# With more classes the columns of the confusion matrix no longer fit a terminal.
_MOST_CONFUSION_COLUMNS = 8


def print_report(title: str, report: "ClassificationReport") -> None:
    """Prints a line of overall figures, then a row a class, with few classes also what its images were taken for."""
    print_result(
        f"{title}: accuracy {report.accuracy:.4f}, macro F1 {report.macro_f1:.4f}, "
        f"expected calibration error {report.expected_calibration_error:.4f}"
    )
    confusion = report.labels if len(report.labels) <= _MOST_CONFUSION_COLUMNS else ()
    rows = [
        [
            figures.label,
            str(figures.support),
            *map(_share, (figures.precision, figures.recall, figures.f1)),
            *(map(str, counts) if confusion else ()),
        ]
        for figures, counts in zip(report.per_class, report.confusion.tolist(), strict=True)
    ]
    columns = ["class", "images", "precision", "recall", "F1", *(f"taken for {label}" for label in confusion)]
    print_table("", columns, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
