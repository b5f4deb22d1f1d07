"""Keras layer names in a converted graph: each node and tensor is named `LAYER/...` after the Keras operation it computes.

tf2onnx names nodes after TensorFlow's, and those after scopes that TensorFlow makes unique by numbers, so a layer `add_1`
and the second use of `add` look alike. Here each operation of a functional Keras model is traced in a scope of exactly its
name, and nodes that the converters made from several are named by the constants that they read.
"""

import itertools
import re
from collections import Counter
from collections.abc import Collection

from edgeclf.export._onnx import onnx
from edgeclf.export.keras_backend import KerasModel, import_tensorflow

# What tf2onnx appends to a name to make it one of its kind.
_NUMBERED = re.compile(r"__\d+")
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})


def layer_of(name: str) -> str:
    """The Keras operation that a node or tensor of a converted graph belongs to, by its name."""
    return name.split("/", 1)[0]


def trace_by_layer(model: KerasModel) -> tuple[KerasModel, frozenset[str]]:
    """The same network for inference, each operation traced in a TensorFlow scope of its own name, for `name_after_layers`.

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
            # A layer whose default is training, such as augmentation, was called with that as the model was built.
            if "training" in options:
                options["training"] = False
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


def name_in_order(model: onnx.ModelProto) -> None:
    """Renames what the converter numbered or merged, and sorts the constants by their first reader, in place.

    tf2onnx numbers names through a process, and merges equal constants under the name that it meets first in a set, whose
    order differs between processes. The same network is to be the same file, byte by byte: cached trials are found by it.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    unsettled = {name for name in constants if readers[name] > 1}
    names = {name for node in graph.node for name in (node.name, *node.input, *node.output)} | constants.keys()
    unsettled = (unsettled | {name for name in names if _NUMBERED.search(name)}) - fixed
    taken = names - unsettled
    renamed: dict[str, str] = {}

    def rename(name: str, wanted: str) -> None:
        if name in unsettled and name not in renamed:
            candidates = (wanted if count == 1 else f"{wanted}_{count}" for count in itertools.count(1))
            renamed[name] = next(candidate for candidate in candidates if candidate not in taken)
            taken.add(renamed[name])

    order: dict[str, None] = {}
    for node in graph.node:
        rename(node.name, _NUMBERED.sub("", node.name))
        node.name = renamed.get(node.name, node.name)
        for position, name in enumerate(node.input):
            if name in constants:
                order.setdefault(name)
                rename(name, f"{node.name}/constant_{position}")
        for name in node.output:
            rename(name, _NUMBERED.sub("", name))
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    tensors = []
    for name in (*order, *sorted(constants.keys() - order.keys())):
        tensor = onnx.TensorProto()
        tensor.CopyFrom(constants[name])
        tensor.name = renamed.get(name, name)
        tensors.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(tensors)
