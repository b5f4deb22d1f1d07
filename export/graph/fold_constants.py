"""Constant folding of small values: nodes whose inputs are constants become constants."""

import numpy as np

from edgeclf.export._onnx import onnx

_MOST_ELEMENTS = 4096
_FOLDED = frozenset(
    {
        "Abs", "Add", "Cast", "Div", "Exp", "Identity", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "Reshape",
        "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
    }
)  # fmt: skip


def fold_constants(model: onnx.ModelProto) -> None:
    """Computes the nodes whose inputs are small constants, such as the root of a variance, in place.

    Args:
        model: Its nodes are in order, as ONNX has them.
    """
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    known = {item.name: item for item in graph.initializer if np.prod(item.dims) <= _MOST_ELEMENTS}
    results = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        is_constant = node.op_type in _FOLDED and node.domain in {"", "ai.onnx"} and not results & set(node.output)
        if not is_constant or not node.input or not all(name in known for name in node.input):
            kept.append(node)
            continue
        feeds = {name: onnx.numpy_helper.to_array(known[name]) for name in node.input}
        versions = {item.domain: item.version for item in model.opset_import}
        values = ReferenceEvaluator(node, opsets=versions).run(None, feeds)
        for name, value in zip(node.output, values, strict=True):
            known[name] = onnx.numpy_helper.from_array(np.asarray(value), name)
            graph.initializer.append(known[name])
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input} | results
    left = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
