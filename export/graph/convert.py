"""Conversion of Keras models to float32 ONNX."""

import contextlib
import gc
import logging
import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import INPUT_NAME, MAX_IR_VERSION, apply_contract_names
from edgeclf.export.graph.fold_constants import fold_constants
from edgeclf.export.graph.fuse_clips import fuse_clips
from edgeclf.export.graph.layer_names import layer_of, name_after_layers, name_in_order, trace_by_layer
from edgeclf.export.graph.light.structure import check_model
from edgeclf.export.graph.light.weights import is_large, is_outside, set_values
from edgeclf.export.keras_backend import (
    KerasModel,
    KerasTensor,
    KerasVariable,
    UntypedModule,
    give_memory_back,
    import_tensorflow,
    import_tf2onnx,
)
from edgeclf.runtime.errors import InputError, ModelFileError

# The newest opset tf2onnx writes that ONNX Runtime's quantizer and the other engines all read.
OPSET = 17
_RANDOM = re.compile("Random|Multinomial|Bernoulli")
_DENSE = frozenset({"MatMul", "Gemm"})
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
    image = tensorflow.TensorSpec((None, *model.inputs[0].shape[1:]), tensorflow.uint8, name=INPUT_NAME)
    scoped, operations = trace_by_layer(model)
    return onnx_from_function(
        lambda pixels: scoped(pixels, training=False), image, operations, kernels=large_kernels(model)
    )


def large_kernels(model: KerasModel) -> tuple[KerasVariable, ...]:
    """The kernels of dense layers of a Keras model that are kept out of tf2onnx, which copies all weights it is given."""
    from keras import layers

    return tuple(
        variable
        for layer in model._flatten_layers()
        if isinstance(layer, layers.Dense)
        for variable in layer.weights
        if variable.name == "kernel" and str(variable.dtype) == "float32"
        if is_large(4 * math.prod(variable.shape))
    )


