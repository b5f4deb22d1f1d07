"""Measures how many images of known classes a rejection threshold rejects, against what it promised.

    python benchmarks/training/rejection.py [--data DATA] [--rates 0.01 0.02 0.05] [--validation 100 200 640 2000] [--draws 10]
                                            [--test 800] [--repetitions 4000] [--quick] [--json]

Two thresholds of the same validation images: the highest that rejects at most the rate of these images themselves, and
edgeclf's, which promises the rate for all images like them. For each the mean share that is rejected, and the share of
repetitions in which that is above the rate. Without --data confidences are drawn from a known distribution, so that the
shares are exact. With --data, which has class folders, or train/ and test/ folders of them, a head is trained in each draw
of training, validation and test images, and the shares are of test images: of few, they lie above and below by chance.
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, working_folder, write_csv
from benchmarks.training.calibration import all_files, draw_splits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeclf.runtime.arrays import FloatArray

_FIGURES = ("sample_rejected", "sample_above", "promised_rejected", "promised_above")


def main() -> None:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"validation": [60], "rates": [0.05], "repetitions": 100})
    arguments.add_argument("--data", type=Path, help="class folders, or train/ and test/ folders of them")
    arguments.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.02, 0.05])
    arguments.add_argument(
        "--validation", type=int, nargs="+", default=[100, 200, 640, 2000], help="images that choose"
    )
    arguments.add_argument("--draws", type=int, default=10, help="trainings with --data")
    arguments.add_argument("--test", type=int, default=800, help="images that test with --data")
    arguments.add_argument("--repetitions", type=int, default=4000, help="without --data")
    given = arguments.parse()
    report = Report(given)
    report.columns({"validation": ">12", "rate": ">8.2%", **dict.fromkeys(_FIGURES, ">19.2%")})
    rows = []
    for count in given.validation:
        repetitions = list(
            _simulated(count, given.repetitions)
            if given.data is None
            else _trained(given.data, count, given.test, given.draws)
        )
        for rate in given.rates:
            rows.append({"validation": count, "rate": rate, **_figures(repetitions, rate)})
            report.row(str(count), rate, *(rows[-1][key] for key in _FIGURES))
    report.close({"rates": rows})


def _simulated(count: int, repetitions: int) -> "Iterator[tuple[FloatArray, FloatArray | None]]":
    """Validation confidences evenly spread from 0.5 to 1; None for test images, as all images are known."""
    for repetition in range(repetitions):
        yield _two_classes(0.5 + np.random.default_rng([repetition, count]).random(count) / 2), None


def _trained(data: Path, count: int, test: int, draws: int) -> "Iterator[tuple[FloatArray, FloatArray]]":
    """Probabilities of the validation and test images of a head that was trained on the others."""
    from edgeclf.training import TrainOptions, train

    files = all_files(data)
    with working_folder() as folder:
        for draw in range(draws):
            listed = write_csv(folder / f"{count}-{draw}.csv", draw_splits(files, count, test, draw))
            result = train(listed, folder / f"run-{count}-{draw}", TrainOptions(seed=draw))
            yield result.calibration.probabilities["val"], result.calibration.probabilities["test"]


def _two_classes(confidences: "np.ndarray[Any, Any]") -> "FloatArray":
    return np.stack([confidences, 1 - confidences], axis=1).astype(np.float32)


def _figures(repetitions: "list[tuple[FloatArray, FloatArray | None]]", rate: float) -> dict[str, float]:
    from edgeclf.export.verify.rejection import choose_rejection_threshold, rejected_share, threshold_that_rejects

    figures = {}
    for name in ("sample", "promised"):
        shares = []
        for validation, test in repetitions:
            if name == "promised":
                threshold = choose_rejection_threshold(validation, rate)
            else:
                threshold = threshold_that_rejects(validation, math.floor(rate * len(validation) + 1e-9))
            shares.append(2 * (threshold - 0.5) if test is None else rejected_share(test, threshold))
        figures[f"{name}_rejected"] = float(np.mean(shares))
        figures[f"{name}_above"] = float(np.mean([share > rate for share in shares]))
    return figures


if __name__ == "__main__":
    main()
