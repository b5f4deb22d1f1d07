"""What a frozen backbone makes of images: computed once by ONNX Runtime, which is several times faster than Keras, and kept."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.runtime._onnxruntime import onnxruntime
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.files import write_bytes
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session import open_session
from edgeclf.training.ahead import map_ahead
from edgeclf.training.cache import CachedImages, default_cache_folder
from edgeclf.training.entries import Configuration, Entry, open_cache, prune
from edgeclf.training.rows import RowFile

# Part of every key: a change of what features mean must make old entries miss.
_FORMAT = "edgeclf-features-1"


def backbone_features(
    backbone: Any,  # noqa: ANN401 - keras carries no types
    cached: CachedImages,
    pixels_key: str,
    *,
    cache_folder: Path | None,
    progress: Progress,
) -> RowFile:
    """The features of every image, or of those that no earlier run has computed with the same backbone.

    Args:
        backbone: A Keras model, uint8 (None, H, W, 3) RGB in, float32 (None, F) out.
        cached: The preprocessed images.
        pixels_key: Of their preprocessing, see `Preprocess.key`.
        cache_folder: Where features and converted backbones are kept; None takes the default.
        progress: Told how many images are done.

    Returns:
        (N, F) float32, in the order of the images.

    Raises:
        InputError: The backbone cannot be converted to ONNX.
        MissingPackageError: A package of the extra [train] is not installed.
        OutputError: The cache cannot be written.
    """
    folder = cache_folder or default_cache_folder()
    open_cache(folder)
    identity = backbone_digest(backbone)
    # Another version of ONNX Runtime may round otherwise.
    key = f"{_FORMAT} {identity} {pixels_key} onnxruntime {onnxruntime.__version__}"
    configuration = Configuration("features", key, (int(backbone.output_shape[-1]),), "<f4")
    entry = Entry(folder, configuration, cached.digests)
    found = entry.open(progress)
    if found is None:
        found = entry.write(
            lambda positions: _compute(_open_converted(backbone, identity, folder, progress), cached, positions),
            "features",
            progress,
        )
    rows, _ = found
    return rows


def backbone_digest(backbone: Any) -> str:  # noqa: ANN401
    """32 hexadecimal digits that stand for what a network computes: its layers, whatever their names, and its weights."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in backbone.layers:
        # The dtype is an object whose text may hold its address; whether a layer is trained changes no result.
        options = {key: value for key, value in layer.get_config().items() if key not in {"name", "dtype", "trainable"}}
        text = json.dumps([type(layer).__name__, options, str(layer.output.shape)], sort_keys=True, default=str)
        digest.update(text.encode())
    for weight in backbone.get_weights():
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def _open_converted(backbone: Any, identity: str, folder: Path, progress: Progress) -> Any:  # noqa: ANN401
    """An ONNX Runtime session of the backbone, converted unless it lies in the cache."""
    from edgeclf.export.convert import OPSET, backbone_onnx_from_keras

    path = folder / f"{identity}-{OPSET}.onnx"
    with contextlib.suppress(ModelFileError, OSError):
        session = open_session(path, "cpu", threads=1)
        # The time of the last use is what pruning goes by.
        os.utime(path)
        return session
    progress("convert", 0, 1)
    write_bytes(path, backbone_onnx_from_keras(backbone).SerializeToString())
    progress("convert", 1, 1)
    session = open_session(path, "cpu", threads=1)
    prune(folder, keep=path)
    return session


def _compute(session: Any, cached: CachedImages, positions: list[int]) -> Iterator[npt.NDArray[np.float32]]:  # noqa: ANN401
    """Features of the images at the positions, in their order.

    Every image is run alone, on one thread, as many at a time as there are CPUs: that uses them better than several
    threads inside one inference do, and an image's features do not depend on its neighbours.
    """
    name = session.get_inputs()[0].name
    threads = usable_cpus()

    def run(position: int) -> npt.NDArray[np.float32]:
        (features,) = session.run(None, {name: cached.images[position : position + 1]})
        row: npt.NDArray[np.float32] = features[0]
        return row

    yield from map_ahead(run, positions, threads=threads, ahead=4 * threads, name="edgeclf-features")
