"""Small classifiers of three photographs as others write them: float pixels, NCHW, their own normalisation."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.session._onnxruntime import onnxruntime
from edgeclf.runtime.spec import Preprocess

SIDE = 48
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _convolutions(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes from `pixels` (N, 3, H, W) to `features` (N, 24), and their weights."""
    shapes = [(12, 3, 3, 3), (24, 12, 3, 3)]
    weights = {f"w{n}": rng.normal(size=s) * np.sqrt(2 / np.prod(s[1:])) for n, s in enumerate(shapes)}
    weights |= {f"b{n}": rng.normal(size=s[0]) / 4 for n, s in enumerate(shapes)}
    nodes = [
        helper.make_node("Conv", ["pixels", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    return nodes, {name: value.astype(np.float32) for name, value in weights.items()}


def _model(nodes, weights, inputs, outputs) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "photographs", inputs, outputs, tensors)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="pytorch",
        producer_version="2.9",
    )


def write_foreign(
    path: Path,
    photographs: Path,
    *,
    bgr: bool = False,
    nhwc: bool = False,
    half: bool = False,
    sigmoid: bool = False,
    with_softmax: bool = False,
    seed: int = 0,
    classes: tuple[str, ...] = ("astronaut", "chelsea", "coffee"),
) -> Path:
    """Writes a classifier of the class folders of `photographs`: random convolutions, a fitted last layer.

    Its input has ImageNet's mean and std, in the order of its channels; its output is logits unless asked otherwise.
    """
    nodes, weights = _convolutions(np.random.default_rng(seed))
    files = [(file, number) for number, label in enumerate(classes) for file in sorted((photographs / label).iterdir())]
    preprocess = Preprocess((SIDE, SIDE))
    images = np.stack([preprocess_bgr(load_image(file), preprocess) for file, _ in files]).astype(np.float32)
    images = (images - np.float32(MEAN)) / np.float32(STD)
    pixels = np.ascontiguousarray((images[..., ::-1] if bgr else images).transpose(0, 3, 1, 2))
    value = helper.make_tensor_value_info
    trunk = _model(
        nodes,
        weights,
        [value("pixels", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [value("features", TensorProto.FLOAT, ["N", 24])],
    )
    session = onnxruntime.InferenceSession(trunk.SerializeToString(), providers=["CPUExecutionProvider"])
    features = session.run(None, {"pixels": pixels})[0].astype(np.float64)
    centre, spread = features.mean(0), features.std(0) + 1e-6
    targets = 8 * np.eye(len(classes))[[number for _, number in files]] - 4
    standard = np.hstack([(features - centre) / spread, np.ones((len(features), 1))])
    solved = np.linalg.solve(standard.T @ standard + 0.1 * np.eye(25), standard.T @ targets)
    weights["v"] = (solved[:-1] / spread[:, None]).astype(np.float32)
    weights["o"] = (solved[-1] - centre / spread @ solved[:-1]).astype(np.float32)
    nodes = [*nodes, helper.make_node("Gemm", ["features", "v", "o"], ["logits"])]
    output = "logits"
    if sigmoid or with_softmax:
        output = "scores"
        attributes = {} if sigmoid else {"axis": 1}
        nodes.append(helper.make_node("Sigmoid" if sigmoid else "Softmax", ["logits"], ["scores"], **attributes))
    shape, entry = ["N", 3, SIDE, SIDE], "pixels"
    if nhwc:
        nodes.insert(0, helper.make_node("Transpose", ["channels_last"], ["pixels"], perm=[0, 3, 1, 2]))
        shape, entry = ["N", SIDE, SIDE, 3], "channels_last"
    kind = TensorProto.FLOAT
    if half:
        kind, weights = TensorProto.FLOAT16, {name: its.astype(np.float16) for name, its in weights.items()}
    model = _model(nodes, weights, [value(entry, kind, shape)], [value(output, kind, ["N", len(classes)])])
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path
