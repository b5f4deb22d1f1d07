"""Keras layer names in a converted graph: each node and tensor is named `LAYER/...` after the Keras operation it computes.

tf2onnx names nodes after TensorFlow's, and those after scopes that TensorFlow makes unique by numbers, so a layer `add_1`
and the second use of `add` look alike. Here each operation of a functional Keras model is traced in a scope of exactly its
name, and the nodes that tf2onnx makes anew when it merges some, which have no scope, get theirs from the constants they read.
"""

import re
from collections import Counter
from collections.abc import Collection

from edgeclf.export._onnx import onnx
from edgeclf.export.keras_backend import KerasModel, import_tensorflow


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

    A node without a scope was made by tf2onnx from several: a convolution with what scales and shifts it behind it. The
    first constant that it reads is its kernel, the last one its offset, and its result is the value of the latter's operation.

    Args:
        model: As converted from what `trace_by_layer` gave.
        operations: The names that it gave.
    """
    graph = model.graph
    renamed: dict[str, str] = {}
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if layer_of(node.name) in operations:
            continue
        scopes = [layer_of(name) for name in node.input if name in constants and layer_of(name) in operations]
        if scopes:
            renamed.update({name: f"{scopes[-1]}/{name}" for name in node.output if name not in outputs})
            node.name = f"{scopes[0]}/{node.name}"
    names = [node.name for node in graph.node]
    values = [*(name for node in graph.node for name in node.output), *constants]
    renamed.update(_shortened([name for name in values if name not in outputs and name not in renamed]))
    shorter = _shortened(names)
    for node in graph.node:
        node.name = shorter.get(node.name, node.name)
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    # Inferred shapes are those of the old names.
    del graph.value_info[:]


def _shortened(names: list[str]) -> dict[str, str]:
    """`a/a_1/x` as `a/x`: Keras opens a scope of the layer's name within ours. Names that would meet stay as they are."""
    shorter = {name: re.sub(r"^([^/]+)/\1(_\d+)?/", r"\1/", name) for name in names}
    taken = Counter(shorter.values())
    return {name: short for name, short in shorter.items() if taken[short] == 1}
