"""Measures how much of what post-training quantization loses quantization-aware training wins back.

    python benchmarks/qat.py DATA [--factor 64] [--epochs 40] [--qat-epochs 5] [--seed 0] [--json]

A small-cnn is trained from scratch. Then one channel of each residual stream is made FACTOR times larger, and what reads
it as many times smaller: in float the network is the same, in 8 bits the other channels are left with a few levels, and no
pass can even them out, because both branches of a sum would have to change. It is exported to int8 as it is, and after
`edgeclf train --from RUN --qat`. Accuracies are of the files, on test images.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _training import edgeclf

from edgeclf.training import run_folder

# The convolutions that write each residual stream, and those that read it.
_STREAMS = (
    (("down1", "block1_b"), ("block1_a", "down2")),
    (("down2", "block2_b"), ("block2_a", "down3")),
)


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--factor", type=float, default=64.0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--qat-epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeclf-qat-") as name:
        figures = measure(Path(name), given)
    if given.json:
        print(json.dumps(figures, indent=2))
        return
    for key, value in figures.items():
        print(f"{key:24} {value:.4f}")


def measure(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Trains, makes uneven, exports, trains for 8 bits, exports again."""
    cache = folder / "cache"

    def command(*arguments: object) -> dict[str, Any]:
        return edgeclf(*arguments, cache=cache).document

    def exported(run: Path) -> tuple[float, float]:
        """Test accuracy of the reference and of the int8 file, whatever the limits."""
        options = ("--precision", "int8", "--effort", "quick", "--min-agreement", 0, "--max-accuracy-drop", 1)
        report = command("export", run, "--out", folder / "model.onnx", *options)
        test = next(part for part in report["candidates"][-1]["parity"] if part["part"] == "test")
        return test["reference_accuracy"], test["candidate_accuracy"]

    even, uneven, trained = folder / "even", folder / "uneven", folder / "trained"
    seed = ("--seed", given.seed)
    command("train", given.data, "--run", even, "--arch", "small-cnn", "--epochs", given.epochs, *seed)
    float_even, int8_even = exported(even)
    make_uneven(even, uneven, given.factor)
    float_uneven, int8_uneven = exported(uneven)
    started = command(
        "train", given.data, "--from", uneven, "--qat", "--run", trained, "--epochs", given.qat_epochs, *seed
    )
    float_trained, int8_trained = exported(trained)
    lost = float_uneven - int8_uneven
    return {
        "fp32": float_even,
        "int8": int8_even,
        "uneven, fp32": float_uneven,
        "uneven, int8": int8_uneven,
        "after --qat, fp32": float_trained,
        "after --qat, int8": int8_trained,
        "lost": lost,
        "won back, share": (int8_trained - int8_uneven) / lost if lost > 0 else float("nan"),
        "best epoch": float(started["training"]["best_epoch"]),
    }


def make_uneven(run: Path, out: Path, factor: float) -> None:
    """Copies a run, with the first channel of each residual stream `factor` times larger and read as many times smaller."""
    shutil.copytree(run, out)
    model = run_folder.load_run(out).load_model()
    for writers, readers in _STREAMS:
        for name in writers:
            gamma, beta, *statistics = model.get_layer(f"{name}_bn").get_weights()
            gamma[0], beta[0] = gamma[0] * factor, beta[0] * factor
            model.get_layer(f"{name}_bn").set_weights([gamma, beta, *statistics])
        for name in readers:
            (kernel,) = model.get_layer(f"{name}_conv").get_weights()
            kernel[:, :, 0] /= factor
            model.get_layer(f"{name}_conv").set_weights([kernel])
    model.save(out / run_folder.MODEL_FILE)
    (image,) = np.random.default_rng(0).integers(0, 256, (1, 1, *model.input_shape[1:]), np.uint8)
    before = run_folder.load_run(run).load_model().predict_on_batch(image)
    if np.abs(model.predict_on_batch(image) - before).max() > 1e-3:
        raise SystemExit("the uneven network is not the same in float")


if __name__ == "__main__":
    main()
