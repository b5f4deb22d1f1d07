"""A labelled data set becomes a run folder: split, cache, fit, measure, write."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export._packages import import_tensorflow
from edgeclf.export.keras_model import inference_of
from edgeclf.runtime.errors import DatasetError, EdgeclfError, UsageError
from edgeclf.runtime.metrics import ClassificationReport, classification_report
from edgeclf.runtime.preprocess import UInt8Array
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import FIT_MODES, FitMode, ModelSpec, Preprocess
from edgeclf.training import run_folder
from edgeclf.training.architectures import (
    DEFAULT_ARCHITECTURE,
    Architecture,
    assemble,
    build_head,
    get_architecture,
    without_optimizer,
)
from edgeclf.training.cache import CachedImages, cached_images
from edgeclf.training.dataset import Dataset, Sample, fingerprint
from edgeclf.training.fit import FitOptions, FitResult, fit, image_batches
from edgeclf.training.plots import import_figure
from edgeclf.training.record import package_versions, training_summary, write_run
from edgeclf.training.split import assign_splits

_PREDICT_BATCH = 64


@dataclass(frozen=True)
class TrainOptions:
    """What a training may be told; None takes what suits the architecture or the data.

    Attributes:
        architecture: Name of the network.
        image_size: Input height and width in pixels.
        fit: How images are fitted into that square: `stretch`, `crop` or `letterbox`.
        epochs: Most epochs.
        batch_size: Images in one step.
        optimizer: Name of the optimizer.
        learning_rate: Its learning rate.
        patience: Epochs without a lower validation loss before training stops.
        seed: Of split, weights, order and dropout.
        val_fraction: Share of the images that validate.
        test_fraction: Share of the images that test.
    """

    architecture: str = DEFAULT_ARCHITECTURE
    image_size: int | None = None
    fit: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    patience: int | None = None
    seed: int = 0
    val_fraction: float | None = None
    test_fraction: float | None = None


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a training did.

    Attributes:
        folder: The run folder.
        spec: What the model is.
        parameters: Number of parameters of the whole network.
        fit: Epochs, and how they ended.
        validation: Figures on the images that chose the weights.
        test: Figures on the images that chose nothing; None where there are none.
        unreadable: Images that were left out, and why.
        seconds: How long all of it took.
    """

    folder: Path
    spec: ModelSpec
    parameters: int
    fit: FitResult
    validation: ClassificationReport
    test: ClassificationReport | None
    unreadable: tuple[tuple[Path, EdgeclfError], ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class _Data:
    """The readable images of a data set and what each is for."""

    samples: tuple[Sample, ...]
    cached: CachedImages
    true_indices: npt.NDArray[np.int64]
    rows: dict[str, npt.NDArray[np.int64]]


def train(
    dataset: Dataset,
    options: TrainOptions,
    folder: Path,
    *,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    progress: Progress = no_progress,
) -> TrainResult:
    """Trains a classifier and writes its run folder.

    Args:
        dataset: The labelled images.
        options: How to train.
        folder: The run folder to write; it appears when training is complete, with the weights of the best epoch.
        overwrite: Whether a run that stands there may be replaced.
        cache_folder: Where preprocessed images are kept; None takes the default.
        progress: Told of each stage.

    Raises:
        UsageError: An option is out of range, or names an architecture or optimizer that does not exist.
        DatasetError: The data set is too small, or a class has no readable image.
        RunFolderError: The folder already holds a run, or something else.
        InputError: No image can be read, or the loss stopped being a number in the first epoch.
        OutputError: The run folder or the cache cannot be written.
        MissingPackageError: A package of the extra [train] is not installed.
        KeyboardInterrupt: Ctrl-C before the first epoch was complete; nothing is written.
    """
    started = time.perf_counter()
    architecture = get_architecture(options.architecture)
    preprocess = _preprocess(architecture, options)
    fit_options = _fit_options(architecture, options)
    run_folder.check_run_target(folder, overwrite=overwrite)
    samples = assign_splits(
        dataset, val_fraction=options.val_fraction, test_fraction=options.test_fraction, seed=options.seed
    )
    # What may be missing is loaded before any image is.
    import_tensorflow()
    import_figure()
    architecture.check_available()
    import keras

    with run_folder.staged_run_folder(folder) as staged:
        cached = cached_images(
            [dataset.root / sample.path for sample in samples],
            preprocess,
            cache_folder=cache_folder,
            progress=progress,
        )
        data = _arrange(samples, dataset.labels, cached)
        keras.utils.set_random_seed(options.seed)
        model, result, probabilities = _fit_architecture(architecture, preprocess, data, fit_options, progress)
        validation = classification_report(probabilities["val"], data.true_indices[data.rows["val"]], dataset.labels)
        test = (
            classification_report(probabilities["test"], data.true_indices[data.rows["test"]], dataset.labels)
            if "test" in probabilities
            else None
        )
        spec = ModelSpec(
            labels=dataset.labels,
            preprocess=preprocess,
            architecture=architecture.name,
            training=training_summary(
                options,
                fit_options,
                result,
                images={split: len(rows) for split, rows in data.rows.items()},
                validation=validation,
                test=test,
            ),
            dataset_fingerprint=_fingerprint(data),
            package_versions=package_versions(),
        )
        written = TrainResult(folder, spec, int(model.count_params()), result, validation, test, cached.unreadable, 0.0)
        write_run(staged, written, model, samples=samples, data_root=dataset.root, options=options)
    return TrainResult(**{**vars(written), "seconds": time.perf_counter() - started})


def _preprocess(architecture: Architecture, options: TrainOptions) -> Preprocess:
    size = architecture.default_size if options.image_size is None else options.image_size
    if size < architecture.min_size:
        raise UsageError(
            f"image size too small for {architecture.name}",
            got=f"{size} px",
            expected=f"at least {architecture.min_size} px",
            do="pass a larger --image-size",
        )
    modes: dict[str, FitMode] = {mode: mode for mode in FIT_MODES}
    fit_mode = architecture.default_fit if options.fit is None else options.fit
    if fit_mode not in modes:
        raise UsageError(f"unknown fit mode {fit_mode!r}", expected=" or ".join(FIT_MODES), do="choose one of them")
    return Preprocess((size, size), modes[fit_mode])


def _fit_options(architecture: Architecture, options: TrainOptions) -> FitOptions:
    names = ("epochs", "batch_size", "optimizer", "learning_rate", "patience")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return FitOptions(**{**asdict(architecture.recipe), **chosen}, seed=options.seed)


def _arrange(samples: Sequence[Sample], labels: Sequence[str], cached: CachedImages) -> _Data:
    readable = tuple(samples[row] for row in cached.rows)
    index = {label: position for position, label in enumerate(labels)}
    rows = {
        split: np.array([i for i, sample in enumerate(readable) if sample.split == split], np.int64)
        for split in ("train", "val", "test")
    }
    for split in ("train", "val"):
        there = Counter(readable[row].label for row in rows[split])
        for label in labels:
            if not there[label]:
                raise DatasetError(
                    f"class {label!r} has no readable {split} image",
                    got=f"{len(cached.unreadable)} unreadable files",
                    expected="at least one",
                    do="replace the unreadable files",
                )
    return _Data(readable, cached, np.array([index[s.label] for s in readable], np.int64), rows)


def _fit_architecture(
    architecture: Architecture, preprocess: Preprocess, data: _Data, options: FitOptions, progress: Progress
) -> tuple[Any, FitResult, dict[str, npt.NDArray[np.float32]]]:
    """Fits the network, or only a head on the features of its frozen backbone; gives val and test probabilities."""
    classes = len({sample.label for sample in data.samples})
    inputs: UInt8Array | npt.NDArray[np.float32] = data.cached.images
    if architecture.build is not None:
        network = architecture.build(preprocess.size_hw, classes)
        whole = without_optimizer(network)
    elif architecture.build_backbone is not None:
        backbone = architecture.build_backbone(preprocess.size_hw)
        every_row = np.arange(len(inputs))
        inputs = _predict(backbone, data.cached.images, every_row, "features", progress)
        network = build_head(inputs.shape[1], classes)
        whole = assemble(backbone, network)
    else:
        raise ValueError(f"architecture {architecture.name} has nothing to build")
    train_rows, val_rows = data.rows["train"], data.rows["val"]
    result = fit(
        network,
        image_batches(inputs, train_rows, data.true_indices[train_rows], options.batch_size, options.seed),
        image_batches(inputs, val_rows, data.true_indices[val_rows], _PREDICT_BATCH, None),
        options,
        progress,
    )
    probabilities = {
        split: _predict(network, inputs, data.rows[split], f"evaluate on {split}", progress)
        for split in ("val", "test")
        if len(data.rows[split])
    }
    return whole, result, probabilities


def _predict(
    model: Any,  # noqa: ANN401 - keras carries no types
    inputs: UInt8Array | npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    stage: str,
    progress: Progress,
) -> npt.NDArray[np.float32]:
    infer = inference_of(model)
    outputs = []
    for start in range(0, len(rows), _PREDICT_BATCH):
        batch = np.stack([inputs[row] for row in rows[start : start + _PREDICT_BATCH]])
        outputs.append(infer(batch))
        progress(stage, start + len(batch), len(rows))
    return np.concatenate(outputs)


def _fingerprint(data: _Data) -> str:
    """Of the images that had a say in the model: those that trained and those that chose."""
    used = (i for i, sample in enumerate(data.samples) if sample.split != "test")
    return fingerprint((data.samples[i].label, data.cached.digests[i]) for i in used)
