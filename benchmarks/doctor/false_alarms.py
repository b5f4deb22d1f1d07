"""How often `edgeclf doctor` warns where nothing is wrong, for each check whose finding rests on counts or chance.

    python benchmarks/doctor/false_alarms.py [--kinds model use run split shortcuts labels files] [--classes 2 10 100 1000]
                                             [--images 5 20 100 500] [--runs 200] [--most 5000] [--quick] [--json]

Healthy data sets, trainings and models are drawn (`healthy.py`): what the checks get, without images or networks. The rows are
numbers of classes and of images of each (validation images for a training, held-out ones for a model); figures are percent of
the draws that a check warns of, and in brackets of those that it calls a problem. The first row has the level that the check
states, if it does; a rate whose 95 % interval (Wilson) is above it has an asterisk, and its interval is shown at the end. Rows of
more than `--most` images are left out, of `model` and `use` those of more than 4,000 times as many probabilities. What rests on
no chance is not counted (`NO_CHANCE`).
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report
from benchmarks.doctor.healthy import healthy_data, healthy_model, healthy_run, healthy_use
from edgeclf.runtime.metrics import Z_95, wilson_interval
from edgeclf.toolkit.doctor.checks import files, hidden_class, labels, model, shortcuts, split, split_shift
from edgeclf.toolkit.doctor.checks.training import failures, fit, reliability
from edgeclf.toolkit.doctor.checks.use import answers, label_order, preprocessing
from edgeclf.toolkit.doctor.facts import Check, Facts

_PROBABILITIES = 4_000
_RUN_CHECKS = (*failures.CHECKS, *fit.CHECKS, *reliability.CHECKS)
_USE_CHECKS = (*preprocessing.CHECKS, *label_order.CHECKS, *answers.CHECKS)


@dataclass(frozen=True)
class Kind:
    """What is drawn together, and the checks that look at it.

    Attributes:
        draw: Facts of a healthy case, from numbers of classes and of images of each.
        checks: The checks.
        levels: By cause, the rates of false alarms that its conditions state (`edgeclf doctor --list`), one for each test; none
            where they are limits and no test.
    """

    draw: Callable[[np.random.Generator, int, int], Facts]
    checks: Sequence[Check]
    levels: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Rate:
    """How often a check warns.

    Attributes:
        alarms: Draws with a warning or problem.
        problems: Those with a problem.
        runs: Draws.
        level: The rate that the check states; None for none.
    """

    alarms: int
    problems: int
    runs: int
    level: float | None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate of alarms."""
        return wilson_interval(self.alarms, self.runs, z=Z_95)

    @property
    def is_above(self) -> bool:
        """Whether the rate is surely above the stated level."""
        return self.level is not None and self.interval[0] > self.level

    def __str__(self) -> str:
        text = f"{100 * self.alarms / self.runs:.1f} ({100 * self.problems / self.runs:.1f})"
        return f"{text}{'*' if self.is_above else ' '}"


def _data(features: int, *, thumbnails: bool = False) -> Callable[[np.random.Generator, int, int], Facts]:
    def draw(rng: np.random.Generator, classes: int, images: int) -> Facts:
        return Facts(data=healthy_data(rng, classes, images, features=features, thumbnails=thumbnails))

    return draw


