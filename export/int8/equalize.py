"""Cross-layer equalization: channels of very different size made alike, without changing what the network computes.

A tensor has one scale in 8 bits; a channel a hundred times smaller than the largest is left with two or three of the 256
steps. Where a layer's output reaches other layers through nothing but positively homogeneous operations (ReLU, pooling),
its channel c can be divided by s_c in the first layer's weights and multiplied by s_c in those of the next (Nagel et al.
2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"; balanced between measured activations and
weights as in Xiao et al. 2023, "SmoothQuant").
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export._onnx import onnx
from edgeclf.export.int8.graph import FloatGraph
from edgeclf.export.int8.layers import Layer, read_layer

# f(s x) = s f(x) for every positive s, channel by channel.
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
# Factors beyond are no difference of size any more, but dead channels.
_LARGEST_FACTOR = 1e4


def find_pairs(graph: FloatGraph) -> list[tuple[Any, tuple[Any, ...], str]]:
    """The convolutions whose output channels may be scaled, the layers that can take it back, and the value between.

    The value is the one measured: what the next layers read.
    """
    shared = _shared_constants(graph)
    pairs = []
    for node in graph.nodes:
        layer = read_layer(graph, node)
        if layer is None or layer.kind != "Conv" or not _own(node, shared):
            continue
        value = node.output[0]
        while (following := graph.only_reader(value)) is not None and following.op_type in _HOMOGENEOUS:
            value = following.output[0]
        readers = graph.readers.get(value, [])
        if value == graph.output or not readers:
            continue
        if all(_can_take(graph, reader, value, shared) for reader in readers):
            pairs.append((node, tuple(readers), value))
    return pairs


def equalize(
    model: onnx.ModelProto, graph: FloatGraph, peaks: Mapping[str, npt.NDArray[np.float64]]
) -> tuple[onnx.ModelProto, int]:
    """The same network with equalized channels.

    Args:
        model: The float model.
        graph: The same, read.
        peaks: (C,) largest magnitude of each channel on calibration images, of each value that `find_pairs` names.

    Returns:
        The new model, and how many pairs were equalized.
    """
    changed: dict[str, npt.NDArray[Any]] = {}

    def constant(name: str) -> npt.NDArray[Any]:
        return changed.get(name, graph.constants[name])

    pairs = find_pairs(graph)
    for first, readers, value in pairs:
        factors = _factors(
            peaks[value], [_column_peaks(graph, reader, constant(reader.input[1])) for reader in readers]
        )
        weight = constant(first.input[1])
        changed[first.input[1]] = (weight / factors[:, None, None, None]).astype(np.float32)
        if len(first.input) > 2 and first.input[2]:
            bias = np.broadcast_to(constant(first.input[2]).reshape(-1), factors.shape)
            changed[first.input[2]] = (bias / factors).astype(np.float32)
        for reader in readers:
            changed[reader.input[1]] = _scale_columns(graph, reader, constant(reader.input[1]), factors)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed[tensor.name], tensor.name))
    return result, len(pairs)


def _factors(peaks: npt.NDArray[np.float64], columns: list[npt.NDArray[np.float64] | None]) -> npt.NDArray[np.float64]:
    """(C,) what each channel is divided by: halfway, in logarithms, between making activations alike and weights."""
    alive = peaks > peaks.max() / _LARGEST_FACTOR
    if not alive.any():
        return np.ones(len(peaks))
    activations = np.where(alive, peaks, 1.0)
    asked = [column for column in columns if column is not None]
    if asked:
        weights = np.max(asked, axis=0)
        alive &= weights > 0
        factors = np.sqrt(activations / np.where(weights > 0, weights, 1.0))
    else:
        # Depthwise layers alone: each of their channels has a scale of its own, so that nothing is lost by it.
        factors = activations
    if not alive.any():
        return np.ones(len(peaks))
    factors = factors / np.exp(np.log(factors[alive]).mean())
    return np.where(alive, factors.clip(1 / _LARGEST_FACTOR, _LARGEST_FACTOR), 1.0)


def _column_peaks(graph: FloatGraph, node: Any, weight: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:  # noqa: ANN401
    """(C,) largest weight that each input channel meets; None for a depthwise layer."""
    layer = _layer(graph, node)
    if layer.depthwise:
        return None
    if layer.kind == "Conv":
        return np.asarray(np.abs(weight).max(axis=(0, 2, 3)), np.float64)
    return np.asarray(np.abs(weight).max(axis=0 if layer.transposed else 1), np.float64)


def _scale_columns(
    graph: FloatGraph,
    node: Any,  # noqa: ANN401
    weight: npt.NDArray[Any],
    factors: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    layer = _layer(graph, node)
    if layer.depthwise:
        scaled = weight * factors[:, None, None, None]
    elif layer.kind == "Conv":
        scaled = weight * factors[None, :, None, None]
    else:
        scaled = weight * (factors if layer.transposed else factors[:, None])
    return np.asarray(scaled, np.float32)


def _layer(graph: FloatGraph, node: Any) -> Layer:  # noqa: ANN401
    layer = read_layer(graph, node)
    if layer is None:
        raise ValueError(f"{node.name} has no weights")
    return layer


def _can_take(graph: FloatGraph, node: Any, value: str, shared: set[str]) -> bool:  # noqa: ANN401
    layer = read_layer(graph, node)
    if layer is None or node.input[0] != value or not _own(node, shared):
        return False
    # Behind a Flatten a column is no channel; groups that are not depthwise would need factors per group.
    return layer.kind == "Conv" and (layer.groups == 1 or layer.depthwise)


def _own(node: Any, shared: set[str]) -> bool:  # noqa: ANN401
    return not any(name in shared for name in node.input[1:])


def _shared_constants(graph: FloatGraph) -> set[str]:
    return {name for name in graph.constants if len(graph.readers.get(name, [])) > 1}
