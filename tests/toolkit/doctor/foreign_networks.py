"""A small trained network as others export it, for tests: random convolutions, and a head fitted on labelled images."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CLASSES = ("brick", "clay", "slate", "straw")
SIZE_HW = (32, 32)
# R, G, B of each class: brick and slate are each other's with red and blue exchanged, and so are clay and straw nearly.
_COLOURS = np.array([(170, 90, 60), (150, 130, 70), (60, 90, 170), (70, 130, 150)], np.float64)


def photograph(rng, label):
    """(64, 192, 3) uint8 RGB: a textured surface of the class in the middle square, another class's at both sides."""
    image = np.empty((64, 192, 3), np.float64)
    image[:] = _COLOURS[rng.integers(len(CLASSES))]
    image[:, 64:128] = _COLOURS[label]
    coarse = cv2.resize(rng.normal(0, 18, (8, 24, 3)), (192, 64), interpolation=cv2.INTER_CUBIC)
    image = (image + coarse + rng.normal(0, 12, image.shape)) * rng.uniform(0.75, 1.25)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_photographs(root, rng, per_class=60, names=CLASSES):
    """Class folders of photographs."""
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            assert cv2.imwrite(str(root / name / f"{number:03d}.png"), photograph(rng, label)[..., ::-1])
    return root


@dataclass(frozen=True)
class Network:
    """How the network wants its images, and how its file ends.

    Attributes:
        mean: Of R, G, B.
        std: Likewise.
        is_bgr: Whether its input is B, G, R.
        ends: Operators behind the head.
        normalises: Whether the graph takes pixels 0..255 and normalises them itself.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    is_bgr: bool = False
    ends: tuple[str, ...] = ("Softmax",)
    normalises: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    def inputs(self, images_rgb):
        """(N, 3, H, W) float32 of (N, H, W, 3) uint8 RGB, as its training had them."""
        if self.normalises:
            values = images_rgb.astype(np.float32)
        else:
            values = ((images_rgb - np.array(self.mean)) / np.array(self.std)).astype(np.float32)
        return np.ascontiguousarray((values[..., ::-1] if self.is_bgr else values).transpose(0, 3, 1, 2))

    def write(self, path: Path, rng) -> Path:
        """Fits the head on centre crops of new photographs, and writes the file."""
        images, labels = [], np.arange(400) % len(CLASSES)
        for label in labels:
            whole = photograph(rng, label)
            images.append(cv2.resize(whole[:, 64:128], SIZE_HW[::-1], interpolation=cv2.INTER_AREA))
        kernels = rng.normal(0, 0.3, (24, 3, 5, 5)).astype(np.float32)
        values = {"kernels": kernels, "bias": rng.normal(0, 0.3, 24).astype(np.float32)}
        features = _run(self._model({**values}, "features"), self.inputs(np.stack(images)))
        spread = features.std(axis=0) + 1e-3
        design = np.concatenate([(features - features.mean(axis=0)) / spread, np.ones((len(features), 1))], axis=1)
        gram = design.T @ design + 1e-2 * len(design) * np.eye(design.shape[1]) / design.shape[1]
        head = 8 * np.linalg.solve(gram, design.T @ (np.eye(len(CLASSES))[labels] - 0.25))
        weights = head[:-1] / spread[:, None]
        values["head"] = weights.astype(np.float32)
        values["offset"] = (head[-1] - features.mean(axis=0) @ weights).astype(np.float32)
        model = self._model(values, "probabilities")
        helper.set_model_props(model, self.metadata)
        path.write_bytes(model.SerializeToString())
        return path

    def _model(self, values, output):
        nodes, x = [], "x"
        if self.normalises:
            values = values | {
                "mean": np.array(self.mean, np.float32).reshape(1, 3, 1, 1),
                "std": np.array(self.std, np.float32).reshape(1, 3, 1, 1),
            }
            nodes += [helper.make_node("Sub", ["x", "mean"], ["c"]), helper.make_node("Div", ["c", "std"], ["n"])]
            x = "n"
        nodes += [
            helper.make_node("Conv", [x, "kernels", "bias"], ["conv"], strides=[2, 2]),
            helper.make_node("Relu", ["conv"], ["relu"]),
            helper.make_node("ReduceMean", ["relu"], ["features"], axes=[2, 3], keepdims=0),
        ]
        if output != "features":
            nodes.append(helper.make_node("Gemm", ["features", "head", "offset"], ["end0"]))
            for number, end in enumerate(self.ends):
                nodes.append(helper.make_node(end, [f"end{number}"], [f"end{number + 1}"]))
            nodes.append(helper.make_node("Identity", [f"end{len(self.ends)}"], ["probabilities"]))
        width = 24 if output == "features" else len(CLASSES)
        graph = helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *SIZE_HW])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", width])],
            [numpy_helper.from_array(array, name) for name, array in values.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _run(model: onnx.ModelProto, tensor):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": tensor})[0].astype(np.float64)
