"""Fast inference of a finished run on this machine: backbone in ONNX Runtime, head in NumPy."""

import numpy as np

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.keras_backend import Inference, KerasModel, inference_of
from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.progress import Progress
from edgeclf.training.networks.frozen_backbone import FrozenBackbone, freeze_backbone
from edgeclf.training.networks.registry import get_architecture
from edgeclf.training.prefetch import prefetch_map
from edgeclf.training.run.folder import Run

_TOGETHER = 4
# Probabilities of the two ways to compute them may differ by rounding, and by no more.
_TOLERANCE = 1e-3


def quick_inference(
    run: Run,
    model: KerasModel,
    check_rgb: UInt8Array,
    *,
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> Inference:
    """Inference of a run's Keras model, several times as fast where the network has a large backbone.

    Args:
        run: The run.
        model: Its Keras model.
        check_rgb: (N, H, W, 3) uint8 RGB, a few images on which both must agree; where they do not, Keras is taken.
        cache_folder: Where converted backbones are kept; None takes the default.
        progress: Called when one is converted.

    Returns:
        Takes (N, H, W, 3) uint8 RGB, gives (N, C) float32 probabilities.
    """
    slow = inference_of(model)
    if not get_architecture(run.spec.architecture).pretrained:
        return slow
    try:
        frozen = _freeze(run, model, cache_folder, progress)
    except EdgeclfError:
        # A layer that has no counterpart in ONNX.
        return slow
    quick = _with_head(frozen, model)
    return quick if np.allclose(quick(check_rgb), slow(check_rgb), atol=_TOLERANCE) else slow


def _freeze(run: Run, model: KerasModel, cache_folder: CacheFolder | None, progress: Progress) -> FrozenBackbone:
    from keras import Model

    backbone = Model(model.input, model.get_layer("head_dropout").input, name=model.name)
    architecture = get_architecture(run.spec.architecture)
    return freeze_backbone(
        backbone,
        architecture.name,
        run.spec.preprocess.size_hw,
        architecture.write_backbone,
        cache_folder=cache_folder,
        progress=progress,
    )


def _with_head(frozen: FrozenBackbone, model: KerasModel) -> Inference:
    kernel, bias = (np.asarray(values, np.float32) for values in model.get_layer("logits").get_weights())
    scale = np.float32(model.get_layer("temperature").scale)
    name = frozen.session.get_inputs()[0].name

    def features(group: UInt8Array) -> FloatArray:
        (found,) = frozen.session.run(None, {name: group})
        return np.asarray(found, np.float32)

    def run(images_rgb: AnyArray) -> FloatArray:
        groups = [images_rgb[start : start + _TOGETHER] for start in range(0, len(images_rgb), _TOGETHER)]
        threads = usable_cpus()
        found = list(prefetch_map(features, groups, threads=threads, ahead=4 * threads, name="edgeclf-infer"))
        logits = (np.concatenate(found) @ kernel + bias) * scale
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)

    return run
