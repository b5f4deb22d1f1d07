"""Conversion of Keras models to float32 ONNX."""

import warnings
from pathlib import Path

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import INPUT_NAME, MAX_IR_VERSION, apply_contract_names
from edgeclf.export.graph.fuse_clips import fuse_clips
from edgeclf.export.graph.layer_names import name_after_layers, name_in_order, trace_by_layer
from edgeclf.export.keras_backend import KerasModel, import_tensorflow, import_tf2onnx
from edgeclf.runtime.errors import InputError, ModelFileError

# The newest opset tf2onnx writes that ONNX Runtime's quantizer and the other engines all read.
OPSET = 17


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
        try:
            converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise InputError(
                "cannot convert this network to ONNX",
                got=str(error).split("\n", 1)[0][:300],
                expected="layers that tf2onnx can convert",
                hint="replace the layer that is named",
            ) from error
    proto: onnx.ModelProto = onnx.ModelProto()
    proto.CopyFrom(converted)
    proto.ir_version = min(proto.ir_version, MAX_IR_VERSION)
    proto.producer_name, proto.doc_string, proto.graph.doc_string = "edgeclf", "", ""
    name_after_layers(proto, operations)
    fuse_clips(proto)
    name_in_order(proto)
    keep_used_opsets(proto)
    return proto


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
