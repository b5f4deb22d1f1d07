"""What the fits of a training begin with: images, an earlier run's network, a frozen backbone and its features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeclf.export._packages import import_tensorflow
from edgeclf.runtime.progress import Progress
from edgeclf.training.ahead import working_ahead
from edgeclf.training.features import FrozenBackbone, backbone_features, freeze_converted, freeze_written
from edgeclf.training.networks.weights import LayerWeights, weights_of
from edgeclf.training.options import Settings
from edgeclf.training.plan import Plan
from edgeclf.training.prepare import TrainingData, prepare_data
from edgeclf.training.rows import RowFile
from edgeclf.training.transfer import Transfer, class_changes, count_leaked, known_parts


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
    features: RowFile | None


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
        transfer = Transfer(earlier, earlier.load_model(), changes, count_leaked(earlier, data.samples))
    if not settings.freezes:
        import_tensorflow()
        return Loaded(data, transfer, None, None)
    backbone = None if transfer is None else transfer.backbone()
    if not with_features:
        backbone = backbone or settings.build_backbone()
        backbone.trainable = False
        return Loaded(data, transfer, backbone, None)
    weights = settings.read_weights() if backbone is None else None
    if backbone is None and weights is None:
        backbone = settings.build_backbone()
    frozen = _freeze(settings, weights, backbone, plan.cache_folder, progress)

    def features_of(report: Progress) -> RowFile:
        key = settings.preprocess.key
        return backbone_features(frozen, data.cached, key, cache_folder=plan.cache_folder, progress=report)

    with working_ahead(features_of, progress, name="edgeclf-ahead") as features:
        # Where it has not been needed yet, this imports TensorFlow, which takes seconds.
        backbone = backbone or settings.build_backbone()
        backbone.trainable = False
        return Loaded(data, transfer, backbone, features.result())


def _freeze(
    settings: Settings,
    weights: LayerWeights | None,
    backbone: Any,  # noqa: ANN401 - keras carries no types
    cache_folder: Path | None,
    progress: Progress,
) -> FrozenBackbone:
    architecture = settings.architecture
    if architecture.write_backbone is None:
        return freeze_converted(backbone, cache_folder=cache_folder, progress=progress)
    weights = weights_of(backbone) if weights is None else weights
    return freeze_written(architecture.name, settings.preprocess.size_hw, weights, architecture.write_backbone)
