"""Graph editing: names that are new, constants, readers, and the order of nodes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.constants import Constants

_STANDARD_DOMAINS = frozenset(("", "ai.onnx"))


class GraphEditor:
    """A graph that is edited in place, with an index of its constants.

    Args:
        model: The model; its Constant nodes must be initializers already, see `constants_to_initializers`.

    Attributes:
        model: The model.
        graph: Its graph.
        constants: Values of its initializers by name, each read as it is asked for.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants = Constants(self.graph)
        self._taken = {name for names in _all_names(self.graph) for name in names}

    @property
    def opset(self) -> int:
        """Version of ONNX's own operator set."""
        return opset_of(self.model)

    def new_name(self, wanted: str) -> str:
        """A name that neither a node nor a value has: the wanted one, with a number where it is taken."""
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def constant(self, values: npt.ArrayLike, wanted: str) -> str:
        """Adds an initializer and gives its name."""
        name, array = self.new_name(wanted), np.asarray(values)
        self.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        self.constants[name] = array
        return name

    def node(self, operator: str, inputs: Iterable[str], wanted: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401 - as in ONNX
        """A node with one output, both of a new name; it is not yet part of the graph."""
        name = self.new_name(wanted)
        return onnx.helper.make_node(operator, list(inputs), [self.new_name(f"{name}_output")], name, **attributes)

    def readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        """The nodes that read each value, once for each time they do; what subgraphs read counts as read by their node."""
        found: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in inputs_of(node):
                found[name].append(node)
        return found

    def producers(self) -> Mapping[str, onnx.NodeProto]:
        """The node that gives each value."""
        return {name: node for node in self.graph.node for name in node.output if name}

    def outputs(self) -> frozenset[str]:
        """Names of the graph's outputs."""
        return frozenset(value.name for value in self.graph.output)

    def redirect(self, old: str, new: str) -> None:
        """Makes the readers of a value, and the graph's outputs, take another one."""
        rename_reads(self.graph, old, new)
        for value in self.graph.output:
            if value.name == old:
                value.name = new

    def rename(self, old: str, new: str) -> None:
        """Renames a value wherever it stands."""
        rename_reads(self.graph, old, new)
        for node in self.graph.node:
            node.output[:] = [new if name == old else name for name in node.output]
        for value in (*self.graph.input, *self.graph.output, *self.graph.initializer):
            if value.name == old:
                value.name = new
        self.constants.rename(old, new)
        self._taken.add(new)

    def clear_name(self, name: str) -> None:
        """Gives a value of this name, if there is one, another."""
        if name in self._taken:
            self.rename(name, self.new_name(f"{name}_inside"))

    def replace(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Makes these the nodes of the graph, in an order in which each follows what it reads."""
        ordered = in_order(list(nodes), known_values(self.graph))
        del self.graph.node[:]
        self.graph.node.extend(ordered)

    def prune(self) -> None:
        """Drops the nodes and constants of which no output depends."""
        wanted = set(self.outputs())
        kept = []
        for node in reversed(self.graph.node):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(inputs_of(node))
        if len(kept) != len(self.graph.node):
            self.replace(kept[::-1])
        tensors = [tensor for tensor in self.graph.initializer if tensor.name in wanted]
        if len(tensors) != len(self.graph.initializer):
            del self.graph.initializer[:]
            self.graph.initializer.extend(tensors)
            self.constants.keep(wanted)


class NodeChain:
    """Nodes each of which reads what the one before gives; they are not yet part of the graph.

    Args:
        editor: The graph.
        value: Name of the value that the first of them reads.

    Attributes:
        value: Name of the value that the last of them gives.
        nodes: The nodes in order.
    """

    def __init__(self, editor: GraphEditor, value: str) -> None:
        self.value = value
        self.nodes: list[onnx.NodeProto] = []
        self._editor = editor

    def add(self, operator: str, name: str, *constants: npt.ArrayLike, **attributes: Any) -> None:  # noqa: ANN401 - as in ONNX
        """Adds a node that reads the last value, and constants behind it."""
        names = [self._editor.constant(values, f"{name}_constant") for values in constants]
        self.nodes.append(self._editor.node(operator, [self.value, *names], name, **attributes))
        self.value = self.nodes[-1].output[0]


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operator set; 1 where the file names none."""
    return max((item.version for item in model.opset_import if item.domain in _STANDARD_DOMAINS), default=1)


def is_standard(node: onnx.NodeProto, *operators: str) -> bool:
    """Whether a node is one of ONNX's own operators of these names."""
    return node.domain in _STANDARD_DOMAINS and node.op_type in operators


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of a loop or branch."""
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            yield item.g
        elif item.type == onnx.AttributeProto.GRAPHS:
            yield from item.graphs


def inputs_of(node: onnx.NodeProto) -> list[str]:
    """The values that a node reads, those among them that its subgraphs read from outside."""
    names = [name for name in node.input if name]
    for body in subgraphs(node):
        own = {value.name for value in (*body.input, *body.initializer)}
        for inner in body.node:
            names += [name for name in inputs_of(inner) if name not in own]
            own.update(inner.output)
        names += [value.name for value in body.output if value.name not in own]
    return names


def rename_reads(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Makes all readers of a value, in subgraphs too, read another."""
    for node in graph.node:
        if old in node.input:
            node.input[:] = [new if name == old else name for name in node.input]
        for body in subgraphs(node):
            if old in {value.name for value in (*body.input, *body.initializer)}:
                continue
            rename_reads(body, old, new)
            for value in body.output:
                if value.name == old and not any(old in inner.output for inner in body.node):
                    value.name = new


def known_values(graph: onnx.GraphProto) -> set[str]:
    """The values that are there before any node runs."""
    return {value.name for value in (*graph.input, *graph.initializer)} | {
        tensor.values.name for tensor in graph.sparse_initializer
    }


def in_order(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """The nodes in an order in which each follows what it reads, and otherwise as they are.

    Raises:
        ValueError: There is none.
    """
    known = {*known, ""}
    ordered: list[onnx.NodeProto] = []
    waiting = nodes
    while waiting:
        later = []
        for node in waiting:
            if known.issuperset(inputs_of(node)):
                ordered.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError(f"{later[0].name or later[0].op_type} reads a value that nothing gives")
        waiting = later
    return ordered


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Replaces the Constant nodes of a graph by initializers, in place."""
    kept = []
    for node in graph.node:
        tensor = _constant_tensor(node) if is_standard(node, "Constant") else None
        if tensor is None:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    if len(kept) != len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    (item,) = node.attribute
    copy = onnx.TensorProto()
    if item.name == "value":
        copy.CopyFrom(item.t)
        return copy
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if item.name not in kinds:
        return None
    return onnx.numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(item), kinds[item.name]))


def _all_names(graph: onnx.GraphProto) -> Iterator[Iterable[str]]:
    yield (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield (node.name, *node.input, *node.output)
        for body in subgraphs(node):
            yield from _all_names(body)
