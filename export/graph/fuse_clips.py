"""Fuses chains of ReLU, Min and Max, as which Keras's `ReLU(max_value=...)` is converted, into one Clip each.

Engines carry a Clip out within the layer ahead of it, and in 8 bits it costs nothing at all; a chain is run step by step.
"""

from collections import Counter

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import infer_value_types

_CUTTING = frozenset({"Relu", "Clip", "Min", "Max"})


def fuse_clips(model: onnx.ModelProto) -> int:
    """Replaces each chain that only clips values by one equivalent node, in place.

    Returns:
        How many chains there were.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = _ranks(model)
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(item.name for item in graph.output)
    # Held on to: protobuf makes an object of each anew every time it is asked.
    before = list(graph.node)
    interval_of = {id(node): _bounds_of(node, constants, ranks) for node in before}
    by_input = {node.input[_operand(node, constants)]: node for node in before if interval_of[id(node)] is not None}
    fused: dict[int, onnx.NodeProto | None] = {}
    for node in before:
        if interval_of[id(node)] is None or id(node) in fused:
            continue
        chain = [node]
        while reads[chain[-1].output[0]] == 1 and (following := by_input.get(chain[-1].output[0])) is not None:
            chain.append(following)
        if all(item.op_type in {"Relu", "Clip"} for item in chain):
            continue
        low, high = -np.inf, np.inf
        for item in chain:
            least, most = interval_of[id(item)] or (-np.inf, np.inf)
            low, high = min(max(low, least), most), min(max(high, least), most)
        fused.update(dict.fromkeys(map(id, chain), None))
        fused[id(chain[-1])] = _clip_node(graph, chain, constants, low, high)
    kept = [node for node in (fused.get(id(node), node) for node in before) if node is not None]
    count = sum(node is not None for node in fused.values())
    if count:
        del graph.node[:]
        graph.node.extend(kept)
        _drop_unread(graph)
    return count


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Ranks of the values whose shape can be inferred."""
    types = infer_value_types(model)
    return {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}


def _bounds_of(
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    ranks: dict[str, int],
) -> tuple[float, float] | None:
    """Bounds of a node that only clips; None for any other node, or bounds that are no constants."""
    if node.op_type not in _CUTTING or node.domain not in {"", "ai.onnx"}:
        return None
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type == "Clip":
        low, high = [*node.input[1:], "", ""][:2]
        least = _scalar(low, constants, 0) if low else -np.inf
        most = _scalar(high, constants, 0) if high else np.inf
        return None if least is None or most is None else (least, most)
    if len(node.input) != 2:
        return None
    # More axes than the other operand has would be added to the result.
    rank = max((ranks.get(name, 1) for name in node.input if name not in constants), default=0)
    scalars = [value for name in node.input if (value := _scalar(name, constants, rank)) is not None]
    if len(scalars) != 1 or all(name in constants for name in node.input):
        return None
    return (scalars[0], np.inf) if node.op_type == "Max" else (-np.inf, scalars[0])


def _operand(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int:
    """Which of its inputs is no constant."""
    return next(index for index, name in enumerate(node.input) if name not in constants)


def _scalar(name: str, constants: dict[str, onnx.TensorProto], rank: int) -> float | None:
    """The value of a float32 constant of one element and at most so many axes; None for anything else."""
    tensor = constants.get(name)
    if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) > rank:
        return None
    return float(onnx.numpy_helper.to_array(tensor).reshape(-1)[0]) if np.prod(tensor.dims) == 1 else None


def _clip_node(
    graph: onnx.GraphProto, chain: list[onnx.NodeProto], constants: dict[str, onnx.TensorProto], low: float, high: float
) -> onnx.NodeProto:
    first, last = chain[0], chain[-1]
    inputs = [first.input[_operand(first, constants)]]
    for end, value in (("low", low), ("high", high)):
        if not np.isfinite(value):
            inputs.append("")
            continue
        name = f"{last.output[0]}/{end}"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
        inputs.append(name)
    return onnx.helper.make_node("Clip", inputs, [last.output[0]], last.name)


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
