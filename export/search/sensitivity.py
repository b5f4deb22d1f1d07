"""Sensitivity of a network to the quantization of each single layer."""

from collections.abc import Callable

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.sessions import open_model
from edgeclf.export.int8.calibrator import QuantizedNetwork
from edgeclf.runtime.arrays import Float64Array, UInt8Array
from edgeclf.runtime.progress import Progress


class RankingStoppedError(Exception):
    """There is no time left for the layers that are still to be ranked."""


def rank_layers(
    network: QuantizedNetwork,
    images_rgb: UInt8Array,
    progress: Progress,
    *,
    is_over: Callable[[], bool] = lambda: False,
) -> list[tuple[str, float]]:
    """Ranks the layers by the error that quantizing each one causes, the largest first.

    Args:
        network: The calibrated network.
        images_rgb: (N, H, W, 3) uint8 RGB images; calibration images will do.
        progress: Called with the number of layers measured.
        is_over: Asked before each layer whether the time for it is over.

    Returns:
        Name and error of each layer: by how much the mean squared error of the log-probabilities falls when this layer
        alone is kept in float; negative where the layer's error happens to cancel that of others.

    Raises:
        RankingStoppedError: The time was over before the last layer.
    """
    quantized = network.write()
    reference = _log_probabilities(network.graph.model, images_rgb)
    error = _squared_error(reference, quantized.model, images_rgb)
    ranked = []
    for number, name in enumerate(quantized.layers):
        if is_over():
            raise RankingStoppedError
        ranked.append((name, error - _squared_error(reference, network.write([name]).model, images_rgb)))
        progress("rank layers", number + 1, len(quantized.layers))
    return sorted(ranked, key=lambda item: -item[1])


def _squared_error(reference: Float64Array, model: onnx.ModelProto, images_rgb: UInt8Array) -> float:
    return float(np.square(_log_probabilities(model, images_rgb) - reference).mean())


def _log_probabilities(model: onnx.ModelProto, images_rgb: UInt8Array) -> Float64Array:
    """(N, C) float64 log-probabilities less their mean over the classes: the logits up to what a softmax ignores."""
    session = open_model(model, threads=1)
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: images_rgb[i : i + 1]})[0] for i in range(len(images_rgb))]
    logs = np.log(np.maximum(np.concatenate(rows).astype(np.float64), 1e-12))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))
