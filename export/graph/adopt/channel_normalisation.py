"""The normalisation of each channel that a network converted from Keras begins with, folded into its first convolution.

One that is the same for all channels stays: int8 reads it as the scale and zero point of the pixels, which are bytes already.
"""

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import GraphEditor, NodeChain
from edgeclf.export.graph.adopt.entrance import read_bytes
from edgeclf.export.graph.adopt.first_layer import first_convolution, fold_normalisation
from edgeclf.export.graph.adopt.patterns import pad_in_convolution
from edgeclf.export.graph.adopt.pixel_path import follow_pixels


def fold_channel_normalisation(model: onnx.ModelProto) -> bool:
    """Folds it, in place, so that the convolution reads bytes and int8 rounds no pixel on its way there.

    Args:
        model: A contract model: input uint8 (N, H, W, 3) RGB.

    Returns:
        Whether there was one, and a convolution behind it, perhaps with pads of zeros between; any other model stays as it is.
    """
    editor = GraphEditor(model)
    path = follow_pixels(editor, 3, "NHWC")
    if not (np.ptp(path.gain) or np.ptp(path.offset)):
        return False
    pad_in_convolution(model, path.value)
    # Constants of the pads are gone.
    editor = GraphEditor(model)
    node = first_convolution(editor, path)
    if node is None:
        return False
    chain = NodeChain(editor, editor.graph.input[0].name)
    read_bytes(chain, fold_normalisation(editor, node, path, path.channels))
    editor.redirect(path.value, chain.value)
    editor.replace([*chain.nodes, *(node for node in editor.graph.node if node.output[0] not in path.nodes)])
    editor.prune()
    return True
