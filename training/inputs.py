"""What a training begins with: its options worked out, its images, an earlier run's network, a frozen backbone's features."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.errors import DatasetError, UsageError
from edgeclf.runtime.progress import Progress
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.features import FrozenBackbone, backbone_features, freeze_backbone, freeze_written
from edgeclf.training.data.dataset import Dataset
from edgeclf.training.data.training_data import TrainingData, prepare_data
from edgeclf.training.drawing import import_figure
from edgeclf.training.networks.weights import LayerWeights
from edgeclf.training.options import Settings, TrainOptions, options_from_json, work_out
from edgeclf.training.prefetch import working_ahead
from edgeclf.training.run import folder as run_folder
from edgeclf.training.run.transfer import Transfer, class_changes, count_leaked, known_parts

_FEATURES_IN_MEMORY_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Plan:
    """A training worked out.

    Attributes:
        dataset: The labelled images.
        options: What was said, with what an earlier run decides.
        settings: What it comes to.
        earlier: The run that it goes on from; None for none.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
    """

    dataset: Dataset
    options: TrainOptions
    settings: Settings
    earlier: run_folder.Run | None
    cache_folder: CacheFolder | None


def plan_training(
    dataset: Dataset, options: TrainOptions, cache_folder: CacheFolder | None, *, resumed: bool = False
) -> Plan:
    """Works a training out.

    Args:
        dataset: The labelled images.
        options: What was said.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        resumed: Whether the options are those of a training that goes on, with what an earlier run decided.

    Raises:
        UsageError: An option is out of range, names something that does not exist, or contradicts another.
        RunFolderError: The run to go on from is missing or damaged.
    """
    earlier = None if options.from_run is None else run_folder.load_run(Path(options.from_run))
    if earlier is not None and not resumed:
        options = _as_in_run(options, earlier)
    return Plan(dataset, options, work_out(options), earlier, cache_folder)


def _as_in_run(options: TrainOptions, earlier: run_folder.Run) -> TrainOptions:
    """The options with what an earlier run decides: architecture, input size and fit mode.

    Raises:
        UsageError: An option says something else.
        RunFolderError: The run was written by another version.
    """
    before = options_from_json(earlier.options, earlier.folder / run_folder.RUN_FILE)
    size = earlier.spec.preprocess.size_hw[0]
    for flag, given, theirs in (
        (
            "--arch",
            None if options.architecture == TrainOptions.architecture else options.architecture,
            before.architecture,
        ),
        ("--weights", options.weights, None),
        ("--image-size", options.image_size, size),
        ("--fit", options.fit, earlier.spec.preprocess.fit),
    ):
        if given is not None and given != theirs:
            raise UsageError(
                f"{flag} does not go with --from",
                got=str(given),
                expected=f"{theirs}, as in {earlier.folder}" if theirs else "none: the run has its weights",
                do=f"leave {flag} out",
            )
    # A run that was trained from random weights is trained on as a whole.
    weights = "none" if before.weights == "none" else None
    return replace(
        options,
        architecture=before.architecture,
        weights=weights,
        image_size=size,
        fit=earlier.spec.preprocess.fit,
    )


@dataclass(frozen=True, eq=False)
class Loaded:
    """What the fits of a training begin with.

    Attributes:
        data: The images, ready.
        transfer: What an earlier run gives; None where there is none.
        backbone: In Keras, frozen, images to (None, F) features; None where the whole network is trained at once.
        features: (N, F) of every image; None where there is no backbone, or they were not asked for.
    """

    data: TrainingData
    transfer: Transfer | None
    backbone: Any
    features: ArrayFile | npt.NDArray[np.float32] | None


def load(plan: Plan, progress: Progress, *, with_features: bool = True) -> Loaded:
    """Prepares the images and what an earlier run gives, and the backbone and its features where it is frozen.

    Raises:
        EdgeclfError: As `prepare_data`; the weights cannot be used, or the earlier network cannot be loaded.
    """
    earlier, settings = plan.earlier, plan.settings
    data = prepare_data(
        plan.dataset,
        settings.preprocess,
        plan.options,
        known={} if earlier is None else known_parts(earlier),
        cache_folder=plan.cache_folder,
        progress=progress,
    )
    transfer = None
    if earlier is not None:
        changes = class_changes(earlier.spec.labels, earlier.split, data.labels, data.samples)
        if settings.qat and earlier.spec.labels != data.labels:
            raise DatasetError(
                "--qat trains the network of a run for 8 bits, with its own classes",
                got=", ".join(data.labels),
                expected=", ".join(earlier.spec.labels),
                do="train with --from first, and go on from that run with --qat",
            )
        transfer = Transfer(earlier, earlier.load_model(), changes, count_leaked(earlier, data.samples))
    backbone = transfer.backbone() if settings.freezes and transfer is not None else None
    if not settings.freezes or not with_features:
        _import_packages()
        return Loaded(data, transfer, _frozen(settings, backbone) if settings.freezes else None, None)
    weights = settings.read_weights() if backbone is None else None
    if backbone is None and weights is None:
        backbone = settings.build_backbone()
    frozen = _freeze(settings, weights, backbone, plan.cache_folder, progress)

    def features_of(report: Progress) -> ArrayFile:
        return backbone_features(frozen, data.cached, cache_folder=plan.cache_folder, progress=report)

    with working_ahead(features_of, progress, name="edgeclf-ahead") as features:
        # Seconds, where nothing has needed TensorFlow yet.
        _import_packages()
        backbone = _frozen(settings, backbone)
        return Loaded(data, transfer, backbone, _in_memory(features.result()))


def _in_memory(features: ArrayFile) -> ArrayFile | npt.NDArray[np.float32]:
    """All of them, where they are few: a head reads them once an epoch, in another order each time."""
    return features[:] if math.prod(features.shape) * features.dtype.itemsize <= _FEATURES_IN_MEMORY_BYTES else features


def _import_packages() -> None:
    """Imports what the fits need, so that what cannot be loaded is known before there is anything to lose."""
    import_tensorflow()
    import_figure()


def _frozen(settings: Settings, backbone: Any) -> Any:  # noqa: ANN401 - keras carries no types
    backbone = backbone or settings.build_backbone()
    backbone.trainable = False
    return backbone


def _freeze(
    settings: Settings,
    weights: LayerWeights | None,
    backbone: Any,  # noqa: ANN401 - keras carries no types
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> FrozenBackbone:
    architecture, size_hw = settings.architecture, settings.preprocess.size_hw
    if weights is not None and architecture.write_backbone is not None:
        return freeze_written(architecture.name, size_hw, weights, architecture.write_backbone)
    return freeze_backbone(
        backbone, architecture.name, size_hw, architecture.write_backbone, cache_folder=cache_folder, progress=progress
    )
