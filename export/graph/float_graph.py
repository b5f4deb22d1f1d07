"""The float graph: an ONNX model with batch normalisation folded, its constants as arrays, and the readers of every value."""

import contextlib
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.constants import Constants
from edgeclf.export.graph.light.folder import ModelFolder
from edgeclf.export.graph.light.sessions import basic_optimized
from edgeclf.export.graph.light.structure import structure_of
from edgeclf.export.graph.light.weights import is_light
from edgeclf.runtime.errors import MissingPackageError, install_hint


@dataclass(frozen=True, eq=False)
class FloatGraph:
    """An ONNX graph with one input and one output, indexed by values.

    Attributes:
        model: The model it was read from.
        nodes: In topological order.
        constants: Values of the initializers by name; large ones are read anew each time that they are asked for.
        input: Name of the input.
        output: Name of the output.
        producers: The node that gives each value.
        readers: The nodes that read each value, in order, once for each time they do.
        files: The folder of a light model's weights, which lasts as long as this graph; None where another keeps them.
    """

    model: onnx.ModelProto
    nodes: tuple[onnx.NodeProto, ...]
    constants: Constants
    input: str
    output: str
    producers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]
    files: ModelFolder | None = None

    def only_reader(self, value: str) -> onnx.NodeProto | None:
        """The one node that reads a value; None when there are several, or the value leaves the graph."""
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value != self.output else None


def read_graph(model: onnx.ModelProto, *, files: ModelFolder | None = None) -> FloatGraph:
    """Reads a model as a float graph.

    Args:
        model: The model, light or not.
        files: See `FloatGraph`.
    """
    graph = model.graph
    readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return FloatGraph(
        model=model,
        nodes=tuple(graph.node),
        constants=Constants(graph),
        input=graph.input[0].name,
        output=graph.output[0].name,
        producers={name: node for node in graph.node for name in node.output},
        readers=dict(readers),
        files=files,
    )


# Constants that shapes may depend on are small; of larger ones only type and shape are looked at.
_SHAPE_CONSTANT_BYTES = 1 << 12


def infer_value_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Element type and shape of the values of a model as far as they can be inferred, by name; its weights are not copied."""
    inferred = onnx.shape_inference.infer_shapes(structure_of(model, most_bytes=_SHAPE_CONSTANT_BYTES)).graph
    return {item.name: item.type.tensor_type for item in (*inferred.input, *inferred.value_info, *inferred.output)}


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def scalar_of(graph: FloatGraph, name: str, default: float) -> float:
    """The value of a constant of one element; the default where an optional input is left out.

    Raises:
        KeyError: It is no constant.
    """
    return default if not name else float(np.asarray(graph.constants[name]).reshape(-1)[0])


def prepare_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Folds batch normalisation into convolutions and computes constants, by ONNX Runtime's pre-processing.

    Without its symbolic shape inference: `infer_value_types` knows the same shapes of what is left, while that one ends
    with an error at operators it does not know, and leaves a file in the process's working folder.

    Args:
        model: The model. Of a light one the result is a light one too, its weights in the same folder: the pre-processing holds
            a model several times, and the optimizations are all that is needed of it.

    Raises:
        MissingPackageError: A package of the extra [export] is not installed.
    """
    if is_light(model):
        return basic_optimized(model)
    with tempfile.TemporaryDirectory(prefix="edgeclf-int8-") as name, _quiet_logging():
        given, prepared = str(Path(name, "given.onnx")), str(Path(name, "prepared.onnx"))
        try:
            from onnxruntime.quantization.shape_inference import quant_pre_process

            # From a file: it would take the weights out of a model in memory.
            onnx.save(model, given)
            quant_pre_process(given, prepared, skip_symbolic_shape=True)
        except ImportError as error:
            raise MissingPackageError(
                "ONNX Runtime's quantizer cannot be loaded",
                got=str(error),
                expected="the packages of the extra [export]",
                hint=install_hint("export"),
            ) from error
        return onnx.load(prepared)


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Holds back the quantizer's advice, which goes to the root logger; its errors still arrive as exceptions."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
