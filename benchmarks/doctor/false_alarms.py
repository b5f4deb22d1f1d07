"""How often `edgeclf doctor` warns of a model with which nothing is wrong, for each check of a model's answers.

    python benchmarks/doctor/false_alarms.py [--classes 2 10 100 1000] [--images 3 5 20 100 500] [--runs 200]
                                             [--most 20000000] [--quick] [--json]

Healthy models are drawn: an image is right with the probability that the model gives its answer, whatever its class; mild
changes and the int8 file draw the answers to 5 % of the images anew, as often to their good as to their harm. The rows are numbers
of classes and of held-out images of each; figures are percent of the models that a check warns of, and in brackets of those
that it calls a problem. Rows of more than so many probabilities are left out.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report
from edgeclf.toolkit.doctor.checks.model import CHECKS
from edgeclf.toolkit.doctor.facts import Facts, ModelFacts

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import FloatArray, IntArray

_CAUSES = ("class-errors", "calibration", "fragile", "int8-gap")
_CHANGES = ("blur", "noise", "crop")
# Share of the images whose answer a change, and the int8 file, draws anew.
_DRAWN_AGAIN = 0.05


def healthy_model(rng: np.random.Generator, classes: int, images: int) -> ModelFacts:
    """Answers of a model that is as good at every class, says how sure it is, and bears every change.

    Args:
        rng: Draws it.
        classes: Number of classes.
        images: Held-out images of each class.
    """
    true: IntArray = np.repeat(np.arange(classes), images)
    accuracy = rng.uniform(0.6, 0.99)
    # Around the accuracy, and always above what another class can have.
    sure = accuracy + (1 - accuracy) * rng.uniform(-0.2, 0.8, len(true))

    def draw_labels() -> "IntArray":
        others = (true + rng.integers(1, classes, len(true))) % classes
        return np.where(rng.random(len(true)) < sure, true, others)

    def answers(labels: "IntArray") -> "FloatArray":
        found = np.repeat(((1 - sure) / (classes - 1)).astype(np.float32)[:, None], classes, axis=1)
        found[np.arange(len(true)), labels] = sure
        return found

    said = draw_labels()

    def others() -> "FloatArray":
        return answers(np.where(rng.random(len(true)) < _DRAWN_AGAIN, draw_labels(), said))

    paths = tuple(map(str, range(len(true))))
    return ModelFacts("test", paths, true, answers(said), {name: others() for name in _CHANGES}, others())


def measure(rng: np.random.Generator, classes: int, images: int, runs: int) -> dict[str, float]:
    """Shares of healthy models that each check warns of, and that it calls a problem (`CAUSE problem`)."""
    found = dict.fromkeys([*_CAUSES, *(f"{cause} problem" for cause in _CAUSES)], 0)
    for _ in range(runs):
        facts = Facts(model=healthy_model(rng, classes, images))
        for finding in (finding for check in CHECKS for finding in check.find(facts)):
            found[finding.cause] += finding.severity != "note"
            found[f"{finding.cause} problem"] += finding.severity == "problem"
    return {name: count / runs for name, count in found.items()}


def main() -> None:
    """Draws models of each size and prints how often each check warns."""
    arguments = Arguments(__doc__, quick={"classes": [2, 100], "images": [3, 20], "runs": 10})
    arguments.add_argument("--classes", type=int, nargs="+", default=[2, 10, 100, 1000])
    arguments.add_argument("--images", type=int, nargs="+", default=[3, 5, 20, 100, 500], help="of each class")
    arguments.add_argument("--runs", type=int, default=200, help="models in each row (default: %(default)s)")
    arguments.add_argument(
        "--most", type=int, default=20_000_000, help="probabilities of a model (default: %(default)s)"
    )
    given = arguments.parse()
    report = Report(given)
    report.columns({"classes": ">8", "images": ">8"} | dict.fromkeys(_CAUSES, ">16"))
    rows: list[dict[str, float]] = []
    for classes in given.classes:
        for images in given.images:
            if classes * classes * images > given.most:
                continue
            rates = measure(np.random.default_rng([classes, images]), classes, images, given.runs)
            cells = (f"{100 * rates[cause]:.1f} ({100 * rates[f'{cause} problem']:.1f})" for cause in _CAUSES)
            report.row(classes, images, *cells)
            rows.append({"classes": classes, "images": images, **rates})
    report.close({"runs": given.runs, "rows": rows})


if __name__ == "__main__":
    main()
