"""Reading of ONNX files that others made: weights in files beside them, local functions, operator sets and file versions."""

import re
from pathlib import Path

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import constants_to_initializers, opset_of
from edgeclf.export.graph.contract import MAX_IR_VERSION, MAX_OPSET
from edgeclf.export.graph.light.moving import moved_in, moved_out
from edgeclf.export.graph.light.weights import place_of, tensor_bytes
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.file_faults import missing_weights
from edgeclf.runtime.session.graph_outline import read_graph_outline

# Older operator sets have attributes where the passes here look for inputs.
_OLDEST_OPSET = 13
_TARGET_OPSET = 17
# A model with its weights inside is one protobuf message.
_MOST_BYTES = 2**31 - 1
# The first version in which an initializer need not be an input as well.
_OLDEST_IR_VERSION = 4


def read_foreign_model(path: Path | str) -> onnx.ModelProto:
    """Reads an `.onnx` file with all its weights.

    Args:
        path: The file; weights may lie in other files of its folder.

    Returns:
        The model as the file has it, with the weights inside.

    Raises:
        ModelFileError: It cannot be read, is no ONNX model, or its weights are missing, too short or outside of its folder.
    """
    path = Path(path)
    fault = missing_weights(path, read_graph_outline(path))
    if fault is not None:
        raise fault
    try:
        return _loaded(path)
    except Exception as error:
        # protobuf's own exception among others, and what ONNX says of files with weights; all are about this model.
        raise ModelFileError(
            f"cannot read model {path}",
            got=str(error).split("\n", 1)[0][:200],
            expected="a whole ONNX file, and with it the whole files that have its weights",
            hint="export it again as one file, or copy all of its files again",
        ) from error


def _loaded(path: Path) -> onnx.ModelProto:
    """A model with its weights, also from links, as caches keep files: ONNX itself reads none. Where they lead is checked before."""
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        external = {entry.key: entry.value for entry in tensor.external_data}
        weights = path.parent / external.get("location", "")
        if tensor.data_location != onnx.TensorProto.EXTERNAL or not weights.is_symlink():
            continue
        with weights.open("rb") as file:
            file.seek(int(external.get("offset", 0)))
            tensor.raw_data = file.read(int(external["length"]) if "length" in external else -1)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    onnx.load_external_data_for_model(model, str(path.parent))
    return model


def in_known_version(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in an operator set and file version that edgeclf's files may have, its functions inlined.

    Raises:
        ModelFileError: It is too large for one file, or ONNX cannot convert it.
    """
    size = sum(tensor_bytes(tensor) for tensor in model.graph.initializer)
    if size > _MOST_BYTES:
        raise ModelFileError(
            "the model is too large for one file",
            got=f"{size / 1e9:.2f} GB of weights",
            expected=f"at most {_MOST_BYTES / 1e9:.2f} GB, which is what an .onnx file with its weights inside can hold",
            hint="take a smaller network",
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if copy.functions:
        copy = onnx.inliner.inline_local_functions(copy)
    del copy.metadata_props[:]
    constants_to_initializers(copy.graph)
    _drop_initialized_inputs(copy.graph)
    opset = opset_of(copy)
    if not _OLDEST_OPSET <= opset <= MAX_OPSET:
        copy = _converted(copy, MAX_OPSET if opset > MAX_OPSET else _TARGET_OPSET)
        constants_to_initializers(copy.graph)
    copy.ir_version = min(max(copy.ir_version, _OLDEST_IR_VERSION), MAX_IR_VERSION)
    return copy


def _drop_initialized_inputs(graph: onnx.GraphProto) -> None:
    """Drops the inputs that have initializers: older files list all weights among their inputs."""
    initialized = {tensor.name for tensor in graph.initializer} | {
        item.values.name for item in graph.sparse_initializer
    }
    kept = [value for value in graph.input if value.name not in initialized]
    if len(kept) != len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)


def _converted(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """A model in another operator set, its large weights left where they are: the converter copies what it gets twice."""
    before = opset_of(model)
    outside = [place[0].parent for tensor in model.graph.initializer if (place := place_of(tensor)) is not None]
    model = moved_in(model)
    model.ir_version = max(model.ir_version, _OLDEST_IR_VERSION)
    try:
        converted = onnx.version_converter.convert_version(model, target)
    except Exception as error:
        # The converter raises errors of its own kinds, of C++ and of protobuf; all are about this model.
        said = re.sub(r"^.*?: (?=[A-Z])", "", str(error).split("\n", 1)[0])[:200]
        raise ModelFileError(
            f"cannot convert the model from opset {before} to {target}",
            got=said or type(error).__name__,
            expected=f"an opset from {_OLDEST_OPSET} to {MAX_OPSET}, or one that ONNX can convert",
            hint=f"export it with opset {_TARGET_OPSET}",
        ) from error
    return moved_out(converted, outside[0]) if outside else converted


def in_single_precision(model: onnx.ModelProto) -> bool:
    """Computes in float32 what a model computes in float16, in place, where its weights are float16.

    Returns:
        Whether there was anything to change.
    """
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    graph = model.graph
    if not any(tensor.data_type == half and len(tensor.dims) > 1 for tensor in graph.initializer):
        return False
    for tensor in graph.initializer:
        if tensor.data_type == half:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for node in graph.node:
        for item in node.attribute:
            if item.name in {"to", "dtype", "output_dtype"} and item.i == half:
                item.i = single
            if item.HasField("t") and item.t.data_type == half:
                item.t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item.t).astype(np.float32)))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    del graph.value_info[:]
    return True
