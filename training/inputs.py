"""The inputs of a training: its data, and the network that its fits begin with."""

import math
import random
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.keras_backend import KerasModel, import_tensorflow
from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.progress import Progress
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.features import backbone_features, checked_features
from edgeclf.training.data.dataset import Dataset
from edgeclf.training.data.training_data import TrainingData, prepare_training_data
from edgeclf.training.drawing import import_figure
from edgeclf.training.fit.resolve import ResolvedOptions
from edgeclf.training.fit.transfer import Transfer, class_changes, count_leaked, split_by_digest
from edgeclf.training.networks.frozen_backbone import FrozenBackbone, freeze_backbone, freeze_graph, freeze_written
from edgeclf.training.networks.weights.layer_weights import RANDOM
from edgeclf.training.options import TrainOptions
from edgeclf.training.prefetch import run_in_background
from edgeclf.training.run.folder import Run

_FEATURES_IN_MEMORY_BYTES = 256 << 20


def prepare_inputs(
    dataset: Dataset,
    options: TrainOptions,
    resolved: ResolvedOptions,
    earlier: Run | None,
    *,
    with_features: bool = True,
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> tuple[TrainingData, Transfer | None, KerasModel | None]:
    """Prepares the data, an earlier run's network, and the frozen backbone with its features where a head is fitted.

    Args:
        dataset: The labelled images.
        options: Seed and fractions of the split.
        resolved: The same options, resolved.
        earlier: The run to go on from; None for none.
        with_features: Whether the fits that are left take features.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        progress: Called with each stage.

    Returns:
        The data; the earlier run's network, None where there is none; and the backbone in Keras, frozen, None where the
        whole network is fitted.

    Raises:
        EdgeclfError: As `prepare_training_data`; the weights cannot be used, or the earlier network cannot be loaded.
    """
    data = prepare_training_data(
        dataset,
        resolved.preprocess,
        options,
        earlier={} if earlier is None else split_by_digest(earlier.split),
        cache_folder=cache_folder,
        progress=progress,
    )
    # Keras seeds the generators of dropout from it, where a network is built or loaded.
    random.seed(options.seed)
    transfer = None if earlier is None else _open_transfer(earlier, data, resolved)
    if not resolved.freezes_backbone:
        _import_packages()
        return data, transfer, None
    own = None if resolved.fine_tune is None else partial(resolved.build_backbone, RANDOM)
    backbone = None if transfer is None else transfer.backbone(own)
    if not with_features:
        _import_packages()
        return data, transfer, _frozen(resolved, backbone)
    session, backbone = _freeze(resolved, backbone, cache_folder, progress)
    in_keras: Future[KerasModel] = Future()

    def compute_features(report: Progress) -> tuple[ArrayFile | FloatArray, str | None]:
        rows = backbone_features(session, data.cached, cache_folder=cache_folder, progress=report)
        rows, note = checked_features(
            rows, session, in_keras.result(), data.cached, cache_folder=cache_folder, progress=report
        )
        return _in_memory(rows), note

    with run_in_background(compute_features, progress, name="edgeclf-background") as features:
        try:
            # Seconds, where nothing has needed TensorFlow yet.
            _import_packages()
            backbone = _frozen(resolved, backbone)
            in_keras.set_result(backbone)
        finally:
            # Nobody waits for what will not come.
            in_keras.cancel()
        rows, note = features.result()
    notes = data.notes if note is None else (*data.notes, note)
    return replace(data, features=rows, notes=notes), transfer, backbone


def _open_transfer(earlier: Run, data: TrainingData, resolved: ResolvedOptions) -> Transfer:
    labels = earlier.spec.labels
    if resolved.is_quantization_aware and labels != data.labels:
        raise DatasetError(
            "--qat trains the network of a run for 8 bits, with its own classes",
            got=", ".join(data.labels),
            expected=", ".join(labels),
            hint="train with --from first, and go on from that run with --qat",
        )
    changes = class_changes(labels, earlier.split, data.labels, data.samples)
    leaked = count_leaked(earlier.split, data.samples)
    seen = earlier.recorded_spec.seen_images
    began_with = earlier.spec.training.get("weights")
    return Transfer(earlier.folder, labels, earlier.load_model(), changes, leaked, seen, began_with)


def _in_memory(features: ArrayFile) -> ArrayFile | FloatArray:
    """All features in memory where they are few: a head reads them once an epoch, in another order each time."""
    return features[:] if math.prod(features.shape) * features.dtype.itemsize <= _FEATURES_IN_MEMORY_BYTES else features


def _import_packages() -> None:
    """Imports what the fits need, so that a package that cannot be loaded is known before there is work to lose."""
    import_tensorflow()
    import_figure()


def _frozen(resolved: ResolvedOptions, backbone: KerasModel | None) -> KerasModel:
    backbone = backbone or resolved.build_backbone()
    backbone.trainable = False
    return backbone


def _freeze(
    resolved: ResolvedOptions, backbone: KerasModel | None, cache_folder: CacheFolder | None, progress: Progress
) -> tuple[FrozenBackbone, KerasModel | None]:
    """The backbone in ONNX Runtime, and in Keras where it had to be built for that."""
    architecture, size_hw = resolved.architecture, resolved.preprocess.size_hw
    if resolved.backbone is not None:
        return freeze_graph(resolved.backbone.graph, resolved.backbone.digest), None
    if backbone is None and architecture.write_backbone is not None:
        weights = resolved.read_weights()
        if weights is not None:
            return freeze_written(architecture.name, size_hw, weights, architecture.write_backbone), None
    backbone = backbone or resolved.build_backbone()
    session = freeze_backbone(
        backbone, architecture.name, size_hw, architecture.write_backbone, cache_folder=cache_folder, progress=progress
    )
    return session, backbone
