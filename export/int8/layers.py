"""Layers with weights: convolutions and dense layers, their weights as rows, their inputs as columns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export.graph.float_graph import FloatGraph, attributes_of
from edgeclf.export.int8.weights import Rows


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or dense layer whose weights are constant.

    Attributes:
        name: Of its node, or of its output where the node has none.
        kind: `Conv`, `Gemm` or `MatMul`.
        weight_name: Of its weights in the graph.
        rows: (O, K) float64 weights: K is kernel height, kernel width, input channels of the group, innermost last.
        bias: (O,) float64; zeros where there is none.
        groups: 1 for a plain layer.
        depthwise: Whether each output channel has one input channel and each input channel one output channel: its int8
            kernels do not add in 16 bits.
        shape: Of the weights in the graph.
        transposed: For a dense layer, whether the graph holds (O, K) rather than (K, O).
    """

    name: str
    kind: str
    weight_name: str
    rows: Rows
    bias: npt.NDArray[np.float64]
    groups: int
    depthwise: bool
    shape: tuple[int, ...]
    transposed: bool

    @property
    def paired(self) -> bool:
        """Whether neighbouring products are added in 16 bits where there is no VNNI."""
        return not self.depthwise

    @property
    def input_channels(self) -> int:
        """Channels of the whole input."""
        return self.groups * self.shape[1] if self.kind == "Conv" else int(self.rows.shape[1])

    def weight_of(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
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


def read_layer(graph: FloatGraph, node: Any) -> Layer | None:  # noqa: ANN401 - protobuf messages carry no useful types
    """A node as a layer; None for one that is none, or not one whose int8 form is known.

    Convolutions in two dimensions with constant weights; Gemm with constant weights and plain factors; MatMul with a
    constant matrix on its right.
    """
    weight = _constant_weight(graph, node)
    bias_name = node.input[2] if len(node.input) > 2 else ""
    bias = graph.constants.get(bias_name)
    if weight is None or (bias_name and bias is None):
        return None
    options = attributes_of(node)
    transposed = bool(options.get("transB", 0))
    if node.op_type == "Conv":
        # (O, I, kh, kw) to (O, kh, kw, I): the order in which the int8 kernels reduce.
        rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
    else:
        rows = weight if transposed else weight.T
    groups = int(options.get("group", 1))
    outputs = len(rows)
    if bias is not None and bias.size not in {1, outputs}:
        return None
    return Layer(
        name=node.name or node.output[0],
        kind=node.op_type,
        weight_name=node.input[1],
        rows=np.ascontiguousarray(rows, np.float64),
        bias=np.zeros(outputs) if bias is None else np.broadcast_to(bias.reshape(-1).astype(np.float64), (outputs,)),
        groups=groups,
        depthwise=node.op_type == "Conv" and weight.shape[1] == 1 and outputs == groups,
        shape=weight.shape,
        transposed=transposed,
    )


def _constant_weight(graph: FloatGraph, node: Any) -> npt.NDArray[Any] | None:  # noqa: ANN401
    """The weights of a node of which an int8 form is known; None for any other."""
    if node.op_type not in {"Conv", "Gemm", "MatMul"} or node.domain not in {"", "ai.onnx"}:
        return None
    weight = graph.constants.get(node.input[1])
    if weight is None or weight.dtype != np.float32 or node.input[0] in graph.constants:
        return None
    options = attributes_of(node)
    plain = (options.get("alpha", 1.0), options.get("beta", 1.0), options.get("transA", 0)) == (1.0, 1.0, 0)
    return weight if plain and weight.ndim == (4 if node.op_type == "Conv" else 2) else None


def patches(layer: Layer, node: Any, inputs: npt.NDArray[np.float32], positions: int, rng: np.random.Generator) -> Rows:  # noqa: ANN401
    """What the weights of a layer meet, at output positions drawn at random.

    Args:
        layer: The layer.
        node: Its node, for the geometry of a convolution.
        inputs: (N, C, H, W) for a convolution, (N, ..., K) for a dense layer; float32.
        positions: How many columns at most.
        rng: What they are drawn from.

    Returns:
        (G, P, K) float64: for each group, P columns in the order of `Layer.rows`.
    """
    if layer.kind != "Conv":
        columns = inputs.reshape(-1, inputs.shape[-1])
        if len(columns) > positions:
            columns = columns[rng.choice(len(columns), positions, replace=False)]
        return columns[np.newaxis].astype(np.float64)
    (top, left, bottom, right), (stride_h, stride_w), (dilation_h, dilation_w) = convolution_geometry(
        node, inputs.shape
    )
    _, group_inputs, kernel_h, kernel_w = layer.shape
    count, channels, height, width = inputs.shape
    out_h = (height + top + bottom - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
    out_w = (width + left + right - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
    total = count * out_h * out_w
    chosen = np.arange(total) if total <= positions else rng.choice(total, positions, replace=False)
    image, place = np.divmod(chosen, out_h * out_w)
    row, column = np.divmod(place, out_w)
    # (P, kh) and (P, kw): where each weight looks, outside of the image where it is padded.
    rows_at = (row * stride_h - top)[:, None] + np.arange(kernel_h) * dilation_h
    columns_at = (column * stride_w - left)[:, None] + np.arange(kernel_w) * dilation_w
    inside = ((rows_at >= 0) & (rows_at < height))[:, :, None] & ((columns_at >= 0) & (columns_at < width))[:, None, :]
    rows_at, columns_at = rows_at.clip(0, height - 1), columns_at.clip(0, width - 1)
    # (P, kh, kw, C): advanced indices first, the sliced channel axis last.
    taken = inputs[image[:, None, None], :, rows_at[:, :, None], columns_at[:, None, :]]
    taken = np.where(inside[..., None], taken, np.float32(0))
    grouped = taken.reshape(len(chosen), kernel_h * kernel_w, channels // group_inputs, group_inputs)
    # (P, kh * kw, G, I) to (G, P, kh * kw * I).
    return grouped.transpose(2, 0, 1, 3).reshape(layer.groups, len(chosen), -1).astype(np.float64)


def convolution_geometry(
    node: Any,  # noqa: ANN401
    input_shape: tuple[int, ...],
) -> tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int]]:
    """Pads (top, left, bottom, right), strides and dilations (height, width) of a two-dimensional convolution."""
    options = attributes_of(node)
    strides = tuple(options.get("strides", (1, 1)))
    dilations = tuple(options.get("dilations", (1, 1)))
    auto = options.get("auto_pad", b"NOTSET").decode()
    pads = tuple(options.get("pads", (0, 0, 0, 0)))
    if auto in {"SAME_UPPER", "SAME_LOWER"}:
        before, after = [], []
        for size, stride, dilation, kernel in zip(
            input_shape[2:], strides, dilations, options["kernel_shape"], strict=True
        ):
            total = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
            small, large = total // 2, total - total // 2
            before.append(small if auto == "SAME_UPPER" else large)
            after.append(large if auto == "SAME_UPPER" else small)
        pads = (*before, *after)
    return pads, strides, dilations
