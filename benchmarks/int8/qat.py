"""Measures the share of post-training quantization's loss that quantization-aware training wins back.

    python benchmarks/int8/qat.py DATA [--factor 64] [--epochs 40] [--qat-epochs 10] [--seed 0]
                                   [--quick] [--json]

A small-cnn is trained from scratch. Then one channel of each residual stream is made FACTOR times larger, and what reads
it as many times smaller: in float the network is the same, in 8 bits the other channels are left with a few levels. It is
quantized as it is, by the default recipe and by the one that equalizes channels first, and exported after
`edgeclf train --from RUN --qat`. Accuracies are of the files, on test images; what was lost is what the default recipe lost.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, labelled_files, load_pixels, run_edgeclf, sample_images, working_folder
from benchmarks.synthetic import write_labelled_folder
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.session.opening import open_session_from_bytes
from edgeclf.runtime.session.session import ModelSession
from edgeclf.training.run import folder as run_folder

# Training images that ranges, rounding and biases are fitted to.
_CALIBRATION = 256

# The convolutions that write each residual stream, and those that read it.
_STREAMS = (
    (("down1", "block1_b"), ("block1_a", "down2")),
    (("down2", "block2_b"), ("block2_a", "down3")),
)


def main() -> None:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"epochs": 1, "qat_epochs": 1, "image_size": 32})
    arguments.add_input("data", "folder with train/ and test/")
    arguments.add_argument("--factor", type=float, default=64.0)
    arguments.add_argument("--epochs", type=int, default=40)
    arguments.add_argument("--qat-epochs", type=int, default=10)
    arguments.add_argument("--image-size", type=int, default=120, help="input height and width (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse()
    with working_folder() as folder:
        figures = measure(folder, given.data or write_labelled_folder(folder / "data"), given)
    report = Report(given)
    report.columns({"figure": "<38", "value": ">8.4f"})
    for key, value in figures.items():
        report.row(key, value)
    report.close(figures)


def measure(folder: Path, data: Path, given: argparse.Namespace) -> dict[str, float | None]:
    """Trains a network, makes its channels uneven, quantizes it, trains it for 8 bits and exports it."""

    def run(*arguments: object) -> dict[str, Any]:
        document: dict[str, Any] = run_edgeclf(*arguments, cache=folder / "cache").document
        return document

    even, uneven, trained = folder / "even", folder / "uneven", folder / "trained"
    seed = ("--seed", given.seed)
    network = ("--arch", "small-cnn", "--image-size", given.image_size)
    run("train", data, "--run", even, *network, "--epochs", given.epochs, *seed)
    make_uneven(even, uneven, given.factor)
    figures = _quantized(uneven, data)
    started = run("train", data, "--from", uneven, "--qat", "--run", trained, "--epochs", given.qat_epochs, *seed)
    report = run("export", trained, "--out", folder / "model.onnx", "--precision", "int8", "--effort", "quick")
    compared = next(part for part in report["candidates"][-1]["parity"] if part["part"] == "test")
    after = run("evaluate", folder / "model.onnx", data)["accuracy"]
    left = (ModelSession(folder / "model.onnx").spec.quantization or {})["keep_float"]
    lost = figures["fp32"] - figures["int8"]
    return {
        **figures,
        "after --qat, int8": after,
        "its agreement with what was trained": compared["agreement"],
        "lost": lost,
        "won back, share": (after - figures["int8"]) / lost if lost > 0 else None,
        "layers left in float": float(len(left)),
        "best epoch": float(started["training"]["best_epoch"]),
    }


def _quantized(run: Path, data: Path) -> dict[str, float]:
    """Test accuracy of a run's float network and of two int8 recipes for it."""
    loaded = run_folder.load_run(run)
    labels, preprocess = loaded.spec.labels, loaded.spec.preprocess
    share = max(1, _CALIBRATION // len(labels))
    calibration = [path for label in labels for path in sample_images(data / "train" / label, share)]
    tested = labelled_files(data, "test")
    test_rgb, true = load_pixels((path for path, _ in tested), preprocess), [labels.index(label) for _, label in tested]
    fp32 = onnx_from_keras(loaded.load_model())
    calibrator = Calibrator(fp32, load_pixels(calibration, preprocess))
    models = {
        "fp32": fp32,
        "int8": calibrator.network(QuantizationRecipe()).write().model,
        "int8, channels equalized": calibrator.network(QuantizationRecipe(equalize=True)).write().model,
    }
    accuracies = {}
    for name, model in models.items():
        session = open_session_from_bytes(model.SerializeToString(), threads=2)
        outputs = [
            session.run(None, {"image": batch})[0] for batch in np.array_split(test_rgb, max(1, len(test_rgb) // 50))
        ]
        accuracies[name] = float((np.concatenate(outputs).argmax(axis=1) == np.array(true)).mean())
    return accuracies


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
