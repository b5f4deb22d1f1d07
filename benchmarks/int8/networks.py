"""Trains networks, exports each to int8, and says what that keeps and costs, and which file edgeclf recommends.

    python benchmarks/int8/networks.py DATA [--archs small-cnn resnet8 ...] [--epochs 20] [--effort quick] [--json]

The pretrained networks get a head with its default recipe, those from scratch so many epochs of theirs. Comparisons are
with the trained network on test images; latencies are of one image on one thread, both files in turns, medians.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import edgeclf
from edgeclf.training.networks.registry import ARCHITECTURES


def main() -> None:
    """Prints a line for each network, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--archs", nargs="+", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    parser.add_argument("--epochs", type=int, default=20, help="of the networks from scratch")
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    rows = []
    for arch in given.archs:
        rows.append(measure(given.data, arch, given.epochs, given.effort))
        if not given.json:
            print(
                ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()), flush=True
            )
    if given.json:
        print(json.dumps(rows, indent=2))


def measure(data: Path, arch: str, epochs: int, effort: str) -> dict[str, Any]:
    """Trains and exports one network."""
    with tempfile.TemporaryDirectory(prefix="edgeclf-int8-") as name:
        folder = Path(name)
        run, cache = folder / "run", folder / "cache"
        scratch = () if ARCHITECTURES[arch].pretrained else ("--epochs", epochs)
        edgeclf("train", data, "--run", run, "--arch", arch, *scratch, cache=cache)
        # Whatever the limits: what is measured is what int8 keeps, not whether it is enough.
        options = ("--precision", "int8", "--effort", effort, "--min-agreement", 0, "--max-accuracy-drop", 1)
        report = edgeclf("export", run, "--out", folder / "model.onnx", *options, cache=cache).document
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


if __name__ == "__main__":
    main()
