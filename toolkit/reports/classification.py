"""Table of a classification report."""

from typing import TYPE_CHECKING

from edgeclf.toolkit.console import note, print_result, print_table

if TYPE_CHECKING:
    from edgeclf.runtime.metrics import ClassificationReport

# Most classes whose confusion matrix fits a terminal.
_MOST_CONFUSION_COLUMNS = 8
# With fewer images the interval of an accuracy is wider than what most changes of a model make.
_FEW_IMAGES = 100


def print_report(title: str, report: "ClassificationReport") -> None:
    """Prints overall figures, then one row per class, with its row of the confusion matrix where there are few classes."""
    low, high = report.accuracy_interval
    print_result(
        f"{title}: accuracy {report.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}), macro F1 {report.macro_f1:.4f}, "
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
    if report.count < _FEW_IMAGES:
        note(f"{report.count} images are too few to say more than the interval does; {_FEW_IMAGES} or more are better")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
