"""Trainings made to fail on purpose, each on few of the images, so that one takes about half a minute."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.doctor.faults.base import Fault, Truth
from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.batch.listing import looks_like_image
from edgeclf.training import TrainOptions, train
from edgeclf.training.networks import registry as architectures

# Images of all classes together that a training is given, and that test it.
TRAINING_IMAGES, TEST_IMAGES = 480, 200
# A plain recipe that learns something from so few images in so few epochs, for one thing at a time to be spoilt.
_SMALL = TrainOptions(architecture="small-cnn", image_size=64, epochs=16, patience=16, augment="light")
# A plain network, without what makes it easy to train.
_SEED = TrainOptions(
    architecture="seed-cnn",
    image_size=89,
    epochs=12,
    patience=12,
    optimizer="adam",
    learning_rate=1e-3,
    warmup_epochs=0.6,
    weight_decay=0.0,
    label_smoothing=0.0,
    augment="light",
    dropout_scale=1.0,
    batch_norm=False,
)
_LEARNING_RATES = {"small-cnn": 2e-3, "seed-cnn": 1e-3}


def keep_some(
    data: Path, rng: np.random.Generator, *, training: int = TRAINING_IMAGES, test: int = TEST_IMAGES
) -> None:
    """Removes images at random until so many are left in each split, the classes' shares kept."""
    for split, most in (("train", training), ("test", test)):
        by_class = [sorted(folder.iterdir()) for folder in sorted((data / split).iterdir()) if folder.is_dir()]
        share = min(1.0, most / sum(map(len, by_class)))
        for files in by_class:
            for position in rng.permutation(len(files))[round(share * len(files)) :]:
                files[position].unlink()


def shuffle_labels(data: Path, rng: np.random.Generator) -> None:
    """Deals the files of each split out to its class folders anew; every class keeps its number of files."""
    for split in sorted(folder for folder in data.iterdir() if folder.is_dir()):
        files = [file for folder in sorted(split.iterdir()) for file in sorted(folder.iterdir())]
        folders = [file.parent for file in files]
        for number, position in enumerate(rng.permutation(len(files))):
            # The number keeps names apart that two classes share; what lies there already has its own.
            files[position].rename(folders[number] / f"dealt-{number:06d}{files[position].suffix}")


@contextlib.contextmanager
def scaled_inputs(name: str, change: Callable[[Any], None]) -> Iterator[None]:
    """An architecture whose normalisation is changed while the block lasts."""
    original = architectures.ARCHITECTURES[name]

    def build(size_hw: Any, classes: int) -> Any:  # noqa: ANN401 - keras carries no types
        if original.build is None:
            raise ValueError(f"{name} is not built from scratch")
        network = original.build(size_hw, classes)
        change(network.get_layer("normalise"))
        return network

    architectures.ARCHITECTURES[name] = replace(original, build=build)
    try:
        yield
    finally:
        architectures.ARCHITECTURES[name] = original


def _times_255(layer: Any) -> None:  # noqa: ANN401
    layer.scale *= 255.0


def _by_255(layer: Any) -> None:  # noqa: ANN401
    layer.scale, layer.offset = 1 / 255, 0.0


def _train(folder: Path, options: TrainOptions, rng: np.random.Generator) -> None:
    options = replace(options, seed=int(rng.integers(1 << 31)))
    train(folder / "data", folder / "run", options, cache_folder=CacheFolder(folder / "cache"))


def _learning_rate(base: TrainOptions, factor: float) -> Callable[[Path, np.random.Generator], Truth]:
    def inject(folder: Path, rng: np.random.Generator) -> Truth:
        keep_some(folder / "data", rng)
        _train(folder, replace(base, learning_rate=_LEARNING_RATES[base.network] * factor), rng)
        cause = "lr-too-high" if factor > 1 else "lr-too-low"
        return Truth((cause, "diverged") if factor > 1 else (cause,), must_rank_first=True)

    return inject


