"""The precision that a foreign model computes in, as its graph shows it."""

import math
from collections import Counter

from edgeclf.runtime.session.graph_outline import GraphOutline, TensorOutline

# Each rounds values to 8 bits, or computes with such; weights alone in 8 bits (DequantizeLinear) are computed with in float.
_IN_8_BITS = frozenset(
    ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm")
)


def precision_of(outline: GraphOutline) -> str:
    """`int8` with an operator that computes in 8 bits, `fp16` where most weights are float16, else `fp32`."""
    if any(node.op_type in _IN_8_BITS for node in outline.nodes):
        return "int8"
    constants = (value for node in outline.nodes if node.op_type == "Constant" for value in node.attributes.values())
    weights = [*outline.initializers.values(), *(value for value in constants if isinstance(value, TensorOutline))]
    counts: Counter[str] = Counter()
    for tensor in weights:
        counts[tensor.dtype] += math.prod(tensor.shape)
    return "fp16" if counts["float16"] > counts["float32"] else "fp32"