def onnx_from_function(
    call: Callable[[KerasTensor], KerasTensor],
    image: KerasTensor,
    operations: Collection[str] = frozenset(),
    kernels: Sequence[KerasVariable] = (),
) -> onnx.ModelProto:
    """Converts a function of one tensor.

    Args:
        call: Takes a tensor and gives one, or several as a tuple; it is traced once.
        image: The `TensorSpec` of what it takes, with the name that the graph's input gets.
        operations: The Keras operations that are traced in scopes of their names, as `trace_by_layer` gives them.
        kernels: Variables that become initializers behind tf2onnx's back, where they are weights of dense layers, see
            `large_kernels`.

    Returns:
        The graph, its outputs in the function's order, named as the converter does.

    Raises:
        InputError: tf2onnx cannot convert an operation of it.
        MissingPackageError: TensorFlow or tf2onnx is not installed.
    """
    tensorflow = import_tensorflow()
    tf2onnx = import_tf2onnx()
    inputs = {f"edgeclf_kernel_{number}": kernel for number, kernel in enumerate(kernels)}
    specs = (tensorflow.TensorSpec(kernel.shape, "float32", name=name) for name, kernel in inputs.items())
    signature = (image, *specs)
    # tf2onnx.convert.from_keras does not know Keras 3; a traced function is what both sides understand.
    function = tensorflow.function(_with_kernels(call, kernels), input_signature=signature, autograph=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Traced before, so that only what the converter raises is put down to the layers.
        concrete = function.get_concrete_function()
        with _failed_nodes() as failed:
            try:
                with _collected_often():
                    converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
            except Exception as error:
                if kernels:
                    return onnx_from_function(call, image, operations)
                # The converters of single operators raise whatever they meet: assertions, type errors, errors of NumPy.
                said = str(error).split("\n", 1)[0][:300] or type(error).__name__
                raise _cannot_convert(
                    [f"{_layer_phrase(name, operations)}: {said}" for name in failed[:1]] or [said]
                ) from error
    if not _are_weights(converted.graph, inputs):
        return onnx_from_function(call, image, operations)
    proto: onnx.ModelProto = onnx.ModelProto()
    proto.CopyFrom(converted)
    outside = _make_weights(proto.graph, inputs)
    _keep_captured(proto, concrete)
    # An operator that it does not know is left as it is, under TensorFlow's name.
    _refuse_random(proto, operations)
    unknown = {f"{_layer_phrase(node.name, operations)}: {node.op_type}": None for node in _unknown_nodes(proto.graph)}
    if unknown:
        raise _cannot_convert(list(unknown))
    try:
        check_model(proto)
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
    _move_in(proto.graph, outside)
    return proto


def _with_kernels(
    call: Callable[[KerasTensor], KerasTensor], kernels: Sequence[KerasVariable]
) -> Callable[..., KerasTensor]:
    """The function with some variables as inputs behind its own: TensorFlow makes constants of variables, copies of them."""
    if not kernels:
        return call

    def scoped(image: KerasTensor, *values: KerasTensor) -> KerasTensor:
        from keras import StatelessScope

        with StatelessScope(state_mapping=list(zip(kernels, values, strict=True))):
            return call(image)

    return scoped


def _are_weights(graph: onnx.GraphProto, names: Collection[str]) -> bool:
    """Whether each of these inputs is the weights of dense layers: of constants TensorFlow computes what comes between."""
    readers = [(node, index) for node in graph.node for index, name in enumerate(node.input) if name in names]
    return all(node.op_type in _DENSE and index == 1 for node, index in readers) and {
        node.input[1] for node, _ in readers
    } == set(names)


def _make_weights(graph: onnx.GraphProto, kernels: Mapping[str, KerasVariable]) -> dict[str, KerasVariable]:
    """Makes initializers, without values as yet, of the inputs that stand for kernels, in place.

    Returns:
        The kernels by the location that stands for their values until `_move_in` writes these.
    """
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    names: dict[str, str] = {}
    for node in graph.node:
        for name in node.input:
            if name in kernels and name not in names:
                # As TensorFlow would have named the constant.
                layer = node.name.rpartition("/")[0].removesuffix("/Tensordot")
                wanted = f"{layer}/Cast/ReadVariableOp:0"
                names[name] = name if wanted in taken else wanted
                taken.add(wanted)
        node.input[:] = [names.get(name, name) for name in node.input]
    for name, kernel in kernels.items():
        tensor = graph.initializer.add(
            name=names[name], data_type=onnx.TensorProto.FLOAT, data_location=onnx.TensorProto.EXTERNAL
        )
        tensor.dims.extend(kernel.shape)
        tensor.external_data.add(key="location", value=name)
    _drop_inputs(graph, kernels)
    return dict(kernels)


def _move_in(graph: onnx.GraphProto, kernels: Mapping[str, KerasVariable]) -> None:
    """Writes the values of kernels into their initializers, in place, once all passes over the graph are done."""
    for tensor in graph.initializer:
        if is_outside(tensor):
            set_values(tensor, np.asarray(kernels[tensor.external_data[0].value]))


def _keep_captured(proto: onnx.ModelProto, concrete: UntypedModule) -> None:
    """Makes constants of the tensors that a function refers to and which are no variables; they were converted as inputs."""
    captured = {
        inner.name: outer for outer, inner in concrete.graph.captures if inner.name in _names(proto.graph.input)
    }
    if not captured:
        return
    for name, value in captured.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    _drop_inputs(proto.graph, captured)
    fold_constants(proto)


def _drop_inputs(graph: onnx.GraphProto, names: Collection[str]) -> None:
    kept = [value for value in graph.input if value.name not in names]
    del graph.input[:]
    graph.input.extend(kept)


def _names(values: Iterable[onnx.ValueInfoProto]) -> set[str]:
    return {value.name for value in values}


def _refuse_random(proto: onnx.ModelProto, operations: Collection[str]) -> None:
    random = [node for node in proto.graph.node if _RANDOM.search(node.op_type)]
    if random:
        raise InputError(
            "this network gives another answer for the same image each time",
            got=f"{_layer_phrase(random[0].name, operations)}: {random[0].op_type}, in inference",
            expected="a network whose dropout and augmentation are for training alone",
            hint="save it as .keras, of which augmentation is left out, or let the layer do nothing where training is False",
        )


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
def _collected_often() -> Iterator[None]:
    """Has garbage collected early, without looking through what was there before.

    tf2onnx copies a graph with all its weights ahead of each of some thirty passes. The copies refer to themselves in circles, and
    beside the objects of TensorFlow so few new ones are made that a whole collection is hardly ever due, for a network of few
    layers never: gigabytes for a network of a hundred megabytes. It logs the name of each pass as that begins.
    """

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == logger.name and str(record.msg).startswith("Apply"):
                gc.collect()

    logger, handler = logging.getLogger("tf2onnx.optimizer"), Collect()
    level, is_heard = logger.level, logger.propagate
    before, is_ours = gc.get_threshold(), gc.get_freeze_count() == 0
    if is_ours:
        gc.freeze()
    # Python puts whole collections off by the number of objects that the last one left: those that are frozen count no more
    # after one.
    gc.collect()
    gc.set_threshold(1000, 2, 2)
    logger.addHandler(handler)
    logger.setLevel(1)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = is_heard
        gc.set_threshold(*before)
        if is_ours:
            gc.unfreeze()
        gc.collect()
        give_memory_back()


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
