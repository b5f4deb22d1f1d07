"""What the fits of a training begin with: images, an earlier run's network, a frozen backbone and its features."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.errors import DatasetError
from edgeclf.runtime.progress import Progress
from edgeclf.training.cache.array_file import RowFile
from edgeclf.training.cache.features import FrozenBackbone, backbone_features, freeze_backbone, freeze_written
from edgeclf.training.data.training_data import TrainingData, prepare_data
from edgeclf.training.inputs import Plan
from edgeclf.training.networks.weights import LayerWeights
from edgeclf.training.options import Settings
from edgeclf.training.plots import import_figure
from edgeclf.training.prefetch import working_ahead
from edgeclf.training.run.transfer import Transfer, class_changes, count_leaked, known_parts

_FEATURES_IN_MEMORY_BYTES = 256 << 20


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
    features: RowFile | npt.NDArray[np.float32] | None


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

    def features_of(report: Progress) -> RowFile:
        key = settings.preprocess.key
        return backbone_features(frozen, data.cached, key, cache_folder=plan.cache_folder, progress=report)

    with working_ahead(features_of, progress, name="edgeclf-ahead") as features:
        # Seconds, where nothing has needed TensorFlow yet.
        _import_packages()
        backbone = _frozen(settings, backbone)
        return Loaded(data, transfer, backbone, _in_memory(features.result()))


def _in_memory(features: RowFile) -> RowFile | npt.NDArray[np.float32]:
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
    cache_folder: Path | None,
    progress: Progress,
) -> FrozenBackbone:
    architecture, size_hw = settings.architecture, settings.preprocess.size_hw
    if weights is not None and architecture.write_backbone is not None:
        return freeze_written(architecture.name, size_hw, weights, architecture.write_backbone)
    return freeze_backbone(
        backbone, architecture.name, size_hw, architecture.write_backbone, cache_folder=cache_folder, progress=progress
    )
