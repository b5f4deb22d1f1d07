"""Layers of a float graph: convolutions and dense layers with constant weights, which they give as rows."""

import math
from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, attributes_of
from edgeclf.export.graph.light.constants import Constants
from edgeclf.runtime.arrays import AnyArray, Float64Array, FloatArray

WEIGHTED_OPS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or dense layer whose weights are constant.

    Attributes:
        name: Of its node, or of its output where the node has none.
        kind: `Conv`, `Gemm` or `MatMul`.
        weight_name: Of its weights in the graph.
        constants: Those of its graph, its weights among them.
        shape: Of the weights in the graph.
        bias: (O,) float64; zeros where there is none.
        groups: 1 for a plain layer.
        depthwise: Whether each output channel has one input channel and each input channel one output channel: its int8
            kernels do not add in 16 bits.
        transposed: For a dense layer, whether the graph holds (O, K) rather than (K, O).
    """

    name: str
    kind: str
    weight_name: str
    constants: Constants
    shape: tuple[int, ...]
    bias: Float64Array
    groups: int
    depthwise: bool
    transposed: bool

    @property
    def weight(self) -> FloatArray:
        """Its weights as the graph has them, float32; large ones are read anew each time."""
        return self.constants[self.weight_name]

    @property
    def outputs(self) -> int:
        """Output channels: the rows."""
        return self.shape[self.channel_axis]

    @property
    def width(self) -> int:
        """Weights of a row."""
        return math.prod(self.shape) // max(1, self.outputs)

    @property
    def rows32(self) -> FloatArray:
        """(O, K) float32 weights: K is kernel height, kernel width, input channels of the group, innermost last.

        No copy where the graph's layout allows.
        """
        if self.kind == "Conv":
            # (O, I, kh, kw) to (O, kh, kw, I): the order in which the int8 kernels reduce.
            return self.weight.transpose(0, 2, 3, 1).reshape(self.outputs, -1)
        return self.weight if self.transposed else self.weight.T

    @property
    def rows(self) -> Float64Array:
        """(O, K) float64, the same, made anew at every call: those of a wide dense layer take a gigabyte."""
        return np.ascontiguousarray(self.rows32, np.float64)

    @property
    def paired(self) -> bool:
        """Whether neighbouring products are added in 16 bits where there is no VNNI."""
        return not self.depthwise

    @property
    def input_channels(self) -> int:
        """Channels of the whole input."""
        return self.groups * self.shape[1] if self.kind == "Conv" else self.width

    def weight_of(self, rows: AnyArray) -> AnyArray:
        """Rows of any type back in the graph's own layout."""
        if self.kind == "Conv":
            outputs, inputs, height, width = self.shape
            # (O, kh * kw * I) to (O, kh, kw, I) to (O, I, kh, kw).
            return np.ascontiguousarray(rows.reshape(outputs, height, width, inputs).transpose(0, 3, 1, 2))
        return np.ascontiguousarray(rows if self.transposed else rows.T)

    @property
    def channel_axis(self) -> int:
        """The axis of the output channels in the graph's own layout."""
        return 0 if self.kind == "Conv" or self.transposed else 1


def read_layer(graph: FloatGraph, node: onnx.NodeProto) -> Layer | None:
    """Reads a node as a layer; None for a node that is no layer, or a layer without a known int8 form.

    Convolutions in two dimensions with constant weights; Gemm with constant weights and plain factors; MatMul with a
    constant matrix on its right.
    """
    shape = _weight_shape(graph, node)
    bias_name = node.input[2] if len(node.input) > 2 else ""
    bias = graph.constants.get(bias_name)
    if shape is None or (bias_name and bias is None):
        return None
    options = attributes_of(node)
    transposed = bool(options.get("transB", 0))
    groups = int(options.get("group", 1))
    outputs = shape[0 if node.op_type == "Conv" or transposed else 1]
    if bias is not None and bias.size not in {1, outputs}:
        return None
    return Layer(
        name=node.name or node.output[0],
        kind=node.op_type,
        weight_name=node.input[1],
        constants=graph.constants,
        shape=shape,
        bias=np.zeros(outputs) if bias is None else np.broadcast_to(bias.reshape(-1).astype(np.float64), (outputs,)),
        groups=groups,
        depthwise=node.op_type == "Conv" and shape[1] == 1 and outputs == groups,
        transposed=transposed,
    )


def _weight_shape(graph: FloatGraph, node: onnx.NodeProto) -> tuple[int, ...] | None:
    """The shape of the weights of a node of which an int8 form is known; None for any other."""
    if node.op_type not in WEIGHTED_OPS or node.domain not in {"", "ai.onnx"}:
        return None
    constants, weight = graph.constants, node.input[1]
    if weight not in constants or constants.dtype_of(weight) != np.float32 or node.input[0] in constants:
        return None
    options = attributes_of(node)
    plain = (options.get("alpha", 1.0), options.get("beta", 1.0), options.get("transA", 0)) == (1.0, 1.0, 0)
    shape = constants.shape_of(weight)
    return shape if plain and len(shape) == (4 if node.op_type == "Conv" else 2) else None
