"""Blocks of a backbone, found on its graph of layers, so that the last few of them can be fine-tuned."""

import re
from collections.abc import Sequence

from edgeclf.export.keras_backend import KerasLayer, KerasModel, KerasTensor

# A segment with a kernel is written as one letter, and these rows of letters are one block: a pointwise convolution
# that widens, a depthwise one, perhaps a gate (squeeze-and-excitation), and a pointwise one that narrows.
_POINTWISE, _DEPTHWISE, _GATE, _OTHER = "P", "D", "G", "X"
_BLOCK = re.compile(f"{_POINTWISE}?{_DEPTHWISE}{_GATE}?{_POINTWISE}|.")


def backbone_blocks(model: KerasModel) -> tuple[tuple[KerasLayer, ...], ...]:
    """Cuts a network into blocks from input to output.

    A cut lies behind a layer that every path from input to output passes, so whatever branches and joins again - a
    residual block, an Inception module - is never cut. Where nothing branches, one convolution is a block, and so are
    the convolutions of an inverted bottleneck, or of a depthwise separable convolution, together. Layers without a
    kernel (normalisation, activation, pooling) belong to the block before them; the first also has those before it.

    Args:
        model: A functional Keras model with one input, one output, and no layer that is used twice.

    Returns:
        All layers of the model, each once, in order. Every block has a kernel, unless the whole model has none.
    """
    groups: list[list[KerasLayer]] = []
    letters = ""
    for segment in _segments(model.operations):
        letter = _letter(segment)
        if letter and len(letters) == len(groups):
            groups.append([])
        letters += letter
        if not groups:
            groups.append([])
        groups[-1] += segment
    blocks = []
    for found in _BLOCK.finditer(letters or _OTHER):
        members = [operation for group in groups[found.start() : found.end()] for operation in group]
        blocks.append(tuple(operation for operation in members if operation in model.layers))
    return tuple(blocks)


def _segments(operations: Sequence[KerasLayer]) -> list[list[KerasLayer]]:
    """Operations in topological order, cut behind each that no connection leads past."""
    position = {id(tensor): index for index, item in enumerate(operations) for tensor in _as_list(item.output)}
    # For each operation, the last one that uses what it gives.
    last_use = list(range(len(operations)))
    for index, operation in enumerate(operations):
        # An input layer is its own input.
        for tensor in _as_list(operation.input):
            source = position[id(tensor)]
            last_use[source] = max(last_use[source], index)
    segments: list[list[KerasLayer]] = [[]]
    reach = 0
    for index, operation in enumerate(operations):
        segments[-1].append(operation)
        if reach <= index:
            segments.append([])
        reach = max(reach, last_use[index])
    return [segment for segment in segments if segment]


def _letter(segment: Sequence[KerasLayer]) -> str:
    """What kind of block a segment belongs to; empty where it has no kernel."""
    from keras import layers

    kernels = [item for item in segment if any(len(weight.shape) > 1 for weight in getattr(item, "weights", ()))]
    if not kernels:
        return ""
    if len(segment) > 1:
        return _GATE if isinstance(segment[-1], layers.Multiply) else _OTHER
    (layer,) = kernels
    if isinstance(layer, layers.DepthwiseConv2D):
        return _DEPTHWISE
    if isinstance(layer, layers.Conv2D) and tuple(layer.kernel_size) == (1, 1):
        return _POINTWISE
    return _OTHER


def _as_list(tensors: KerasTensor) -> list[KerasTensor]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]
