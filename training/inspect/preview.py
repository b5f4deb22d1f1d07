"""Previews of a training: augmented training images, and a learning-rate sweep."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.keras_backend import check_training_packages
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.files import replacing
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.training.data.augmentation import augment_batch, get_augmentation, mix_up
from edgeclf.training.data.dataset import Dataset
from edgeclf.training.data.loader import BatchLoader
from edgeclf.training.data.training_data import prepare_training_data
from edgeclf.training.drawing import import_figure
from edgeclf.training.fit.loop import make_optimizer
from edgeclf.training.fit.lr_finder import LrSweep, find_learning_rate
from edgeclf.training.fit.lr_plot import plot_find_lr
from edgeclf.training.fit.resolve import resolve_options
from edgeclf.training.fit.stages import build_first_network
from edgeclf.training.inputs import prepare_inputs
from edgeclf.training.options import TrainOptions, training_option
from edgeclf.training.run.earlier import open_earlier

_SHOWN_IMAGES, _SHOWN_VARIATIONS = 8, 5


def draw_augmentation(
    dataset: Dataset,
    options: TrainOptions,
    picture: Path,
    *,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> None:
    """Draws training images above augmented variants of them, one column an image.

    Args:
        dataset: The labelled images.
        options: Options of the training; their augmentation is drawn, else that of its recipe.
        picture: The PNG file to write.
        cache_folder: Where preprocessed images are kept; None takes the default.
        progress: Called with the number of images decoded.

    Raises:
        UsageError: There is no augmentation.
        EdgeclfError: The images cannot be used, or the picture not written.
    """
    # Augmentation that is asked for is drawn also where only a head would be trained, which refuses it.
    resolved = resolve_options(open_earlier(replace(options, augment=None, mixup=None))[0])
    fit = resolved.fine_tune or resolved.first
    name, mixup = options.augment or fit.augment, fit.mixup if options.mixup is None else options.mixup
    training_option("augment").check(name)
    augmentation = get_augmentation(name)
    if augmentation.is_none and not mixup:
        raise UsageError(
            "nothing is augmented",
            got=f"{resolved.architecture.name} with --augment none",
            expected="light or strong",
            hint="pass --augment light or --augment strong",
        )
    import_figure()
    data = prepare_training_data(
        dataset, resolved.preprocess, options, earlier={}, cache_folder=cache_folder, progress=progress
    )
    training = data.subset("train")
    rng = np.random.default_rng(options.seed)
    chosen = np.sort(rng.permutation(len(training.positions))[:_SHOWN_IMAGES])
    images_rgb: UInt8Array = training.read(chosen)
    true = training.true_indices[chosen]
    rows = [("as they are", images_rgb)]
    rows += [(f"--augment {name}", augment_batch(images_rgb, augmentation, rng)) for _ in range(_SHOWN_VARIATIONS)]
    if mixup:
        targets = np.eye(len(data.labels), dtype=np.float32)[true]
        weights = np.ones(len(true), np.float32)
        blended, *_ = mix_up(augment_batch(images_rgb, augmentation, rng), targets, weights, mixup, rng)
        rows.append((f"and --mixup {mixup:g}", blended))
    with replacing(picture) as temporary:
        _draw_grid(rows, [data.labels[index] for index in true], temporary)


def _draw_grid(rows: list[tuple[str, UInt8Array]], labels: list[str], path: Path) -> None:
    figure = import_figure()(figsize=(1.3 * len(labels), 1.3 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), len(labels), squeeze=False)
    for row, (name, images_rgb) in enumerate(rows):
        for column, image_rgb in enumerate(images_rgb):
            axes = grid[row][column]
            axes.imshow(image_rgb)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(labels[column][:16], fontsize=8, parse_math=False)
            if column == 0:
                axes.set_ylabel(name, fontsize=7)
    figure.savefig(path, dpi=110)


def sweep_learning_rate(
    dataset: Dataset,
    options: TrainOptions,
    picture: Path,
    *,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> LrSweep:
    """Sweeps the learning rate of the first fit of a training, that of a head or of the whole network, and draws the losses.

    Args:
        dataset: The labelled images.
        options: Options of the training.
        picture: The PNG file to write.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        progress: Called with each stage.

    Raises:
        EdgeclfError: The images cannot be used, the loss never falls, or the picture cannot be written.
    """
    options, earlier = open_earlier(options)
    resolved = resolve_options(options)
    if earlier is not None:
        resolved = replace(resolved, preprocess=earlier.spec.preprocess)
    check_training_packages()
    if earlier is None:
        resolved.check_available()
    data, transfer, backbone = prepare_inputs(
        dataset, options, resolved, earlier, cache_folder=cache_folder, progress=progress
    )
    import keras

    keras.utils.set_random_seed(options.seed)
    network = build_first_network(resolved, data, transfer, backbone)
    # Of the size the network ends with, also where training begins with smaller images.
    full_size = replace(resolved.first, progressive=False)
    training = data.subset("train", features=resolved.freezes_backbone)
    batches = BatchLoader(training, len(data.labels), full_size)
    constant = replace(resolved.first, schedule="constant", warmup_epochs=0.0)
    sweep = find_learning_rate(network, batches.endless(), make_optimizer(constant, len(batches)), progress=progress)
    with replacing(picture) as temporary:
        plot_find_lr(sweep, temporary)
    return sweep
