"""Measures how much of what post-training quantization loses quantization-aware training wins back.

    python benchmarks/int8/qat.py DATA [--factor 64] [--epochs 40] [--qat-epochs 10] [--seed 0] [--json]

A small-cnn is trained from scratch. Then one channel of each residual stream is made FACTOR times larger, and what reads
it as many times smaller: in float the network is the same, in 8 bits the other channels are left with a few levels. It is
quantized as it is, by the default recipe and by the one that evens channels out first, and exported after
`edgeclf train --from RUN --qat`. Accuracies are of the files, on test images; what was lost is what the default recipe lost.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import edgeclf
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.batch.sources import looks_like_image
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--factor", type=float, default=64.0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--qat-epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeclf-qat-") as name:
        figures = measure(Path(name), given)
    if given.json:
        print(json.dumps(figures, indent=2))
        return
    for key, value in figures.items():
        print(f"{key:36} {value:.4f}")


def measure(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Trains, makes uneven, quantizes, trains for 8 bits, exports."""
    cache = folder / "cache"

    def command(*arguments: object) -> dict[str, Any]:
        return edgeclf(*arguments, cache=cache).document

    even, uneven, trained = folder / "even", folder / "uneven", folder / "trained"
    seed = ("--seed", given.seed)
    command("train", given.data, "--run", even, "--arch", "small-cnn", "--epochs", given.epochs, *seed)
    make_uneven(even, uneven, given.factor)
    figures = _quantized(uneven, given.data)
    started = command(
        "train", given.data, "--from", uneven, "--qat", "--run", trained, "--epochs", given.qat_epochs, *seed
    )
    report = command("export", trained, "--out", folder / "model.onnx", "--precision", "int8", "--effort", "quick")
    compared = next(part for part in report["candidates"][-1]["parity"] if part["part"] == "test")
    after = edgeclf("evaluate", folder / "model.onnx", given.data, cache=cache).document["accuracy"]
    left = (ModelSession(folder / "model.onnx").spec.quantization or {})["keep_float"]
    lost = figures["fp32"] - figures["int8"]
    return {
        **figures,
        "after --qat, int8": after,
        "its agreement with what was trained": compared["agreement"],
        "lost": lost,
        "won back, share": (after - figures["int8"]) / lost if lost > 0 else float("nan"),
        "layers left in float": float(len(left)),
        "best epoch": float(started["training"]["best_epoch"]),
    }


def _quantized(run: Path, data: Path) -> dict[str, float]:
    """Test accuracy of a run's float file, and of what two recipes make of it."""
    loaded = run_folder.load_run(run)
    images: dict[str, Any] = {}
    for part, most in (("train", _CALIBRATION), ("test", None)):
        paths, true = [], []
        for index, label in enumerate(loaded.spec.labels):
            files = [path for path in sorted((data / part / label).iterdir()) if looks_like_image(path)]
            files = files[: most and max(1, most // len(loaded.spec.labels))]
            paths += files
            true += [index] * len(files)
        images[part] = np.stack([preprocess_bgr(load_image(path), loaded.spec.preprocess) for path in paths])
    fp32 = onnx_from_keras(loaded.load_model())
    calibrator = Calibrator(fp32, images["train"])
    models = {
        "fp32": fp32,
        "int8": calibrator.network(QuantizationRecipe()).write().model,
        "int8, channels evened out": calibrator.network(QuantizationRecipe(equalize=True)).write().model,
    }
    accuracies = {}
    for name, model in models.items():
        session = open_session_from_bytes(model.SerializeToString(), "cpu", threads=2)
        outputs = [session.run(None, {"image": batch})[0] for batch in np.array_split(images["test"], 16)]
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
