"""Features of images by the default pretrained backbone, through the cache that training uses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime import Preprocess
from edgeclf.runtime.arrays import FloatArray, IntArray
from edgeclf.runtime.progress import Progress
from edgeclf.training.cache.features import backbone_features
from edgeclf.training.cache.pixels import cached_images
from edgeclf.training.networks.frozen_backbone import freeze_written
from edgeclf.training.networks.registry import get_architecture
from edgeclf.training.networks.weights.layer_weights import PRETRAINED
from edgeclf.training.options import DEFAULT_ARCHITECTURE


def pretrained_features(
    paths: Sequence[Path], *, cache_folder: CacheFolder | None, progress: Progress
) -> tuple[IntArray, FloatArray]:
    """Features of images by the pretrained backbone of the default architecture.

    Args:
        paths: (N,) image files.
        cache_folder: Cache of preprocessed images and features; None for the default folder.
        progress: Reports how many are done.

    Returns:
        (M,) int64 positions of the readable images in `paths`, and their (M, F) float32 features.

    Raises:
        MissingPackageError: The weights' package is not installed.
        InputError: None of the files is a readable image.
        OutputError: The cache cannot be written.
    """
    if not paths:
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    architecture = get_architecture(DEFAULT_ARCHITECTURE)
    if architecture.read_weights is None or architecture.write_backbone is None:
        raise AssertionError(architecture.name)
    weights = architecture.read_weights(PRETRAINED)
    if weights is None:
        raise AssertionError(architecture.name)
    preprocess = Preprocess((architecture.default_size,) * 2, architecture.default_fit)
    backbone = freeze_written(architecture.name, preprocess.size_hw, weights, architecture.write_backbone)
    cached = cached_images(paths, preprocess, cache_folder=cache_folder, progress=progress)
    vectors = backbone_features(backbone, cached, cache_folder=cache_folder, progress=progress)
    return np.array(cached.rows, np.int64), np.asarray(vectors[:], np.float32)
