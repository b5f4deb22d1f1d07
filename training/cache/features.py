"""Features of a frozen backbone, computed once per image, by ONNX Runtime; by Keras where both do not give the same."""

from collections.abc import Generator, Sequence

import numpy as np

from edgeclf.export.cache_folder import CacheFolder, chosen_cache_folder
from edgeclf.export.keras_backend import KerasModel, inference_of
from edgeclf.export.source.feature_layer import feature_layer_of
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
# Images whose features Keras computes as well.
_CHECKED_IMAGES = 8
_KERAS_TOGETHER = 32
# Of the length of an image's features: rounding in float32 makes 1e-6 of it, in the 10 bits of TF32 on a GPU 1e-3, while
# a layer that is converted wrongly makes much more. No logit of a head moves by more than this part of its weights' length.
_TOLERANCE = 0.01


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


def checked_features(
    features: ArrayFile,
    backbone: FrozenBackbone,
    model: KerasModel,
    cached: CachedImages,
    *,
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> tuple[ArrayFile, str | None]:
    """The features by ONNX Runtime, if Keras computes the same for a few of the images; else the features by Keras.

    What Keras computes is kept in the cache as well, so that it is asked once for the same images.

    Args:
        features: (N, F) float32 of all images, by ONNX Runtime.
        backbone: What computed them.
        model: The same backbone in Keras.
        cached: The preprocessed images.
        cache_folder: Where features are kept; None takes the default.
        progress: Receives the number of features that Keras computed, of those that were missing.

    Returns:
        (N, F) float32, in the order of the images; and a sentence where they are Keras's.

    Raises:
        OutputError: The cache cannot be written.
    """
    if feature_layer_of(model) is not None:
        # Keras would ask ONNX Runtime.
        return features, None

    def by_keras(positions: Sequence[int]) -> ArrayFile:
        return _keras_features(backbone, model, cached, positions, cache_folder=cache_folder, progress=progress)

    # By digest, so that with one more photograph they are the same, nearly always.
    chosen = sorted(range(len(cached.digests)), key=cached.digests.__getitem__)[:_CHECKED_IMAGES]
    difference = _largest_difference(features.take(np.array(chosen)), by_keras(chosen)[:])
    if difference <= _TOLERANCE:
        return features, None
    return by_keras(range(len(cached.digests))), (
        f"the backbone gives other features in ONNX Runtime than in Keras: those of {len(chosen)} images differ by up to "
        f"{difference:.0%} of their length, where rounding makes less than {_TOLERANCE:.0%}; this training takes Keras's, which "
        "takes longer, and an export of the run compares both"
    )


def _largest_difference(features: FloatArray, expected: FloatArray) -> float:
    """Largest distance of a row from the expected one, as a part of that one's length; infinite for NaN.

    Rows that are not expected to be finite count for nothing: no other features are to be had.
    """
    finite = np.isfinite(expected).all(axis=1)
    distances = np.linalg.norm((features - expected)[finite].astype(np.float64), axis=1)
    lengths = np.linalg.norm(expected[finite].astype(np.float64), axis=1)
    parts = np.divide(distances, lengths, out=np.where(distances == 0, 0.0, np.inf), where=lengths > 0)
    return float(np.nan_to_num(parts, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _keras_features(
    backbone: FrozenBackbone,
    model: KerasModel,
    cached: CachedImages,
    positions: Sequence[int],
    *,
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> ArrayFile:
    """Features of the images at the positions, (len, F) float32, computed by Keras where no earlier run has."""
    import keras

    key = f"{_FORMAT} {backbone.digest} {cached.key} keras {keras.__version__} {keras.backend.backend()}"
    configuration = Configuration("features", key, (backbone.feature_count,), "<f4")

    def compute(missing: Sequence[int]) -> Generator[FloatArray, None, None]:
        infer = inference_of(model)
        for start in range(0, len(missing), _KERAS_TOGETHER):
            wanted = [positions[place] for place in missing[start : start + _KERAS_TOGETHER]]
            yield from infer(cached.images.take(np.array(wanted)))

    digests = [cached.digests[position] for position in positions]
    rows, _ = cached_rows(
        cache_folder or chosen_cache_folder(),
        configuration,
        digests,
        compute,
        stage="features by Keras",
        progress=progress,
    )
    return rows


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
