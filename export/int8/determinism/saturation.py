"""The proof that no 16-bit sum of a QDQ file saturates, from its weights."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, attributes_of, read_graph
from edgeclf.export.int8.weights import PAIR_BOUND, largest_pair


@dataclass(frozen=True)
class SaturationProof:
    """Whether the weights of a QDQ file can saturate 16-bit sums.

    Attributes:
        layers: Layers whose kernels add neighbouring products in 16 bits.
        depthwise_layers: Those whose kernels do not.
        largest_pair: The largest sum of two neighbouring weights' magnitudes of one sign, over the former.
        bound: What it must not exceed: 255 * 128 + 255 * 0 fits into 16 bits with sign, 255 * 129 does not.
        violating: Names of the layers' weights that exceed it.
    """

    layers: int
    depthwise_layers: int
    largest_pair: int
    bound: int
    violating: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether no layer exceeds the bound."""
        return not self.violating

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {**asdict(self), "violating": list(self.violating), "holds": self.holds}


def prove_no_saturation(model: onnx.ModelProto) -> SaturationProof:
    """Checks the pair constraint on the 8-bit weights of every layer, as they stand in a QDQ model.

    Weights are put into the order in which the kernels reduce: kernel height, kernel width, input channels innermost;
    of a dense layer, its inputs.

    Args:
        model: A model in QDQ format with uint8 activations and int8 weights.
    """
    graph = read_graph(model)
    layers = depthwise = 0
    largest = 0
    violating = []
    for node in graph.nodes:
        found = _weight_codes(graph, node)
        if found is None:
            continue
        name, rows, is_depthwise = found
        if is_depthwise:
            depthwise += 1
            continue
        layers += 1
        pair = largest_pair(rows)
        largest = max(largest, pair)
        if pair > PAIR_BOUND:
            violating.append(name)
    return SaturationProof(layers, depthwise, largest, PAIR_BOUND, tuple(violating))


def _weight_codes(graph: FloatGraph, node: onnx.NodeProto) -> tuple[str, Any, bool] | None:
    """Name, (O, K) codes in the kernels' order, and whether the layer is depthwise; None for another node."""
    if node.op_type not in {"Conv", "Gemm", "MatMul"}:
        return None
    dequantize = graph.producers.get(node.input[1])
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    codes = graph.constants.get(dequantize.input[0])
    if codes is None or codes.dtype != np.int8:
        return None
    options = attributes_of(node)
    if node.op_type == "Conv":
        groups = int(options.get("group", 1))
        # (O, I, kh, kw) to (O, kh, kw, I).
        rows = codes.transpose(0, 2, 3, 1).reshape(len(codes), -1)
        return dequantize.input[0], rows, codes.shape[1] == 1 and groups == len(codes)
    return dequantize.input[0], codes if options.get("transB", 0) else codes.T, False
