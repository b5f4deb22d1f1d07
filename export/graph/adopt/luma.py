"""Grey pixels: the luma of RGB pixels as ONNX operators, bit for bit what OpenCV computes."""

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import NodeChain

# OpenCV's fixed-point weights of R, G and B (`cv2.cvtColor`, RGB2GRAY): 0.299, 0.587 and 0.114 of 2^15.
_WEIGHTS = np.array([9798, 19235, 3735], np.float32)
_ONE = 32768.0


def add_luma(chain: NodeChain) -> None:
    """Turns RGB bytes, uint8 (N, H, W, 3), into grey bytes, uint8 (N, H, W, 1).

    All sums are integers below 2^24, which float32 holds exactly, so that they are the same in any order.
    """
    chain.add("Cast", "luma_pixels", to=onnx.TensorProto.FLOAT)
    chain.add("Mul", "luma_weighted", _WEIGHTS)
    chain.add("ReduceSum", "luma_sum", np.array([3], np.int64), keepdims=1)
    chain.add("Add", "luma_raised", np.float32(_ONE / 2))
    chain.add("Mul", "luma_scaled", np.float32(1 / _ONE))
    chain.add("Floor", "luma_floored")
    chain.add("Cast", "luma", to=onnx.TensorProto.UINT8)
