"""Measures what `edgeclf train` reaches with the given options: medians over seeds, every run with a cold cache.

    python benchmarks/training/accuracy.py DATA [--seeds 0 1 2] [--export] [--json] [-- options of edgeclf train]

DATA has a test part of its own (train/ and test/ folders), so that every seed is tested on the same images. With
--export each run is also exported, and the calibration of the ONNX file is measured on the same test images.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import edgeclf, median, parse_with_train_options


def measure(data: Path, seed: int, options: list[str], *, export: bool) -> dict[str, Any]:
    """Trains once, in an empty cache and run folder."""
    with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as name:
        folder, run = Path(name), Path(name) / "run"
        done = edgeclf("train", data, "--run", run, "--seed", seed, *options, cache=folder / "cache")
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
            edgeclf("export", run, "--out", model, cache=folder / "cache")
            report = edgeclf("evaluate", model, data, cache=folder / "cache").document
            figures |= {"onnx_accuracy": report["accuracy"], "onnx_ece": report["expected_calibration_error"]}
        return figures


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--export", action="store_true", help="measure the exported file's calibration as well")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given, options = parse_with_train_options(parser)
    runs = []
    for seed in given.seeds:
        runs.append(measure(given.data, seed, options, export=given.export))
        if not given.json:
            shown = {key: round(value, 4) if isinstance(value, float) else value for key, value in runs[-1].items()}
            print(" ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
    medians = {key: median([run[key] for run in runs]) for key in runs[0] if key != "seed"}
    if given.json:
        print(json.dumps({"options": options, "runs": runs, "medians": medians}, indent=2))
    else:
        print("medians: " + " ".join(f"{key} {value:.4g}" for key, value in medians.items()))


if __name__ == "__main__":
    main()
