"""The float graph: an ONNX model with batch normalisation folded, its constants as arrays, and the readers of every value."""

import contextlib
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.errors import MissingPackageError, install_hint


@dataclass(frozen=True, eq=False)
class FloatGraph:
    """An ONNX graph with one input and one output, indexed by values.

    Attributes:
        model: The model it was read from.
        nodes: In topological order.
        constants: Values of the initializers by name.
        input: Name of the input.
        output: Name of the output.
        producers: The node that gives each value.
        readers: The nodes that read each value, in order, once for each time they do.
    """

    model: onnx.ModelProto
    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, AnyArray]
    input: str
    output: str
    producers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]

    def only_reader(self, value: str) -> onnx.NodeProto | None:
        """The one node that reads a value; None when there are several, or the value leaves the graph."""
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value != self.output else None


def read_graph(model: onnx.ModelProto) -> FloatGraph:
    """Reads a model as a float graph."""
    graph = model.graph
    readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return FloatGraph(
        model=model,
        nodes=tuple(graph.node),
        constants={tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer},
        input=graph.input[0].name,
        output=graph.output[0].name,
        producers={name: node for node in graph.node for name in node.output},
        readers=dict(readers),
    )


# Constants that shapes may depend on are small; of larger ones only type and shape are looked at.
_SHAPE_CONSTANT_BYTES = 1 << 12


def infer_value_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Element type and shape of the values of a model as far as they can be inferred, by name; its weights are not copied."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() < _SHAPE_CONSTANT_BYTES:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    inferred = onnx.shape_inference.infer_shapes(light).graph
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

    Raises:
        MissingPackageError: A package of the extra [export] is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="edgeclf-int8-") as name, _quiet_logging(), _working_folder(name):
        folder = Path(name).absolute()
        path = folder / "prepared.onnx"
        try:
            from onnxruntime.quantization.shape_inference import quant_pre_process

            try:
                quant_pre_process(model, str(path))
            except ImportError:
                raise
            except Exception:  # noqa: BLE001 - it raises plain exceptions, key errors, assertions
                # Symbolic shape inference knows fewer operators than ONNX Runtime runs, and ends with whatever it meets there.
                # Without it fewer shapes are known, which costs no more than a chance for the fixed-point prefix. From a
                # file: it would take the weights out of a model in memory.
                onnx.save(model, str(folder / "given.onnx"))
                quant_pre_process(str(folder / "given.onnx"), str(path), skip_symbolic_shape=True)
        except ImportError as error:
            raise MissingPackageError(
                "ONNX Runtime's quantizer cannot be loaded",
                got=str(error),
                expected="the packages of the extra [export]",
                hint=install_hint("export"),
            ) from error
        return onnx.load(str(path))


@contextlib.contextmanager
def _working_folder(folder: str) -> Iterator[None]:
    """Another working folder for a while: symbolic shape inference leaves a model there where it does not come to an end."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


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
