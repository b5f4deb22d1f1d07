"""How often `edgeclf doctor` warns where nothing is wrong, for each check whose finding rests on counts or chance.

    python benchmarks/doctor/false_alarms.py [--kinds model use run split shortcuts labels files] [--classes 2 10 100 1000]
                                             [--images 5 20 100 500] [--runs 200] [--most 5000] [--quick] [--json]

Healthy data sets, trainings and models are drawn (`healthy.py`): what the checks get, without images or networks. The rows are
numbers of classes and of images of each (validation images for a training, held-out ones for a model); figures are percent of
the draws that a check warns of, and in brackets of those that it calls a problem. Rows of more than `--most` images are left
out, of `model` and `use` those of more than 4,000 times as many probabilities. What rests on no chance (files that cannot be
read, counts of classes, copies that are verified) is not drawn.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report
from benchmarks.doctor.healthy import healthy_data, healthy_model, healthy_run, healthy_use
from edgeclf.toolkit.doctor.checks import files, hidden_class, labels, model, shortcuts, split, split_shift
from edgeclf.toolkit.doctor.checks.training import failures, fit, reliability
from edgeclf.toolkit.doctor.checks.use import answers, label_order, preprocessing
from edgeclf.toolkit.doctor.facts import Check, Facts

_PROBABILITIES = 4_000
_RUN_CHECKS = (*failures.CHECKS, *fit.CHECKS, *reliability.CHECKS)
_USE_CHECKS = (*preprocessing.CHECKS, *label_order.CHECKS, *answers.CHECKS)


@dataclass(frozen=True)
class Kind:
    """What is drawn together, and the checks that look at it."""

    draw: Callable[[np.random.Generator, int, int], Facts]
    checks: Sequence[Check]
    causes: tuple[str, ...]


def _data(features: int, *, thumbnails: bool = False) -> Callable[[np.random.Generator, int, int], Facts]:
    def draw(rng: np.random.Generator, classes: int, images: int) -> Facts:
        return Facts(data=healthy_data(rng, classes, images, features=features, thumbnails=thumbnails))

    return draw


KINDS: Mapping[str, Kind] = {
    "model": Kind(
        lambda rng, classes, images: Facts(model=healthy_model(rng, classes, images)),
        model.CHECKS,
        ("class-errors", "calibration", "fragile", "int8-gap"),
    ),
    "use": Kind(
        lambda rng, classes, images: Facts(use=healthy_use(rng, classes, images)),
        _USE_CHECKS,
        ("input-scale", "label-order", "constant-answer", "dead-class"),
    ),
    "run": Kind(
        lambda rng, classes, images: Facts(run=healthy_run(rng, classes, images)),
        _RUN_CHECKS,
        ("label-noise", "stuck-at-chance", "stopped-early", "overfit", "underfit", "noisy-validation", "dead-units"),
    ),
    "split": Kind(
        _data(32),
        (*hidden_class.CHECKS, *split_shift.CHECKS, *split.CHECKS),
        ("prior-shift", "split-shift", "hidden-class"),
    ),
    "shortcuts": Kind(_data(0, thumbnails=True), shortcuts.CHECKS, ("shortcut",)),
    "labels": Kind(_data(32), labels.CHECKS, ("label-noise",)),
    "files": Kind(_data(0), files.CHECKS, ("blurred", "exposure", "grey", "odd-size")),
}


def measure(kind: Kind, rng: np.random.Generator, classes: int, images: int, runs: int) -> dict[str, float]:
    """Shares of healthy draws that each check warns of, and that it calls a problem (`CAUSE problem`)."""
    found = dict.fromkeys([*kind.causes, *(f"{cause} problem" for cause in kind.causes)], 0)
    for _ in range(runs):
        facts = kind.draw(rng, classes, images)
        alarms = [finding for check in kind.checks for finding in check.find(facts) if finding.severity != "note"]
        for cause in {finding.cause for finding in alarms}.intersection(kind.causes):
            found[cause] += 1
            found[f"{cause} problem"] += any(f.severity == "problem" for f in alarms if f.cause == cause)
    return {name: count / runs for name, count in found.items()}


def main() -> None:
    """Draws each kind in each size and prints how often each check warns."""
    arguments = Arguments(__doc__, quick={"classes": [2, 10], "images": [5], "runs": 3})
    arguments.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    arguments.add_argument("--classes", type=int, nargs="+", default=[2, 10, 100, 1000])
    arguments.add_argument("--images", type=int, nargs="+", default=[5, 20, 100, 500], help="of each class")
    arguments.add_argument("--runs", type=int, default=200, help="draws in each row (default: %(default)s)")
    arguments.add_argument("--most", type=int, default=5_000, help="images of a draw (default: %(default)s)")
    given = arguments.parse()
    report = Report(given)
    rows: list[dict[str, object]] = []
    for name in given.kinds:
        kind = KINDS[name]
        report.columns({name: "<10", "classes": ">8", "images": ">7"} | dict.fromkeys(kind.causes, ">17"))
        for classes in given.classes:
            for images in given.images:
                count = classes * images
                if count > given.most or (name in {"model", "use"} and count * classes > _PROBABILITIES * given.most):
                    continue
                rates = measure(kind, np.random.default_rng([classes, images]), classes, images, given.runs)
                cells = (f"{100 * rates[cause]:.1f} ({100 * rates[f'{cause} problem']:.1f})" for cause in kind.causes)
                report.row("", classes, images, *cells)
                rows.append({"kind": name, "classes": classes, "images": images, **rates})
    report.close({"runs": given.runs, "rows": rows})


if __name__ == "__main__":
    main()
