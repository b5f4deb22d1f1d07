"""Keras layer names in a converted graph: each node and tensor is named `LAYER/...` after the Keras operation it computes.

tf2onnx names nodes after TensorFlow's, and those after scopes that TensorFlow makes unique by numbers, so a layer `add_1`
and the second use of `add` look alike. Here each operation of a functional Keras model is traced in a scope of exactly its
name, and nodes that the converters made from several are named by the constants that they read.
"""

import re
from collections import Counter
from collections.abc import Collection

from edgeclf.export._onnx import onnx
from edgeclf.export.keras_backend import KerasModel, import_tensorflow

_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})


def layer_of(name: str) -> str:
    """The Keras operation that a node or tensor of a converted graph belongs to, by its name."""
    return name.split("/", 1)[0]


def trace_by_layer(model: KerasModel) -> tuple[KerasModel, frozenset[str]]:
    """The same network, each operation traced in a TensorFlow scope of its own name, for `name_after_layers`.

    Args:
        model: A Keras model. One that is not functional has no list of operations and is returned as it is.

    Returns:
        A model that shares the layers of the given one, and the names of its operations.
    """
    tensorflow = import_tensorflow()
    from keras import Operation, models

    # A subclass may compute something else than its graph of operations.
    if type(model).__name__ != "Functional":
        return model, frozenset()

    class InScope(Operation):  # type: ignore[misc] # keras carries no types
        def __init__(self, operation: Operation) -> None:
            super().__init__(name=operation.name)
            self._operation = operation

        def call(self, *arguments: object, **options: object) -> object:
            # With a slash at its end a scope is taken as it is: not nested, not numbered.
            with tensorflow.name_scope(f"{self.name}/"):
                return self._operation(*arguments, **options)

    scoped = models.clone_model(model, clone_function=InScope)
    return scoped, frozenset(operation.name for operation in model.operations)


def name_after_layers(model: onnx.ModelProto, operations: Collection[str]) -> None:
    """Names every node after the Keras operation whose weights it has, every tensor after the one whose value it is, in place.

    TensorFlow and tf2onnx fold a scale and an offset into the convolution ahead of them. Such a node is named after what is
    folded in, or after nothing; its kernel still is named after the convolution, and its bias after what is folded in.

    Args:
        model: As converted from what `trace_by_layer` gave.
        operations: The names that it gave.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    fixed = {value.name for value in (*graph.input, *graph.output)}
    tensors: dict[str, str] = {}
    nodes: list[str] = []
    for node in graph.node:
        scopes = [layer_of(name) for name in node.input if name in constants and layer_of(name) in operations]
        name, own = node.name, layer_of(node.name)
        if own not in operations and scopes:
            tensors.update({value: f"{scopes[-1]}/{value}" for value in node.output})
            own = scopes[-1]
        if node.op_type in _WEIGHTED and node.input[1] in constants and layer_of(node.input[1]) in operations:
            own = layer_of(node.input[1])
        if own in operations and own != layer_of(name):
            name = f"{own}/{node.op_type}" if f"{own}/{node.op_type}" not in nodes else f"{own}/{name}"
        nodes.append(name)
    produced = [value for node in graph.node for value in node.output]
    tensors |= _shortened([name for name in (*produced, *constants) if name not in tensors])
    shorter = _shortened(nodes)
    for node, name in zip(graph.node, nodes, strict=True):
        node.name = shorter.get(name, name)
        node.input[:] = [value if value in fixed else tensors.get(value, value) for value in node.input]
        node.output[:] = [value if value in fixed else tensors.get(value, value) for value in node.output]
    for tensor in graph.initializer:
        tensor.name = tensors.get(tensor.name, tensor.name)
    # Inferred shapes are those of the old names.
    del graph.value_info[:]


def _shortened(names: list[str]) -> dict[str, str]:
    """`a/a_1/x` as `a/x`: Keras opens a scope of the layer's name within ours. Names that would meet stay as they are."""
    shorter = {name: re.sub(r"^([^/]+)/\1(_\d+)?/", r"\1/", name) for name in names}
    taken = Counter(shorter.values())
    return {name: short for name, short in shorter.items() if taken[short] == 1}