def _wrong_scale(base: TrainOptions) -> Callable[[Path, np.random.Generator], Truth]:
    def inject(folder: Path, rng: np.random.Generator) -> Truth:
        keep_some(folder / "data", rng)
        with scaled_inputs(base.network, _times_255):
            _train(folder, base, rng)
        return Truth(("input-scale",), must_rank_first=True)

    return inject


def _shuffled(base: TrainOptions) -> Callable[[Path, np.random.Generator], Truth]:
    def inject(folder: Path, rng: np.random.Generator) -> Truth:
        keep_some(folder / "data", rng)
        shuffle_labels(folder / "data", rng)
        _train(folder, base, rng)
        return Truth(("label-noise",), must_rank_first=True)

    return inject


def _unregularized(folder: Path, rng: np.random.Generator) -> Truth:
    keep_some(folder / "data", rng, training=250)
    options = replace(
        _SMALL, augment="none", weight_decay=0.0, label_smoothing=0.0, average_epochs=0.0, epochs=25, patience=25
    )
    _train(folder, options, rng)
    return Truth(("overfit",), must_rank_first=True)


def _stopped(base: TrainOptions) -> Callable[[Path, np.random.Generator], Truth]:
    def inject(folder: Path, rng: np.random.Generator) -> Truth:
        keep_some(folder / "data", rng)
        _train(folder, replace(base, epochs=2), rng)
        return Truth(("stopped-early",), must_rank_first=True)

    return inject


def _original(folder: Path, rng: np.random.Generator) -> Truth:
    keep_some(folder / "data", rng)
    options = replace(
        _SEED,
        optimizer="nadam",
        schedule="constant",
        batch_size=16,
        augment="none",
        warmup_epochs=None,
        patience=10,
        epochs=12,
    )
    with scaled_inputs("seed-cnn", _by_255):
        _train(folder, options, rng)
    return Truth(("stuck-at-chance",), must_rank_first=True)


def _turned_after_training(folder: Path, rng: np.random.Generator) -> Truth:
    """Turns a share of the images upside down when the run is made: the same names, other contents."""
    data = folder / "data"
    keep_some(data, rng)
    _train(folder, replace(_SMALL, epochs=1), rng)
    files = [path for path in sorted(data.rglob("*")) if path.is_file() and looks_like_image(path)]
    chosen = [files[position] for position in rng.permutation(len(files))[: max(1, len(files) // 20)]]
    for path in chosen:
        # JPEG's loss suffices for another content where a picture is symmetrical.
        encoded = cv2.imencode(".jpg", cv2.rotate(cv2.imread(str(path)), cv2.ROTATE_180))[1]
        path.write_bytes(encoded.tobytes())
    return Truth(("changed-images",), items=frozenset(path.relative_to(data).as_posix() for path in chosen))


FAULTS: tuple[Fault, ...] = (
    Fault("learning rate x100, small-cnn", 7, _learning_rate(_SMALL, 100.0), needs_run=True),
    Fault("learning rate x100, seed-cnn", 7, _learning_rate(_SEED, 100.0), needs_run=True),
    Fault("learning rate /1000, small-cnn", 7, _learning_rate(_SMALL, 1e-3), needs_run=True),
    Fault("learning rate /1000, seed-cnn", 7, _learning_rate(_SEED, 1e-3), needs_run=True),
    Fault("inputs 0-65025, small-cnn", 7, _wrong_scale(_SMALL), needs_run=True),
    Fault("inputs 0-65025, seed-cnn", 7, _wrong_scale(_SEED), needs_run=True),
    Fault("labels shuffled, small-cnn", 7, _shuffled(_SMALL), needs_run=True),
    Fault("labels shuffled, seed-cnn", 7, _shuffled(_SEED), needs_run=True),
    Fault("200 images, nothing against overfitting", 7, _unregularized, needs_run=True),
    Fault("stopped after 2 epochs, small-cnn", 7, _stopped(_SMALL), needs_run=True),
    Fault("stopped after 2 epochs, seed-cnn", 7, _stopped(_SEED), needs_run=True),
    Fault("5 % of the images turned after the training", 7, _turned_after_training, needs_run=True),
    Fault("273,330 parameters, nadam, pixels / 255", 7, _original, needs_run=True),
)
