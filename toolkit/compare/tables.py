"""A comparison as tables on stdout, and the images that changed as a CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from edgeclf.runtime.files import replacing
from edgeclf.toolkit.compare.comparison import ChangedImage, ClassOfOne, Comparison
from edgeclf.toolkit.compare.sides import Side
from edgeclf.toolkit.console import print_result, print_table, printable

# Images that are listed; --out and --json have all.
_LISTED = 20


def print_comparison(sides: tuple[Side, Side], facts: Comparison, name: str, data: str) -> None:
    """Prints the verdict, the classes, and the first images that changed.

    Args:
        sides: A and B.
        facts: The comparison.
        name: Name of the images, such as `test`.
        data: Where they come from.
    """
    shared = facts.shared
    for side in sides:
        precision = "precision unknown" if side.used_as is not None else side.spec.precision
        print_result(f"{side.letter}: {side.path} ({side.spec.architecture}, {precision}, {side.ran_on})")
    print_result(f"{shared.images} {name} images of {data}" + (" of classes that both know" if _differ(facts) else ""))
    if shared.images:
        print_result(
            f"accuracy: A {shared.first_accuracy:.4f}, B {shared.second_accuracy:.4f}; same label on "
            f"{facts.agreement:.4f}; {shared.lost} lost, {shared.won} won"
        )
        print_result(facts.verdict)
        print_table(
            "",
            ["class", "images", "recall A", "recall B", "change", "lost", "won"],
            [
                [
                    label,
                    str(its.images),
                    _share(its.first_accuracy),
                    _share(its.second_accuracy),
                    f"{its.difference * 100:+.1f}" if its.images else "-",
                    str(its.lost),
                    str(its.won),
                ]
                for label, its in facts.classes
            ],
        )
    for side, only in zip(sides, (facts.only_a, facts.only_b), strict=True):
        if only:
            _print_classes_of_one(side.letter, only)
    if facts.changed:
        _print_changed(facts.changed)


def _differ(facts: Comparison) -> bool:
    return bool(facts.only_a or facts.only_b)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_classes_of_one(letter: str, classes: Sequence[ClassOfOne]) -> None:
    print_table(
        f"Classes that only {letter} knows",
        ["class", "images", f"recall {letter}", "taken for"],
        [
            [
                item.label,
                str(item.images),
                f"{item.found / item.images:.4f}" if item.images else "-",
                ", ".join(f"{label} {count}" for label, count in item.taken_for[:5]),
            ]
            for item in classes
        ],
    )


def _print_changed(changed: Sequence[ChangedImage]) -> None:
    rest = f", the first {_LISTED}" if len(changed) > _LISTED else ""
    print_table(
        f"{len(changed)} image{'s' if len(changed) != 1 else ''} with another label{rest}",
        ["", "image", "class", "A", "", "B", ""],
        [
            [
                item.change,
                printable(str(item.path)),
                item.label,
                *(text for answer in item.answers for text in (answer.label, f"{answer.confidence:.2f}")),
            ]
            for item in changed[:_LISTED]
        ],
        numeric=False,
    )


def write_changed(changed: Sequence[ChangedImage], path: Path) -> None:
    """Writes the images that changed as a CSV, which `edgeclf evaluate` and `compare` read as a data set.

    Args:
        changed: The images.
        path: The file; the folders of the images are absolute in it.

    Raises:
        OutputError: It cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "label", "change", "a_label", "a_confidence", "b_label", "b_confidence"))
    for item in changed:
        first, second = item.answers
        table.writerow(
            (
                item.path.absolute(),
                item.label,
                item.change,
                first.label,
                f"{first.confidence:.6f}",
                second.label,
                f"{second.confidence:.6f}",
            )
        )
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape")
