"""Measures training a head on frozen features end to end: edgeclf against `keras.Model.predict` and `fit`.

    python benchmarks/training/frozen_features.py DATA [--rounds 1] [--size 224] [--json]

DATA has train/ and test/ folders. Every side runs in fresh processes, by turns: from the files to a trained head and
its test accuracy, with the same network, image size, head, optimizer, batch size and early stopping.

- cold: `edgeclf train` with an empty cache, run folder and plots included;
- warm: the same again with another seed of the split, so that images and features are in the cache;
- keras: `image_dataset_from_directory`, `predict` through the frozen network, `fit` of the head, `save` of both, with
  TensorFlow's own defaults.

All files are read once before, so that no side waits for the disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import edgeclf, labelled_files, median, stock_environment

_ARCHITECTURE = "efficientnet-lite0"


def train_with_keras(data: Path, size: int) -> dict[str, float]:
    """What a user of Keras would write; gives test accuracy and the seconds of each stage."""
    started = time.perf_counter()
    # Before edgeclf's own import, which would turn oneDNN on.
    import keras
    import numpy as np

    from edgeclf.training.networks.registry import assemble, build_head, get_architecture

    architecture = get_architecture(_ARCHITECTURE)
    if architecture.build_backbone is None:
        raise AssertionError(_ARCHITECTURE)
    backbone = architecture.build_backbone((size, size), "imagenet")
    imported = time.perf_counter()

    def features_of(part: str, **split: object) -> tuple[np.ndarray, np.ndarray]:
        images = keras.utils.image_dataset_from_directory(
            data / part,
            image_size=(size, size),
            crop_to_aspect_ratio=True,
            batch_size=64,
            shuffle=bool(split),
            seed=0,
            verbose=False,
            **split,
        )
        labels = []

        def pixels(batch: object, true: object) -> object:
            return keras.ops.cast(batch, "uint8"), true

        features = []
        for batch, true in images.map(pixels):
            features.append(backbone.predict(batch, verbose=0))
            labels.append(np.asarray(true))
        return np.concatenate(features), np.concatenate(labels)

    x_train, y_train = features_of("train", validation_split=0.2, subset="training")
    x_val, y_val = features_of("train", validation_split=0.2, subset="validation")
    x_test, y_test = features_of("test")
    predicted = time.perf_counter()
    head = build_head(x_train.shape[1], int(y_train.max()) + 1)
    head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
    head.fit(x_train, y_train, validation_data=(x_val, y_val), epochs=50, batch_size=64, verbose=0, callbacks=[stop])
    accuracy = float((head.predict(x_test, verbose=0).argmax(axis=1) == y_test).mean())
    with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as folder:
        assemble(backbone, head).save(Path(folder) / "model.keras")
    ended = time.perf_counter()
    return {
        "test_accuracy": accuracy,
        "import_and_build": imported - started,
        "features": predicted - imported,
        "head": ended - predicted,
    }


def main() -> None:
    """Prints seconds, accuracies and ratios, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument(
        "--onednn", choices=["default", "off"], default="default", help="oneDNN on the side of stock Keras"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--keras-side", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.keras_side:
        print(json.dumps(train_with_keras(given.data, given.size)))
        return
    environment = stock_environment(given.onednn)
    seconds: dict[str, list[float]] = {"cold": [], "warm": [], "keras": []}
    accuracies: dict[str, list[float]] = {"cold": [], "warm": [], "keras": []}
    stages: list[dict[str, float]] = []
    for part in ("train", "test"):
        for path, _ in labelled_files(given.data, part):
            path.read_bytes()
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory(prefix="edgeclf-bench-") as name:
            folder = Path(name)
            for side, seed in (("cold", 0), ("warm", 1)):
                done = edgeclf(
                    "train",
                    given.data,
                    "--run",
                    folder / side,
                    "--arch",
                    _ARCHITECTURE,
                    "--image-size",
                    given.size,
                    "--seed",
                    seed + 2 * number,
                    cache=folder / "cache",
                )
                seconds[side].append(done.seconds)
                accuracies[side].append(done.document["test"]["accuracy"])
        started = time.perf_counter()
        command = [sys.executable, __file__, str(given.data), "--size", str(given.size), "--keras-side"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        seconds["keras"].append(time.perf_counter() - started)
        stages.append(json.loads(output.strip().splitlines()[-1]))
        accuracies["keras"].append(stages[-1]["test_accuracy"])
    medians = {side: median(values) for side, values in seconds.items()}
    ratios = {side: medians["keras"] / medians[side] for side in ("cold", "warm")}
    if given.json:
        print(
            json.dumps(
                {"seconds": seconds, "accuracies": accuracies, "keras_stages": stages, "ratios": ratios}, indent=2
            )
        )
        return
    for side, value in medians.items():
        ratio = f", {ratios[side]:.2f} times as fast as keras" if side in ratios else ""
        print(f"{side:6} {value:7.1f} s, test accuracy {median(accuracies[side]):.4f}{ratio}")


if __name__ == "__main__":
    main()
