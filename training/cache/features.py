"""Features of a frozen backbone, computed once per image, by ONNX Runtime."""

from collections.abc import Generator, Sequence

import numpy as np

from edgeclf.export.cache_folder import CacheFolder, chosen_cache_folder
from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session._onnxruntime import onnxruntime
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.pixels import CachedImages
from edgeclf.training.cache.store import Configuration, cached_rows
from edgeclf.training.networks.frozen_backbone import FrozenBackbone
from edgeclf.training.prefetch import prefetch_map

# Part of every key: a change of what features mean must make old rows miss.
_FORMAT = "edgeclf-features-1"
_TOGETHER = 4


def backbone_features(
    backbone: FrozenBackbone, cached: CachedImages, *, cache_folder: CacheFolder | None, progress: Progress
) -> ArrayFile:
    """The features of every image, computed where no earlier run has, with the same backbone.

    Args:
        backbone: The frozen backbone.
        cached: The preprocessed images.
        cache_folder: Where features are kept; None takes the default.
        progress: Receives the number of features computed, of those that were missing.

    Returns:
        (N, F) float32, in the order of the images.

    Raises:
        OutputError: The cache cannot be written.
    """
    folder = cache_folder or chosen_cache_folder()
    # Another version of ONNX Runtime may round otherwise.
    key = f"{_FORMAT} {backbone.digest} {cached.key} onnxruntime {onnxruntime.__version__}"
    configuration = Configuration("features", key, (backbone.feature_count,), "<f4")

    def compute(positions: Sequence[int]) -> Generator[FloatArray, None, None]:
        return _compute(backbone, cached, positions)

    features, _ = cached_rows(folder, configuration, cached.digests, compute, stage="features", progress=progress)
    return features


def _compute(
    backbone: FrozenBackbone, cached: CachedImages, positions: Sequence[int]
) -> Generator[FloatArray, None, None]:
    """Features of the images at the positions, in their order.

    Data-parallel: one thread per CPU, each running a few images on one thread of ONNX Runtime. A thread needs Python's
    lock between two runs, which the import of TensorFlow beside it holds for long; hence several images per run.
    """
    session, threads = backbone.session, usable_cpus()
    name = session.get_inputs()[0].name
    groups = [positions[start : start + _TOGETHER] for start in range(0, len(positions), _TOGETHER)]

    def run(group: Sequence[int]) -> FloatArray:
        (features,) = session.run(None, {name: cached.images.take(np.array(group))})
        given: FloatArray = features
        return given

    for rows in prefetch_map(run, groups, threads=threads, ahead=4 * threads, name="edgeclf-features"):
        yield from rows
