"""Measures accuracy, calibration and time of `edgeclf train`: medians over seeds, every run with a cold cache.

    python benchmarks/training/accuracy.py DATA [--seeds 0 1 2] [--export] [--quick] [--json] [-- options of edgeclf train]

DATA has a test part of its own (train/ and test/ folders), so that every seed is tested on the same images. With
--export each run is also exported, and the calibration of the ONNX file is measured on the same test images.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, medians_of, run_edgeclf, working_folder
from benchmarks.synthetic import write_labelled_folder

_QUICK_OPTIONS = ["--arch", "small-cnn", "--image-size", "32", "--epochs", "1"]
_COLUMNS = {
    "test_accuracy": ">14.4f",
    "val_accuracy": ">14.4f",
    "epochs": ">7.4g",
    "best_epoch": ">11.4g",
    "parameters": ">11.7g",
    "seconds": ">9.1f",
    "temperature": ">12.3f",
    "ece_before": ">11.4f",
    "ece_after": ">10.4f",
}
_EXPORT_COLUMNS = {"onnx_accuracy": ">14.4f", "onnx_ece": ">9.4f"}


def measure(data: Path, seed: int, options: list[str], *, export: bool) -> dict[str, Any]:
    """Trains once, in an empty cache and run folder."""
    with working_folder() as folder:
        run, cache = folder / "run", folder / "cache"
        done = run_edgeclf("train", data, "--run", run, "--seed", seed, *options, cache=cache)
        calibration = done.document["calibration"]
        errors = calibration["test_expected_calibration_error"]
        figures = {
            "seed": seed,
            "test_accuracy": done.document["test"]["accuracy"],
            "val_accuracy": done.document["validation"]["accuracy"],
            "epochs": len(done.document["history"]),
            "best_epoch": done.document["training"]["best_epoch"],
            "parameters": done.document["parameters"],
            "seconds": done.seconds,
            "temperature": calibration["temperature"],
            "ece_before": errors["before"],
            "ece_after": errors["after"],
        }
        if export:
            model = folder / "model.onnx"
            run_edgeclf("export", run, "--out", model, cache=cache)
            report = run_edgeclf("evaluate", model, data, cache=cache).document
            figures |= {"onnx_accuracy": report["accuracy"], "onnx_ece": report["expected_calibration_error"]}
        return figures


def main() -> None:
    """Prints a table, or JSON."""
    quick = {"seeds": [0], "train_options": _QUICK_OPTIONS, "export": True}
    arguments = Arguments(__doc__, quick=quick, seeds=(0, 1, 2), train_options=())
    arguments.add_input("data", "folder with train/ and test/")
    arguments.add_argument("--export", action="store_true", help="measure the exported file's calibration as well")
    given = arguments.parse()
    report = Report(given)
    columns = {**_COLUMNS, **(_EXPORT_COLUMNS if given.export else {})}
    report.columns({"seed": "<8", **columns})
    runs = []
    with working_folder() as folder:
        data = given.data or write_labelled_folder(folder / "data")
        for seed in given.seeds:
            runs.append(measure(data, seed, given.train_options, export=given.export))
            report.row(str(seed), *(runs[-1][key] for key in columns))
    medians = medians_of(runs, without=["seed"])
    report.row("median", *(medians[key] for key in columns))
    report.close({"options": given.train_options, "runs": runs, "medians": medians})


if __name__ == "__main__":
    main()
