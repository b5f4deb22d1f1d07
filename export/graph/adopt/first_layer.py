"""The pixel normalisation folded into the first convolution, so that bytes are all that it reads.

A convolution of `gain_c * pixel_c + offset_c` is one of `pixel_c - zero_point` with other weights, one integer zero point for
all channels, and something added that comes from the difference between the zero point and each channel's mean. Inside
the image that is a constant, which goes into the bias. At the border it is not, where the convolution pads with zeros:
those weights that lie on the padding add nothing. So the bytes get a further channel there, of one value everywhere, padded
like the others, whose weights add it.
"""

import math
from dataclasses import dataclass

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import GraphEditor, is_standard
from edgeclf.export.graph.adopt.pixel_path import PixelPath
from edgeclf.export.graph.float_graph import attributes_of
from edgeclf.runtime.arrays import Float64Array, IntArray

# Part of a pixel's step that a mean may be off an integer and still count as one.
_SAME = 1e-6


@dataclass(frozen=True)
class ByteInput:
    """What a convolution reads, made of bytes.

    Attributes:
        zero_point: Subtracted from all bytes, those of the further channel too.
        further_channel: The byte of a further channel behind the others; None without one.
    """

    zero_point: int
    further_channel: int | None


def first_convolution(editor: GraphEditor, path: PixelPath) -> onnx.NodeProto | None:
    """The convolution at the end of a pixel path into which the normalisation can be folded; None where there is none."""
    readers = editor.readers().get(path.value, ())
    node = readers[0] if len(readers) == 1 and path.value not in editor.outputs() else None
    if node is None or not is_standard(node, "Conv") or path.axes != "NCHW" or not path.is_float:
        return None
    weight = editor.constants.get(node.input[1])
    bias = editor.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.float32)
    if weight is None or bias is None or weight.dtype != np.float32 or weight.ndim != 4:
        return None
    # All groups must read all channels.
    return node if weight.shape[1] == len(path.channels) and np.all(path.gain != 0) else None


def fold_normalisation(editor: GraphEditor, node: onnx.NodeProto, path: PixelPath, colours: IntArray) -> ByteInput:
    """Folds the normalisation at the end of a pixel path into the convolution that reads it, in place.

    Args:
        editor: The graph.
        node: The convolution; its pads are given in numbers.
        path: What it reads, as a function of the pixels of the image.
        colours: (C,) for each of its input channels, the channel of the image.

    Returns:
        What it reads instead, channels in the order of the image.
    """
    weight = editor.constants[node.input[1]].astype(np.float64)
    means = np.empty(len(colours))
    means[colours] = -path.offset / path.gain
    folded = np.empty_like(weight)
    folded[:, colours] = weight * path.gain[:, None, None]
    zero_point = int(np.clip(np.rint(means.mean()), 0, 255))
    # (O, kh, kw): what each weight adds beside its product with the pixel.
    added = np.einsum("ojhw,j->ohw", folded, zero_point - means)
    further = None
    if np.abs(means - zero_point).max() > _SAME:
        if any(attributes_of(node).get("pads", ())):
            further = zero_point + _distance(folded, added, zero_point)
            folded = np.concatenate([folded, added[:, None] / (further - zero_point)], axis=1)
        else:
            _add_to_bias(editor, node, added.sum(axis=(1, 2)))
    node.input[1] = editor.constant(folded.astype(np.float32), f"{node.input[1]}_of_bytes")
    return ByteInput(zero_point, further)


def _distance(weights: Float64Array, added: Float64Array, zero_point: int) -> int:
    """How far the further channel's value is from the zero point.

    As near as its weights stay no larger than the others of their row: in 8 bits, all weights of a row share one scale.
    """
    largest = np.abs(weights).max(axis=(1, 2, 3))
    ratios = np.abs(added).max(axis=(1, 2))[largest > 0] / largest[largest > 0]
    most = max(zero_point, 255 - zero_point)
    distance = min(max(1, math.ceil(ratios.max(initial=0.0))), most)
    return int(distance if zero_point + distance <= 255 else -distance)


def _add_to_bias(editor: GraphEditor, node: onnx.NodeProto, values: Float64Array) -> None:
    old = editor.constants[node.input[2]].astype(np.float64) if len(node.input) > 2 and node.input[2] else 0.0
    name = editor.constant((old + values).astype(np.float32), f"{node.input[1]}_bias_of_bytes")
    node.input[:] = [*node.input[:2], name]