KINDS: Mapping[str, Kind] = {
    "model": Kind(
        lambda rng, classes, images: Facts(model=healthy_model(rng, classes, images)),
        model.CHECKS,
        {"class-errors": (0.01,), "calibration": (0.01,), "fragile": (0.001,), "int8-gap": (0.01, 0.01)},
    ),
    "use": Kind(
        lambda rng, classes, images: Facts(use=healthy_use(rng, classes, images)),
        _USE_CHECKS,
        # One level for all ways of use together; a draw warns of one of them.
        dict.fromkeys(("input-scale", "channel-order", "image-fit", "label-order"), (0.001,))
        | {"constant-answer": (), "dead-class": (0.001,)},
    ),
    "run": Kind(
        lambda rng, classes, images: Facts(run=healthy_run(rng, classes, images)),
        _RUN_CHECKS,
        {
            "input-scale": (0.001,),
            "lr-too-high": (0.001,),
            "lr-too-low": (0.001, 0.002),
            "label-noise": (0.001,),
            "stopped-early": (0.001, 0.002),
            "stuck-at-chance": (0.001,),
            "overfit": (0.001,),
            "underfit": (0.001,),
            "over-regularized": (0.001,),
            "noisy-validation": (0.001,),
            "dead-units": (0.001,),
        },
    ),
    "split": Kind(
        _data(32),
        (*hidden_class.CHECKS, *split_shift.CHECKS, *split.CHECKS),
        {"prior-shift": (0.01,), "split-shift": (0.001,), "hidden-class": ()},
    ),
    "shortcuts": Kind(_data(0, thumbnails=True), shortcuts.CHECKS, {"shortcut": (0.01,)}),
    "labels": Kind(_data(32), labels.CHECKS, {"label-noise": (0.05,)}),
    "files": Kind(_data(0), files.CHECKS, dict.fromkeys(("blurred", "exposure", "odd-size"), ())),
}
# Checks by theme and name whose findings no chance enters, and why; all others have a level, or are counted without one, above.
NO_CHANCE: Mapping[tuple[str, str], str] = {
    ("files", "refused"): "a rule of training",
    ("files", "unreadable"): "each file by itself",
    ("files", "layout"): "names of folders",
    ("files", "not-read"): "names of files",
    ("files", "changed-images"): "digests of files",
    ("files", "unchecked"): "what was not looked at",
    ("files", "blank"): "each image by itself",
    ("files", "grey"): "each image by itself",
    ("files", "rotated"): "each file by itself",
    ("files", "mixed-formats"): "each file by itself",
    ("classes", "imbalance"): "counts of all images",
    ("classes", "too-few"): "counts of all images",
    ("duplicates", "copies-across-parts"): "each pair is verified",
    ("duplicates", "copies-across-classes"): "each pair is verified",
    ("duplicates", "copies-in-a-class"): "each pair is verified",
    ("duplicates", "overlapping-pictures"): "each pair is verified",
    ("duplicates", "copies-not-verified"): "a count of pairs",
    ("split", "few-test-images"): "the width of an interval",
    ("run", "divergence"): "a loss that is no number",
    ("run", "kept-weights"): "the same images twice",
    ("use", "enough-photographs"): "the width of an interval",
    ("use", "no-numbers"): "each photograph by itself",
    ("use", "output-activation"): "sums of each photograph's outputs",
}


def measure(kind: Kind, rng: np.random.Generator, classes: int, images: int, runs: int) -> dict[str, Rate]:
    """How often each check warns of healthy draws, by cause."""
    found, problems = dict.fromkeys(kind.levels, 0), dict.fromkeys(kind.levels, 0)
    for _ in range(runs):
        facts = kind.draw(rng, classes, images)
        alarms = [finding for check in kind.checks for finding in check.find(facts) if finding.severity != "note"]
        for cause in {finding.cause for finding in alarms}.intersection(found):
            found[cause] += 1
            problems[cause] += any(f.severity == "problem" for f in alarms if f.cause == cause)
    return {
        cause: Rate(found[cause], problems[cause], runs, sum(levels) if levels else None)
        for cause, levels in kind.levels.items()
    }


def _sizes(name: str, classes: Sequence[int], images: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    for count in classes:
        for each in images:
            probabilities = count * count * each if name in {"model", "use"} else 0
            if count * each <= most and probabilities <= _PROBABILITIES * most:
                yield count, each


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
    above: list[str] = []
    for name in given.kinds:
        kind = KINDS[name]
        report.columns({name: "<10", "classes": ">8", "images": ">7"} | dict.fromkeys(kind.levels, ">17"))
        levels = (f"{100 * sum(levels):.1f}       " if levels else "-" for levels in kind.levels.values())
        report.row("level", "", "", *levels)
        for classes, images in _sizes(name, given.classes, given.images, given.most):
            rates = measure(kind, np.random.default_rng([classes, images]), classes, images, given.runs)
            report.row("", classes, images, *map(str, rates.values()))
            for cause, rate in rates.items():
                low, high = rate.interval
                cell = {"kind": name, "classes": classes, "images": images, "cause": cause, "level": rate.level}
                figures = {"rate": rate.alarms / rate.runs, "low": low, "high": high}
                rows.append({**cell, **figures, "problems": rate.problems / rate.runs, "is_above": rate.is_above})
                if rate.is_above:
                    above.append(f"{name}, {cause}, {classes} x {images}: {low:.2%} to {high:.2%} of {rate.runs}")
    report.line("Above its level: " + ("; ".join(above) if above else "none"))
    report.close({"runs": given.runs, "rows": rows})


if __name__ == "__main__":
    main()
