"""Conversion of Keras models to float32 ONNX."""

import contextlib
import logging
import re
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import INPUT_NAME, MAX_IR_VERSION, apply_contract_names
from edgeclf.export.graph.fuse_clips import fuse_clips
from edgeclf.export.graph.layer_names import layer_of, name_after_layers, name_in_order, trace_by_layer
from edgeclf.export.keras_backend import KerasModel, import_tensorflow, import_tf2onnx
from edgeclf.runtime.errors import InputError, ModelFileError

# The newest opset tf2onnx writes that ONNX Runtime's quantizer and the other engines all read.
OPSET = 17
_GRAPHS = frozenset({onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS})


def read_model(path: Path) -> onnx.ModelProto:
    """Reads an `.onnx` file.

    Raises:
        ModelFileError: It cannot be read, or is none.
    """
    try:
        return onnx.load(str(path))
    except Exception as error:
        # protobuf's own exception among others; all are about this file.
        raise ModelFileError(
            f"cannot read {path}", got=str(error).split("\n", 1)[0][:200], expected="an .onnx file"
        ) from error


def onnx_from_keras(model: KerasModel) -> onnx.ModelProto:
    """Converts a Keras classifier that follows edgeclf's model contract.

    Args:
        model: A Keras model with one uint8 input (None, H, W, 3), RGB, and one output (None, C), probabilities.

    Returns:
        The network in inference mode, input `image`, output `probabilities`, batch dimension symbolic.

    Raises:
        InputError: The model's input or output is something else, or has a layer tf2onnx cannot convert.
        MissingPackageError: TensorFlow or tf2onnx is not installed.
    """
    _check_keras(model)
    proto = _convert(model)
    apply_contract_names(proto)
    proto.graph.name = "classifier"
    return proto


def backbone_onnx_from_keras(model: KerasModel) -> onnx.ModelProto:
    """Converts a backbone: a network without its head, which computes features.

    Args:
        model: A Keras model with one uint8 input (None, H, W, 3), RGB, and one output (None, F).

    Returns:
        The network in inference mode, its input and output named as the converter does, batch dimension symbolic.

    Raises:
        InputError: The model's input or output is something else, or has a layer tf2onnx cannot convert.
        MissingPackageError: TensorFlow or tf2onnx is not installed.
    """
    _check_keras(model)
    return _convert(model)


def _convert(model: KerasModel) -> onnx.ModelProto:
    tensorflow = import_tensorflow()
    tf2onnx = import_tf2onnx()
    signature = (tensorflow.TensorSpec((None, *model.inputs[0].shape[1:]), tensorflow.uint8, name=INPUT_NAME),)
    scoped, operations = trace_by_layer(model)
    # tf2onnx.convert.from_keras does not know Keras 3; a traced function is what both sides understand.
    function = tensorflow.function(
        lambda image: scoped(image, training=False), input_signature=signature, autograph=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Traced before, so that only what the converter raises is put down to the layers.
        function.get_concrete_function()
        with _failed_nodes() as failed:
            try:
                converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
            except Exception as error:
                # The converters of single operators raise whatever they meet: assertions, type errors, errors of NumPy.
                said = str(error).split("\n", 1)[0][:300] or type(error).__name__
                raise _cannot_convert(
                    [f"{_layer_phrase(name, operations)}: {said}" for name in failed[:1]] or [said]
                ) from error
    proto: onnx.ModelProto = onnx.ModelProto()
    proto.CopyFrom(converted)
    # An operator that it does not know is left as it is, under TensorFlow's name.
    unknown = {f"{_layer_phrase(node.name, operations)}: {node.op_type}": None for node in _unknown_nodes(proto.graph)}
    if unknown:
        raise _cannot_convert(list(unknown))
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        # Such as an input that ONNX wants as an attribute.
        said = str(error).split("\n", 1)[0][:300]
        node = re.search(r"Node ?\(([^)]+)\)", said)
        raise _cannot_convert([f"{_layer_phrase(node[1], operations)}: {said}" if node else said]) from error
    proto.ir_version = min(proto.ir_version, MAX_IR_VERSION)
    proto.producer_name, proto.doc_string, proto.graph.doc_string = "edgeclf", "", ""
    name_after_layers(proto, operations)
    fuse_clips(proto)
    name_in_order(proto)
    keep_used_opsets(proto)
    return proto


def _cannot_convert(got: list[str]) -> InputError:
    more = f" and {len(got) - 3} more" if len(got) > 3 else ""
    return InputError(
        "cannot convert this network to ONNX",
        got=", ".join(got[:3]) + more,
        expected="layers that tf2onnx can convert",
        hint="replace the layer that is named",
    )


def _layer_phrase(node: str, operations: Collection[str]) -> str:
    """The Keras layer that a node belongs to, or the node where that is not known."""
    layer = layer_of(node)
    return f"layer {layer!r}" if layer in operations else f"node {node!r}"


@contextlib.contextmanager
def _failed_nodes() -> Iterator[list[str]]:
    """Collects the nodes that tf2onnx cannot convert: it logs their names, and raises errors without them."""
    names: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if str(record.msg).startswith("Failed to convert node") and isinstance(record.args, tuple):
                names.append(str(record.args[0]))

    logger, handler = logging.getLogger("tf2onnx.tfonnx"), Collect(logging.ERROR)
    quiet = logger.propagate
    logger.addHandler(handler)
    # Its messages, pages of them, say nothing that the sentence does not.
    logger.propagate = False
    try:
        yield names
    finally:
        logger.propagate = quiet
        logger.removeHandler(handler)


def _unknown_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes, those of the bodies of loops and branches as well, whose operator ONNX does not have."""
    for node in graph.node:
        if not onnx.defs.has(node.op_type, OPSET, "" if node.domain == "ai.onnx" else node.domain):
            yield node
        for item in node.attribute:
            for body in (item.g, *item.graphs) if item.type in _GRAPHS else ():
                yield from _unknown_nodes(body)


def keep_used_opsets(model: onnx.ModelProto) -> None:
    """Drops declared operator sets that no node uses, in place: other engines refuse domains they do not know."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _check_keras(model: KerasModel) -> None:
    shapes = [(str(t.dtype), tuple(t.shape)) for t in (*model.inputs, *model.outputs)]
    ok = len(model.inputs) == 1 and len(model.outputs) == 1
    if ok:
        (input_type, input_shape), (_, output_shape) = shapes
        ok = (
            input_type == "uint8"
            and len(input_shape) == 4
            and input_shape[3] == 3
            and None not in input_shape[1:]
            and len(output_shape) == 2
        )
    if not ok:
        raise InputError(
            "cannot export this Keras model",
            got=f"inputs and outputs {shapes}",
            expected="one uint8 input (None, H, W, 3) and one output (None, classes or features)",
            hint="put the normalisation inside the model and fix its image size",
        )
