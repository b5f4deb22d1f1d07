"""The class output of an adopted graph: the one that is kept, as float32 (N, C) probabilities."""

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import GraphEditor, NodeChain
from edgeclf.export.graph.contract import OUTPUT_NAME
from edgeclf.export.graph.float_graph import infer_value_types
from edgeclf.runtime.session.foreign.given import Activation
from edgeclf.runtime.session.foreign.outputs import OutputCodes

_FLOAT = onnx.TensorProto.FLOAT


def keep_output(model: onnx.ModelProto, name: str) -> None:
    """Drops all outputs of a model but one, and what they alone need, in place."""
    kept = [value for value in model.graph.output if value.name == name]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    GraphEditor(model).prune()


def write_class_output(
    model: onnx.ModelProto, classes: int, activation: Activation, codes: OutputCodes | None = None
) -> None:
    """Appends to a graph with one output what makes the contract's probabilities of it, in place.

    Args:
        model: The model; the types of its values can be inferred.
        classes: Values an image that its output has.
        activation: What they have been through.
        codes: How its codes are to be read; None of one that gives the numbers themselves.
    """
    editor = GraphEditor(model)
    editor.clear_name(OUTPUT_NAME)
    graph = editor.graph
    own = graph.output[0].name
    kind = infer_value_types(model).get(own)
    chain = NodeChain(editor, own)
    if kind is None or kind.elem_type != _FLOAT:
        chain.add("Cast", "scores", to=_FLOAT)
    if codes is not None:
        chain.add("Sub", "from_zero_point", np.float32(codes.zero_point))
        chain.add("Mul", "dequantized", np.float32(codes.scale))
    if kind is None or not kind.HasField("shape") or len(kind.shape.dim) != 2:
        chain.add("Reshape", "rows", np.array([-1, classes], np.int64))
    _add_activation(chain, classes, activation)
    if classes == 1:
        # The value is the probability of the second class.
        _add_first_class(editor, chain)
    if chain.nodes:
        chain.nodes[-1].output[:] = [OUTPUT_NAME]
        graph.node.extend(chain.nodes)
    else:
        editor.rename(own, OUTPUT_NAME)
    del graph.output[:]
    count = 2 if classes == 1 else classes
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT_NAME, _FLOAT, ["N", count]))


def _add_activation(chain: NodeChain, classes: int, activation: Activation) -> None:
    if activation == "sigmoid-logits" or (activation == "logits" and classes == 1):
        chain.add("Sigmoid", "sigmoid")
    elif activation == "logits":
        chain.add("Softmax", "softmax", axis=1)


def _add_first_class(editor: GraphEditor, chain: NodeChain) -> None:
    second = chain.value
    one = editor.constant(np.float32(1), "one")
    first = editor.node("Sub", [one, second], "first_class")
    both = editor.node("Concat", [first.output[0], second], "both_classes", axis=1)
    chain.nodes += [first, both]
    chain.value = both.output[0]
