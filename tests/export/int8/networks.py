"""Small ONNX networks to quantize, and what they give."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SIZE = 32


class Builder:
    """Writes a float graph from pixels to probabilities, with weights that keep the size of values."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], []
        self.count = 0
        self.x = self.op("Cast", "image", to=TensorProto.FLOAT)
        self.x = self.op("Mul", self.x, self.constant(np.float32(1 / 128)))
        self.x = self.op("Add", self.x, self.constant(np.float32(-127 / 128)))
        self.x = self.op("Transpose", self.x, perm=[0, 3, 1, 2])
        self.channels = 3

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        output = f"v{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], f"{kind.lower()}{self.count}", **attributes))
        return output

    def conv(self, channels, kernel=3, *, groups=1, bias=True, x=None, **attributes):
        x = self.x if x is None else x
        inputs = self.channels // groups
        weight = self.rng.normal(size=(channels, inputs, kernel, kernel)) * np.sqrt(2 / (inputs * kernel * kernel))
        constants = [self.constant(weight.astype(np.float32))]
        if bias:
            constants.append(self.constant(self.rng.normal(size=channels).astype(np.float32) * np.float32(0.1)))
        pads = attributes.pop("pads", [kernel // 2] * 4)
        self.x = self.op("Conv", x, *constants, group=groups, kernel_shape=[kernel, kernel], pads=pads, **attributes)
        self.channels = channels
        return self.x

    def relu(self, ceiling=None):
        if ceiling is None:
            self.x = self.op("Relu", self.x)
        else:
            self.x = self.op("Clip", self.x, self.constant(np.float32(0)), self.constant(np.float32(ceiling)))
        return self.x

    def finish(self, classes=5, *, pool=True, dense="Gemm"):
        if pool:
            # Otherwise there is one number a channel already.
            self.x = self.op("GlobalAveragePool", self.x)
        self.x = self.op("Flatten", self.x)
        width = self.channels
        weight = (self.rng.normal(size=(width, classes)) * 2 / np.sqrt(width)).astype(np.float32)
        if dense == "Gemm":
            self.x = self.op("Gemm", self.x, self.constant(weight), self.constant(np.zeros(classes, np.float32)))
        else:
            self.x = self.op("MatMul", self.x, self.constant(weight))
        self.nodes.append(helper.make_node("Softmax", [self.x], ["probabilities"], "softmax", axis=-1))
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])
        output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes])
        graph = helper.make_graph(self.nodes, "g", [image], [output], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def run(model, images, output=None):
    if output is not None:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": images})[-1]


def kinds_run(model, tmp_path):
    """The operators ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def plain():
    b = Builder()
    b.conv(16, strides=[2, 2])
    b.relu()
    b.x = b.op("MaxPool", b.x, kernel_shape=[2, 2], strides=[2, 2])
    b.conv(24, bias=False)
    b.relu()
    b.conv(24, 1)
    return b.finish()


def residual_depthwise():
    b = Builder(1)
    b.conv(16, strides=[2, 2])
    start = b.relu(6.0)
    b.conv(16, groups=16)
    b.relu(6.0)
    b.conv(16, 1)
    b.x = b.op("Add", b.x, start)
    b.relu()
    b.conv(32, groups=16)  # two outputs an input: not depthwise to the kernels
    b.relu(6.0)
    return b.finish()


def relative_error(got, wanted):
    return np.abs(got - wanted).mean() / np.abs(wanted - wanted.mean(axis=0)).mean()
