"""Compares int8 with fp32 for every network: accuracy, agreement, latency, size, and the file that edgeclf recommends.

    python benchmarks/int8/networks.py DATA [--archs small-cnn resnet8 ...] [--epochs 20] [--effort quick]
                                        [--quick] [--json]

The pretrained networks get a head with its default recipe, those from scratch so many epochs of theirs. Comparisons are
with the trained network on test images; latencies are of one image on one thread, both files in turns, medians.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, run_edgeclf, working_folder
from benchmarks.synthetic import write_labelled_folder
from edgeclf.training.networks.registry import ARCHITECTURES

_COLUMNS = {
    "fp32_accuracy": ">14.4f",
    "int8_accuracy": ">14.4f",
    "agreement": ">10.4f",
    "fp32_ms": ">9.2f",
    "latency_ratio": ">14.2f",
    "size_ratio": ">11.2f",
    "recommended": ">12",
}


def measure(data: Path, arch: str, *, epochs: int, effort: str, image_size: int | None) -> dict[str, Any]:
    """Trains and exports one network.

    Args:
        data: Folder with train/ and test/.
        arch: A network that `edgeclf train --arch` knows.
        epochs: Of a network that is trained from scratch.
        effort: As for `edgeclf export`.
        image_size: Input height and width in pixels; None for the network's own.
    """
    with working_folder() as folder:
        run, cache = folder / "run", folder / "cache"
        options = [] if ARCHITECTURES[arch].pretrained else ["--epochs", epochs]
        options += [] if image_size is None else ["--image-size", image_size]
        run_edgeclf("train", data, "--run", run, "--arch", arch, *options, cache=cache)
        # Whatever the limits: what is measured is what int8 keeps, not whether it is enough.
        limits = ("--precision", "int8", "--effort", effort, "--min-agreement", 0, "--max-accuracy-drop", 1)
        report = run_edgeclf("export", run, "--out", folder / "model.onnx", *limits, cache=cache).document
        fp32, int8 = report["candidates"]
        test = next(part for part in int8["parity"] if part["part"] == "test")
        return {
            "network": arch,
            "fp32_accuracy": test["reference_accuracy"],
            "int8_accuracy": test["candidate_accuracy"],
            "agreement": test["agreement"],
            "fp32_ms": fp32["latency"]["median_ms"],
            "latency_ratio": int8["latency"]["ratio"],
            "size_ratio": int8["file_bytes"] / fp32["file_bytes"],
            "recommended": report["recommendation"]["precision"],
        }


def main() -> None:
    """Prints a line for each network, or JSON."""
    arguments = Arguments(__doc__, quick={"archs": ["small-cnn"], "epochs": 1, "image_size": 32})
    arguments.add_input("data", "folder with train/ and test/")
    arguments.add_argument("--archs", nargs="+", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    arguments.add_argument("--epochs", type=int, default=20, help="of the networks from scratch")
    arguments.add_argument("--effort", default="quick")
    arguments.add_argument("--image-size", type=int, help="of all networks (default: that of each)")
    given = arguments.parse()
    report = Report(given)
    report.columns({"network": "<18", **_COLUMNS})
    rows = []
    with working_folder() as folder:
        data = given.data or write_labelled_folder(folder / "data")
        for arch in given.archs:
            rows.append(measure(data, arch, epochs=given.epochs, effort=given.effort, image_size=given.image_size))
            report.row(arch, *(rows[-1][key] for key in _COLUMNS))
    report.close(rows)


if __name__ == "__main__":
    main()
