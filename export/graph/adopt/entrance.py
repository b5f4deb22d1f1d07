"""The entrance of an adopted graph: from uint8 (N, H, W, 3) RGB pixels to the input that the graph was made with."""

from dataclasses import replace

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import GraphEditor, NodeChain
from edgeclf.export.graph.adopt.first_layer import ByteInput, first_convolution, fold_normalisation
from edgeclf.export.graph.adopt.luma import add_luma
from edgeclf.export.graph.adopt.pixel_path import follow_pixels
from edgeclf.export.graph.contract import INPUT_NAME
from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.session.foreign.use import ModelUse

_CHANNELS_FIRST = (0, 3, 1, 2)


def write_entrance(model: onnx.ModelProto, use: ModelUse) -> None:
    """Puts the contract's input ahead of a graph, in place, and what turns its pixels into the graph's own input.

    Where the pixels reach a convolution with nothing but arithmetic on the way, all of that is folded into it.

    Args:
        model: The model, its own input being its first.
        use: How it is used.
    """
    editor = GraphEditor(model)
    editor.clear_name(INPUT_NAME)
    graph, own = editor.graph, editor.graph.input[0].name
    chain = NodeChain(editor, INPUT_NAME)
    if use.channels == "grey":
        add_luma(chain)
    replaced = _fold(editor, use, chain)
    if replaced is None:
        _normalise(chain, use, is_half=graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16)
        replaced = own, ()
    height, width = use.size_hw or (0, 0)
    del graph.input[:]
    graph.input.append(onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, ["N", height, width, 3]))
    end, folded = replaced
    editor.redirect(end, chain.value)
    editor.replace([*chain.nodes, *(node for node in graph.node if node.output[0] not in folded)])
    editor.prune()


def _scaling(use: ModelUse) -> tuple[Float64Array, Float64Array] | None:
    """Mean and std of each channel of the graph's input, in its order; None for pixels as they are."""
    numbers = None if use.scaling is None else use.scaling.of_channels(use.input.channels)
    if numbers is None:
        return None
    mean, std = (np.array(values[::-1] if use.channels == "bgr" else values) for values in numbers)
    return mean, std


def _fold(editor: GraphEditor, use: ModelUse, chain: NodeChain) -> tuple[str, tuple[str, ...]] | None:
    """Folds the normalisation into the first convolution, and adds the nodes that give what it reads.

    Returns:
        The value that is replaced by it, and those that are no longer computed; None where there is no such convolution.
    """
    count = use.input.channels
    path = follow_pixels(editor, count, use.input.layout)
    node = first_convolution(editor, path)
    if node is None:
        return None
    scaling = _scaling(use)
    if scaling is not None:
        mean, std = (values[path.channels] for values in scaling)
        path = replace(path, gain=path.gain / std, offset=path.offset - path.gain * mean / std)
    colours = count - 1 - path.channels if use.channels == "bgr" else path.channels
    read = fold_normalisation(editor, node, path, colours)
    read_bytes(chain, read)
    return path.value, path.nodes


def read_bytes(chain: NodeChain, read: ByteInput) -> None:
    """Adds the nodes that make a convolution's input of bytes; as long as they are bytes they take a fourth of the memory."""
    chain.add("Transpose", "image_channels_first", perm=_CHANNELS_FIRST)
    if read.further_channel is not None:
        pads = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64)
        chain.add("Pad", "image_with_further_channel", pads, np.uint8(read.further_channel))
    chain.add("Cast", "pixels", to=onnx.TensorProto.FLOAT)
    if read.zero_point:
        chain.add("Sub", "pixels_centred", np.float32(read.zero_point))


def _normalise(chain: NodeChain, use: ModelUse, *, is_half: bool) -> None:
    """Adds the nodes that make the graph's own input."""
    if use.channels == "bgr":
        chain.add("Gather", "bgr", np.array([2, 1, 0], np.int64), axis=3)
    if not use.input.is_uint8:
        chain.add("Cast", "pixels", to=onnx.TensorProto.FLOAT)
        scaling = _scaling(use)
        if scaling is not None:
            chain.add("Sub", "pixels_centred", scaling[0].astype(np.float32))
            chain.add("Div", "pixels_scaled", scaling[1].astype(np.float32))
    if use.input.layout == "NCHW":
        chain.add("Transpose", "image_channels_first", perm=_CHANNELS_FIRST)
    if is_half:
        chain.add("Cast", "pixels_half", to=onnx.TensorProto.FLOAT16)
