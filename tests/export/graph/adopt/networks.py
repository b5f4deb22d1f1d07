"""Small convolutional classifiers with random weights, as exporters write them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE_HW = (11, 14)


class Network:
    """Collects nodes from an input `x` on; `write` makes a file of them."""

    def __init__(
        self, rng, *, channels=3, layout="NCHW", dtype=TensorProto.FLOAT, batch="N", size_hw=SIZE_HW, gain=1.0
    ):
        self.rng, self.channels, self.value = rng, channels, "x"
        self.nodes, self.constants = [], []
        self.gain = gain
        sides = [channels, *size_hw] if layout == "NCHW" else [*size_hw, channels]
        self.input = helper.make_tensor_value_info("x", dtype, [batch, *sides])

    def constant(self, values, name=None):
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def op(self, kind, *more, value=None, outputs=1, **attributes):
        """A node that reads the last value, then others; constants are given as arrays."""
        inputs = [item if isinstance(item, str) else self.constant(item) for item in more]
        names = [f"v{len(self.nodes)}_{n}" for n in range(outputs)]
        first = self.value if value is None else value
        self.nodes.append(helper.make_node(kind, [first, *inputs] if first else inputs, names, **attributes))
        self.value = names[0]
        return self.value

    def conv(self, outputs, kernel=3, *, groups=1, bias=True, **attributes):
        inputs = self.channels // groups
        weight = (
            self.rng.normal(size=(outputs, inputs, kernel, kernel))
            * np.sqrt(2 / (inputs * kernel * kernel))
            * self.gain
        )
        more = [weight.astype(np.float32)]
        if bias:
            more.append(self.rng.normal(size=outputs).astype(np.float32) * np.float32(0.1))
        self.channels = outputs
        return self.op("Conv", *more, group=groups, kernel_shape=[kernel, kernel], **attributes)

    def dense(self, outputs, inputs=None):
        inputs = inputs or self.channels
        weight = (self.rng.normal(size=(inputs, outputs)) * 0.7 / np.sqrt(inputs)).astype(np.float32)
        return self.op("Gemm", weight, self.rng.normal(size=outputs).astype(np.float32))

    def head(self, classes=4):
        """Pooling, a dense layer and a softmax."""
        self.op("GlobalAveragePool")
        self.op("Flatten", axis=1)
        self.dense(classes)
        return self.op("Softmax", axis=1)

    def model(self, *, outputs=None, opset=17, ir_version=8, output_type=TensorProto.FLOAT, shape=None):
        infos = [helper.make_tensor_value_info(name, output_type, shape) for name in outputs or [self.value]]
        graph = helper.make_graph(self.nodes, "g", [self.input], infos, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)

    def write(self, path, **options):
        path.write_bytes(self.model(**options).SerializeToString())
        return path


def operators(model: onnx.ModelProto):
    """Operators of a model in order."""
    return [node.op_type for node in model.graph.node]
