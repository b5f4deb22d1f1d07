"""im2col: the inputs of a layer as columns that its rows of weights are multiplied with."""

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import attributes_of
from edgeclf.export.graph.layers import Layer
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.weights import Rows
from edgeclf.runtime.arrays import AnyArray, FloatArray


def im2col(
    layer: Layer,
    node: onnx.NodeProto,
    inputs: AnyArray,
    positions: int,
    rng: np.random.Generator,
    *,
    params: QuantParams | None = None,
) -> Rows:
    """im2col columns of a layer's inputs at randomly sampled output positions.

    Args:
        layer: The layer.
        node: Its node, for the geometry of a convolution.
        inputs: (N, C, H, W) for a convolution, (N, ..., K) for a dense layer; float32, or uint8 codes.
        positions: Columns at most.
        rng: Samples the positions.
        params: Of the codes; None for float32.

    Returns:
        (G, P, K) float64: for each group, P columns in the order of `Layer.rows`.
    """
    if layer.kind != "Conv":
        columns = inputs.reshape(-1, inputs.shape[-1])
        if len(columns) > positions:
            columns = columns[rng.choice(len(columns), positions, replace=False)]
        return _real(columns[np.newaxis], params).astype(np.float64)
    (top, left, bottom, right), (stride_h, stride_w), (dilation_h, dilation_w) = _geometry(node, inputs.shape)
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
    taken = _real(inputs[image[:, None, None], :, rows_at[:, :, None], columns_at[:, None, :]], params)
    taken = np.where(inside[..., None], taken, np.float32(0))
    grouped = taken.reshape(len(chosen), kernel_h * kernel_w, channels // group_inputs, group_inputs)
    # (P, kh * kw, G, I) to (G, P, kh * kw * I).
    return grouped.transpose(2, 0, 1, 3).reshape(layer.groups, len(chosen), -1).astype(np.float64)


def _real(values: AnyArray, params: QuantParams | None) -> FloatArray:
    """float32 values, dequantized where they are codes."""
    if params is None:
        return values
    return np.asarray((values.astype(np.float32) - np.float32(params.zero_point)) * np.float32(params.scale))


def _geometry(
    node: onnx.NodeProto,
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
