"""A frozen backbone in ONNX Runtime: written from its weights, converted from Keras, or an ONNX graph already."""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass

import numpy as np

from edgeclf.export.cache_folder import CacheFolder, chosen_cache_folder
from edgeclf.export.keras_backend import KerasModel
from edgeclf.export.source.feature_layer import feature_layer_of
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.files import write_bytes
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session._onnxruntime import OrtSession
from edgeclf.runtime.session.opening import open_session, open_session_from_bytes
from edgeclf.training.networks.weights.layer_weights import LayerWeights, WriteBackbone, weights_of


@dataclass(frozen=True, eq=False)
class FrozenBackbone:
    """A frozen backbone in ONNX Runtime.

    Attributes:
        digest: Digest of architecture and weights; part of the features' key.
        session: On one thread, uint8 (N, H, W, 3) RGB in, float32 (N, F) out.
        feature_count: F.
    """

    digest: str
    session: OrtSession
    feature_count: int


def freeze_written(name: str, size_hw: tuple[int, int], weights: LayerWeights, write: WriteBackbone) -> FrozenBackbone:
    """A frozen backbone whose ONNX graph is written from weights, without TensorFlow.

    Args:
        name: Name of the architecture.
        size_hw: Input height and width in pixels.
        weights: Weights of the layers.
        write: Writes the graph, see `Architecture.write_backbone`.
    """
    digest = hashlib.blake2b(f"{name} {size_hw}".encode(), digest_size=16)
    for layer in sorted(weights):
        for values in weights[layer]:
            digest.update(np.ascontiguousarray(values).data)
    session = open_session_from_bytes(write(name, size_hw, weights).SerializeToString(), threads=1)
    return FrozenBackbone(digest.hexdigest(), session, int(session.get_outputs()[0].shape[-1]))


def freeze_graph(graph: bytes, digest: str) -> FrozenBackbone:
    """A frozen backbone that is an ONNX graph already.

    Args:
        graph: ONNX file: uint8 (N, H, W, 3) RGB in, float32 (N, F) out.
        digest: Its digest.
    """
    session = open_session_from_bytes(graph, threads=1)
    return FrozenBackbone(digest, session, int(session.get_outputs()[0].shape[-1]))


def freeze_backbone(
    backbone: KerasModel,
    name: str,
    size_hw: tuple[int, int],
    write: WriteBackbone | None,
    *,
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> FrozenBackbone:
    """A frozen backbone whose ONNX graph is written from the weights of a Keras model; converted where `write` cannot.

    Args:
        backbone: A Keras model, uint8 (None, H, W, 3) RGB in, float32 (None, F) out.
        name: Name of the architecture.
        size_hw: Input height and width in pixels.
        write: Writes the graph, see `Architecture.write_backbone`; None for an architecture without it.
        cache_folder: As for `freeze_converted`.
        progress: As for `freeze_converted`.

    Raises:
        EdgeclfError: As `freeze_converted`.
    """
    if write is None or _has_learned_ceilings(backbone):
        return freeze_converted(backbone, cache_folder=cache_folder, progress=progress)
    return freeze_written(name, size_hw, weights_of(backbone), write)


def _has_learned_ceilings(backbone: KerasModel) -> bool:
    """Whether a ReLU has another ceiling than 6, as quantization-aware training leaves them; weights do not contain it."""
    from keras import layers

    return any(isinstance(layer, layers.ReLU) and layer.max_value != 6 for layer in backbone.layers)


def freeze_converted(
    model: KerasModel,
    *,
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> FrozenBackbone:
    """A frozen backbone converted from Keras, by this process or an earlier one.

    Args:
        model: A Keras model, uint8 (None, H, W, 3) RGB in, float32 (None, F) out.
        cache_folder: Where converted backbones are kept; None takes the default.
        progress: Receives the beginning and the end of a conversion.

    Raises:
        InputError: The model cannot be converted to ONNX.
        MissingPackageError: A package of the extra [train] is not installed.
        OutputError: The cache cannot be written.
    """
    layer = feature_layer_of(model)
    if layer is not None:
        return freeze_graph(layer.graph, layer.digest)
    folder = cache_folder or chosen_cache_folder()
    folder.make()
    digest = backbone_digest(model)
    return FrozenBackbone(digest, _open_converted(model, digest, folder, progress), int(model.output_shape[-1]))


def backbone_digest(backbone: KerasModel) -> str:
    """Digest of a Keras model's layers, whatever their names, and weights, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in backbone.layers:
        # The dtype is an object whose text may hold its address; whether a layer is trained changes no result.
        options = {key: value for key, value in layer.get_config().items() if key not in {"name", "dtype", "trainable"}}
        text = json.dumps([type(layer).__name__, options, str(layer.output.shape)], sort_keys=True, default=str)
        digest.update(text.encode())
    for weight in backbone.get_weights():
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def _open_converted(backbone: KerasModel, identity: str, folder: CacheFolder, progress: Progress) -> OrtSession:
    """An ONNX Runtime session of the backbone, converted unless it lies in the cache."""
    from edgeclf.export.graph.convert import OPSET, backbone_onnx_from_keras

    path = folder.path / f"{identity}-{OPSET}.onnx"
    with contextlib.suppress(ModelFileError, OSError):
        session = open_session(path, threads=1)
        # The time of the last use is what removal goes by.
        os.utime(path)
        return session
    progress("convert", 0, 1)
    data = backbone_onnx_from_keras(backbone).SerializeToString()
    folder.make_room(len(data))
    write_bytes(path, data)
    progress("convert", 1, 1)
    return open_session(path, threads=1)
