"""Conversion to float16 for GPUs; pixel normalisation and softmax stay in float32."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.convert import keep_used_opsets
from edgeclf.export.graph.float_graph import prepare_model
from edgeclf.export.graph.layers import WEIGHTED_OPS
from edgeclf.export.graph.pixel_normalisation import find_pixel_normalisation
from edgeclf.runtime.errors import InputError, UsageError, quoted_word

# Eleven bits of a probability would be fewer than a decision threshold has digits.
_KEPT_OPS = frozenset({"Softmax"})


@dataclass(frozen=True)
class HalfPrecision:
    """A float16 model and the record of its conversion.

    Attributes:
        model: The graph; input and output as those of the float model.
        record: What stayed in float32, as JSON values for the spec.
    """

    model: onnx.ModelProto
    record: dict[str, Any]


def convert_fp16(model: onnx.ModelProto, keep_float: Collection[str] = ()) -> HalfPrecision:
    """Converts a float32 contract model to float16, by ONNX Runtime's converter.

    The normalisation of the pixels and the softmax stay in float32, and so does what is named.

    Args:
        model: The float model; it is not changed.
        keep_float: Names of layers that stay in float32 besides.

    Raises:
        UsageError: There is no such layer.
        InputError: A weight is beyond what float16 can hold.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    prepared = prepare_model(model)
    nodes = prepared.graph.node
    layers = [node.name for node in nodes if node.op_type in WEIGHTED_OPS]
    unknown = set(keep_float) - {node.name for node in nodes}
    if unknown:
        raise UsageError(f"no layer {min(unknown)!r} to keep in float", expected=", ".join(layers))
    pixels = find_pixel_normalisation(prepared)
    kept = {*keep_float, *(pixels.nodes if pixels else ()), *(node.name for node in nodes if node.op_type in _KEPT_OPS)}
    _check_range(prepared, kept)
    half = convert_float_to_float16(prepared, keep_io_types=True, node_block_list=sorted(kept))
    # The converter appends the casts it needs at the end.
    OnnxModel(half).topological_sort()
    del half.graph.value_info[:]
    keep_used_opsets(half)
    onnx.checker.check_model(half)
    return HalfPrecision(half, {"format": "float16", "keep_float": list(keep_float)})


def _check_range(model: onnx.ModelProto, kept: Collection[str]) -> None:
    """Raises InputError for a weight beyond float16, which the converter would clip without a word."""
    largest = float(np.finfo(np.float16).max)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        # The ends of an activation function without any are the largest floats there are, and may become infinite.
        if node.name in kept or node.op_type not in WEIGHTED_OPS:
            continue
        for name in node.input:
            tensor = tensors.get(name)
            if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
                continue
            peak = float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0.0))
            if peak > largest:
                raise InputError(
                    f"{node.name} does not fit into float16",
                    got=f"a weight of {peak:.3g}",
                    expected=f"at most {largest:g}",
                    hint=f"keep it in float32 with --keep-float {quoted_word(node.name)}",
                )
