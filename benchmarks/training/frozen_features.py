"""Measures training a head on frozen features end to end: edgeclf against `keras.Model.predict` and `fit`.

    python benchmarks/training/frozen_features.py DATA [--rounds 1] [--size 224] [--quick] [--json]

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
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import (
    Arguments,
    Report,
    labelled_files,
    median,
    run_edgeclf,
    run_in_turns,
    run_script,
    stock_environment,
    working_folder,
)
from benchmarks.synthetic import write_labelled_folder

_ARCHITECTURE = "efficientnet-lite0"


def train_with_keras(data: Path, size: int) -> dict[str, float]:
    """Trains as a user of Keras would: test accuracy, and the seconds of each stage."""
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

    def features_of(split: str, **options: object) -> tuple[np.ndarray, np.ndarray]:
        images = keras.utils.image_dataset_from_directory(
            data / split,
            image_size=(size, size),
            crop_to_aspect_ratio=True,
            batch_size=64,
            shuffle=bool(options),
            seed=0,
            verbose=False,
            **options,
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
    with working_folder() as folder:
        assemble(backbone, head).save(folder / "model.keras")
    ended = time.perf_counter()
    return {
        "test_accuracy": accuracy,
        "import_and_build": imported - started,
        "features": predicted - imported,
        "head": ended - predicted,
    }


class Sides:
    """Both sides of the comparison: a call is one round of one side, and its figures are kept."""

    def __init__(self, data: Path, size: int, onednn: str) -> None:
        self._data, self._size = data, size
        self._environment = stock_environment(onednn)
        self._rounds = 0
        self.seconds: dict[str, list[float]] = {"cold": [], "warm": [], "keras": []}
        self.accuracies: dict[str, list[float]] = {"cold": [], "warm": [], "keras": []}
        self.keras_stages: list[dict[str, float]] = []

    def edgeclf(self) -> None:
        """Trains with an empty cache, then with another seed and that cache."""
        with working_folder() as folder:
            options = ("--arch", _ARCHITECTURE, "--image-size", self._size)
            for side, seed in (("cold", 0), ("warm", 1)):
                run = ("--run", folder / side, "--seed", seed + 2 * self._rounds)
                done = run_edgeclf("train", self._data, *run, *options, cache=folder / "cache")
                self.seconds[side].append(done.seconds)
                self.accuracies[side].append(done.document["test"]["accuracy"])
        self._rounds += 1

    def keras(self) -> None:
        """Trains with Keras as it comes."""
        arguments = (self._data, "--size", self._size, "--keras-side")
        done = run_script(__file__, *arguments, environment=self._environment)
        self.keras_stages.append(json.loads(done.stdout.strip().splitlines()[-1]))
        self.seconds["keras"].append(done.seconds)
        self.accuracies["keras"].append(self.keras_stages[-1]["test_accuracy"])


def main() -> None:
    """Prints seconds, accuracies and ratios, or JSON."""
    arguments = Arguments(__doc__, quick={"size": 64})
    arguments.add_input("data", "folder with train/ and test/")
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--size", type=int, default=224)
    arguments.add_argument(
        "--onednn", choices=["default", "off"], default="default", help="oneDNN on the side of stock Keras"
    )
    arguments.add_argument("--keras-side", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse()
    if given.keras_side:
        print(json.dumps(train_with_keras(given.data, given.size)))
        return
    with working_folder() as folder:
        data = given.data or write_labelled_folder(folder / "data")
        for split in ("train", "test"):
            for path, _ in labelled_files(data, split):
                path.read_bytes()
        sides = Sides(data, given.size, given.onednn)
        run_in_turns({"keras": sides.keras, "edgeclf": sides.edgeclf}, given.rounds)
    medians = {side: median(values) for side, values in sides.seconds.items()}
    ratios = {side: medians["keras"] / medians[side] for side in ("cold", "warm")}
    report = Report(given)
    report.columns({"": "<6", "seconds": ">9.1f", "test accuracy": ">15.4f", "times as fast as keras": ">24.2f"})
    for side, value in medians.items():
        report.row(side, value, median(sides.accuracies[side]), ratios.get(side))
    report.close(
        {
            "seconds": sides.seconds,
            "accuracies": sides.accuracies,
            "keras_stages": sides.keras_stages,
            "ratios": ratios,
        }
    )


if __name__ == "__main__":
    main()
