"""Tiny classifiers without a spec, of every layout, dtype, activation and batch, and what they give when fed by hand."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

DTYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
SIZE_HW = (12, 16)
MEAN, STD = np.array([110.0, 120.0, 130.0]), np.array([50.0, 60.0, 70.0])


@dataclass(frozen=True)
class Tiny:
    """A classifier of mean colours: pixels, mean of each channel, matrix, activation."""

    layout: str = "NCHW"
    dtype: str = "float32"
    channels: int = 3
    classes: int = 3
    activation: str = "softmax"
    batch: int | str = "N"
    is_baked: bool = False
    size_hw: tuple[int | str, int | str] = SIZE_HW
    output_shape: tuple[int | str, ...] | None = None

    def nodes(self) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        axes = [2, 3] if self.layout == "NCHW" else [1, 2]
        rng = np.random.default_rng(self.classes)
        gain = 0.015 if self.dtype == "uint8" else 1.0
        weights = (gain * rng.normal(size=(self.channels, self.classes))).astype(np.float32)
        values = {"weights": weights, "bias": rng.normal(size=self.classes).astype(np.float32)}
        nodes = [
            helper.make_node("Cast", ["x"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels"], ["means"], axes=axes, keepdims=0),
        ]
        name = "means"
        if self.is_baked:
            values["shape"] = np.array([1, self.channels], np.int64)
            nodes.append(helper.make_node("Reshape", ["means", "shape"], ["one"]))
            name = "one"
        nodes.append(helper.make_node("Gemm", [name, "weights", "bias"], ["logits"]))
        end = {"softmax": "Softmax", "sigmoid": "Sigmoid", "logits": "Identity"}[self.activation]
        kind = {"axis": 1} if end == "Softmax" else {}
        nodes.append(helper.make_node(end, ["logits"], ["y"], **kind))
        return nodes, values

    def write(self, path: Path, metadata: dict[str, str] | None = None) -> Path:
        nodes, values = self.nodes()
        height, width = self.size_hw
        sides = [self.channels, height, width] if self.layout == "NCHW" else [height, width, self.channels]
        outputs = [("y", TensorProto.FLOAT, list(self.output_shape or (self.batch, self.classes)))]
        return write_model(path, nodes, values, DTYPES[self.dtype], [self.batch, *sides], outputs, metadata)


def write_model(path, nodes, values, input_type, input_shape, outputs, metadata=None, opset=13):
    """Writes a graph with the input `x`."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", input_type, input_shape)],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    path.write_bytes(model.SerializeToString())
    return path


def tensor_by_hand(images_rgb, tiny, order, mean=MEAN, std=STD):
    """(N, H, W, 3) uint8 RGB as the input of a model, by NumPy alone but for the grey of OpenCV."""
    if order == "grey":
        values = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images_rgb])[..., None]
        mean, std = mean[:1], std[:1]
    else:
        values = images_rgb
    if tiny.dtype != "uint8":
        values = ((values.astype(np.float64) - mean) / std).astype(np.float32).astype(tiny.dtype)
    if order == "bgr":
        values = values[..., ::-1]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if tiny.layout == "NCHW" else values)


def scores_by_hand(path, tensor, batch=None):
    """The output of plain ONNX Runtime, so many images at a time."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    size = batch or len(tensor)
    rows = []
    for start in range(0, len(tensor), size):
        part = tensor[start : start + size]
        padded = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
        rows.append(session.run(None, {"x": padded})[0][: len(part)])
    return np.concatenate(rows).astype(np.float64)


def probabilities_by_hand(scores, activation):
    """Probabilities of the classes; one value is that of the second of two."""
    if activation == "logits":
        if scores.shape[1] == 1:
            scores = 1 / (1 + np.exp(-scores))
        else:
            exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = exponentials / exponentials.sum(axis=1, keepdims=True)
    return np.concatenate([1 - scores, scores], axis=1) if scores.shape[1] == 1 else scores
