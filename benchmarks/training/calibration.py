"""Measures what the fitted temperature does to probabilities of test images: log loss and calibration error, with and without it.

    python benchmarks/training/calibration.py DATA [--validation 200 640] [--draws 10] [--test 800] [--quick] [--json]
                                               [-- options of edgeclf train]

DATA has class folders, or train/ and test/ folders of them, whose images are drawn from together. In each draw so many images
test, so many of the others validate - which is what the temperature is fitted on -, and all that are left train. The last
lines are means over the draws, with the standard error of the difference.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, labelled_files, run_edgeclf, working_folder, write_csv
from benchmarks.synthetic import write_labelled_folder

_QUICK_OPTIONS = ["--arch", "small-cnn", "--image-size", "32", "--epochs", "1"]
_FIGURES = ("temperature", "accuracy", "loss_before", "loss_after", "error_before", "error_after")


def all_files(data: Path) -> list[tuple[Path, str]]:
    """The images of a data set with their labels, whichever part they are in."""
    parts = [name for name in ("train", "val", "test") if (data / name).is_dir()]
    return [file for part in parts or ["."] for file in labelled_files(data, part)]


def draw_splits(
    files: Sequence[tuple[Path, str]], validation: int, test: int, seed: int
) -> list[tuple[Path, str, str]]:
    """So many images drawn to test and to validate, all others to train: path, label and split of each."""
    order = np.random.default_rng(seed).permutation(len(files)).tolist()
    splits = ["test"] * test + ["val"] * validation + ["train"] * (len(files) - test - validation)
    return [(*files[place], split) for place, split in zip(order, splits, strict=True)]


def main() -> None:
    """Prints a table, or JSON."""
    quick = {"validation": [6], "draws": 1, "test": 6, "train_options": _QUICK_OPTIONS}
    arguments = Arguments(__doc__, quick=quick, train_options=())
    arguments.add_input("data", "class folders, or train/ and test/ folders of them")
    arguments.add_argument("--validation", type=int, nargs="+", default=[200, 640], help="images that validate")
    arguments.add_argument("--draws", type=int, default=10)
    arguments.add_argument("--test", type=int, default=800, help="images that test")
    given = arguments.parse()
    report = Report(given)
    report.columns({"validation": ">12", "draw": ">6", **dict.fromkeys(_FIGURES, ">13.4f")})
    rows: list[dict[str, Any]] = []
    with working_folder() as folder:
        files = all_files(given.data or write_labelled_folder(folder / "data"))
        for count in given.validation:
            if given.test + count >= len(files):
                arguments.error(f"{given.test} and {count} images of {len(files)} leave none to learn from")
            for draw in range(given.draws):
                data = write_csv(folder / f"{count}-{draw}.csv", draw_splits(files, count, given.test, draw))
                run = ("--run", folder / f"run-{count}-{draw}", "--seed", draw)
                done = run_edgeclf("train", data, *run, *given.train_options, cache=folder / "cache").document
                rows.append({"validation": count, "draw": draw, **_figures(done)})
                report.row(str(count), str(draw), *(rows[-1][key] for key in _FIGURES))
    means = [_mean([row for row in rows if row["validation"] == count]) for count in given.validation]
    for row in means:
        report.row(str(row["validation"]), "mean", *(row[key] for key in _FIGURES))
        report.line(
            f"{row['validation']} images: log loss {row['loss_change']:+.4f} (standard error {row['loss_change_error']:.4f})"
            f", calibration error {row['error_change']:+.4f} ({row['error_change_error']:.4f})"
        )
    report.close({"runs": rows, "means": means})


def _figures(done: dict[str, Any]) -> dict[str, float]:
    calibration = done["calibration"]
    loss, error = calibration["test_negative_log_likelihood"], calibration["test_expected_calibration_error"]
    return {
        "temperature": calibration["temperature"],
        "accuracy": done["test"]["accuracy"],
        "loss_before": loss["before"],
        "loss_after": loss["after"],
        "error_before": error["before"],
        "error_after": error["after"],
    }


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of the figures, and of what changes from before to after, with its standard error (0 for one draw)."""
    mean: dict[str, Any] = {"validation": rows[0]["validation"]}
    mean |= {key: float(np.mean([row[key] for row in rows])) for key in _FIGURES}
    for name in ("loss", "error"):
        changes = np.array([row[f"{name}_after"] - row[f"{name}_before"] for row in rows])
        mean[f"{name}_change"] = float(changes.mean())
        mean[f"{name}_change_error"] = float(changes.std(ddof=1) / math.sqrt(len(rows))) if len(rows) > 1 else 0.0
    return mean


if __name__ == "__main__":
    main()
