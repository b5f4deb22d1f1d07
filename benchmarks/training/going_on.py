"""Measures at which learning rate a whole network goes on with `--from`: validation loss before, in its epochs and at best.

    python benchmarks/training/going_on.py DATA [--rates 2e-3 5e-4 1e-4] [--seeds 0] [--options '...'] [--more-options '...']
                                         [--quick] [--json]

DATA has train/ and test/ folders. For each seed a network is trained on half of the training images of every class, and goes on
with all of them at each rate. The loss before is that of an epoch at a rate of 1e-12.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, labelled_files, medians_of, run_edgeclf, working_folder, write_csv
from benchmarks.synthetic import write_labelled_folder

_NO_RATE = 1e-12
_COLUMNS = {
    "loss_before": ">12.4f",
    "loss_first": ">11.4f",
    "loss_highest": ">13.4f",
    "loss_lowest": ">12.4f",
    "best_epoch": ">11.4g",
    "val_accuracy": ">13.4f",
    "test_accuracy": ">14.4f",
}


def measure(
    half: Path, whole: Path, rates: list[float], *, seed: int, options: list[str], more: list[str]
) -> list[dict[str, Any]]:
    """Trains on half of the images, then goes on with all at each rate.

    Args:
        half: CSV of half of the images.
        whole: CSV of all.
        rates: Learning rates.
        seed: Of all trainings.
        options: Of the first training.
        more: Of those that go on.
    """
    rows = []
    with working_folder() as folder:
        cache = folder / "cache"
        run_edgeclf("train", half, "--run", folder / "first", "--seed", seed, *options, cache=cache)
        common = ("--from", folder / "first", "--seed", seed, *more)
        before = None
        for rate in (_NO_RATE, *rates):
            run = folder / f"at-{rate:g}"
            done = run_edgeclf("train", whole, "--run", run, *common, "--learning-rate", rate, cache=cache).document
            losses = [row["val_loss"] for row in done["history"]]
            before = losses[0] if before is None else before
            rows.append(
                {
                    "rate": rate,
                    "seed": seed,
                    "loss_before": before,
                    "loss_first": losses[0],
                    "loss_highest": max(losses),
                    "loss_lowest": min(losses),
                    "best_epoch": done["training"]["best_epoch"],
                    "val_accuracy": done["validation"]["accuracy"],
                    "test_accuracy": done["test"]["accuracy"],
                }
            )
    return rows[1:]


def main() -> None:
    """Prints a table, or JSON."""
    quick = {
        "seeds": [0],
        "rates": [1e-3],
        "options": "--arch small-cnn --image-size 32 --epochs 1",
        "more_options": "--epochs 1",
    }
    arguments = Arguments(__doc__, quick=quick, seeds=(0,))
    arguments.add_input("data", "folder with train/ and test/")
    arguments.add_argument("--rates", type=float, nargs="+", default=[2e-3, 5e-4, 1e-4], metavar="RATE")
    arguments.add_argument(
        "--options", default="--arch small-cnn", help="options of edgeclf train for the first training"
    )
    arguments.add_argument("--more-options", default="", help="options of edgeclf train for those that go on")
    given = arguments.parse()
    report = Report(given)
    report.columns({"rate": "<10", **_COLUMNS})
    rows = []
    with working_folder() as folder:
        source = given.data or write_labelled_folder(folder / "data")
        files = [(path, label, split) for split in ("train", "test") for path, label in labelled_files(source, split)]
        half, whole = write_csv(folder / "half.csv", files[::2]), write_csv(folder / "whole.csv", files)
        for seed in given.seeds:
            rows += measure(
                half,
                whole,
                given.rates,
                seed=seed,
                options=given.options.split(),
                more=given.more_options.split(),
            )
    for rate in given.rates:
        its = medians_of([row for row in rows if row["rate"] == rate], without=["seed", "rate"])
        report.row(f"{rate:g}", *(its[key] for key in _COLUMNS))
    report.close({"runs": rows})


if __name__ == "__main__":
    main()
