"""The backbones of EfficientNet-Lite as ONNX, written straight from their weights.

Converting the Keras graph takes TensorFlow, which takes seconds to import, and seconds more: with this a first training
computes features while TensorFlow is still loading.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import INPUT_NAME, MAX_IR_VERSION
from edgeclf.export.graph.convert import OPSET
from edgeclf.runtime.arrays import FloatArray
from edgeclf.training.networks.efficientnet_lite import (
    BN_EPSILON,
    FEATURES,
    PIXEL_OFFSET,
    PIXEL_SCALE,
    Convolution,
    convolutions,
)
from edgeclf.training.networks.folding import batch_norm_affine, fold_affine
from edgeclf.training.networks.weights.layer_weights import LayerWeights


def lite_backbone_onnx(name: str, size_hw: tuple[int, int], weights: LayerWeights) -> onnx.ModelProto:
    """Writes an EfficientNet-Lite up to its pooled features; batch normalisation is folded into the convolutions.

    Args:
        name: Such as `efficientnet-lite0`.
        size_hw: Input height and width in pixels.
        weights: Of its layers.

    Returns:
        uint8 `image` (N, H, W, 3) RGB in, float32 `features` (N, 1280) out.
    """
    graph = _Graph()
    x = graph.node("Cast", INPUT_NAME, to=onnx.TensorProto.FLOAT)
    x = graph.node("Mul", x, graph.constant("pixel_scale", np.float32(PIXEL_SCALE)))
    x = graph.node("Add", x, graph.constant("pixel_offset", np.float32(PIXEL_OFFSET)))
    x = graph.node("Transpose", x, perm=(0, 3, 1, 2))
    lowest, highest = graph.constant("zero", np.float32(0)), graph.constant("six", np.float32(6))
    results: dict[str, str] = {}
    for conv in convolutions(name):
        kernel, bias = _folded(conv, weights)
        x = graph.node(
            "Conv",
            x,
            graph.constant(f"{conv.name}_kernel", kernel),
            graph.constant(f"{conv.name}_bias", bias),
            kernel_shape=(conv.kernel, conv.kernel),
            strides=(conv.stride, conv.stride),
            group=conv.inputs if conv.is_depthwise else 1,
            # Where padding is odd, TensorFlow puts the larger part at the end.
            auto_pad="SAME_UPPER",
        )
        if conv.has_relu6:
            x = graph.node("Clip", x, lowest, highest)
        if conv.adds is not None:
            x = graph.node("Add", x, results[conv.adds])
        results[conv.name] = x
    x = graph.node("GlobalAveragePool", x)
    graph.node("Flatten", x, result="features")
    return graph.model(name, size_hw)


def _folded(conv: Convolution, weights: LayerWeights) -> tuple[FloatArray, FloatArray]:
    """A convolution and its normalisation as ONNX's kernel, (O, I, kh, kw), and bias, (O,)."""
    (kernel,) = weights[f"{conv.name}_conv"]
    # (kh, kw, I, O), or (kh, kw, O, 1) where depthwise.
    axis, outputs_first = (2, (2, 3, 0, 1)) if conv.is_depthwise else (3, (3, 2, 0, 1))
    folded, bias = fold_affine(
        kernel, None, *batch_norm_affine(*weights[f"{conv.name}_bn"], epsilon=BN_EPSILON), axis=axis
    )
    return folded.transpose(outputs_first).astype(np.float32), bias.astype(np.float32)


class _Graph:
    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        self._constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:  # noqa: ANN401 - numbers, texts and lists of them
        result = result or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(onnx.helper.make_node(kind, inputs, [result], name=result, **attributes))
        return result

    def model(self, name: str, size_hw: tuple[int, int]) -> onnx.ModelProto:
        make = onnx.helper.make_tensor_value_info
        image = make(INPUT_NAME, onnx.TensorProto.UINT8, ["N", *size_hw, 3])
        features = make("features", onnx.TensorProto.FLOAT, ["N", FEATURES])
        graph = onnx.helper.make_graph(self._nodes, name, [image], [features], self._constants)
        opsets = [onnx.helper.make_opsetid("", OPSET)]
        model: onnx.ModelProto = onnx.helper.make_model(graph, opset_imports=opsets, producer_name="edgeclf")
        model.ir_version = min(model.ir_version, MAX_IR_VERSION)
        return model
