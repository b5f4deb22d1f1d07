"""Networks of the user, `--arch module:function`: called with the classes and the image size, and brought to edgeclf's contract."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeclf.export.keras_backend import KerasModel, KerasTensor, import_tensorflow
from edgeclf.export.source.keras_files.custom_objects import (
    custom_objects_of,
    error_text,
    import_object,
    import_user_module,
)
from edgeclf.export.source.keras_files.kinds import parse_object_name
from edgeclf.export.source.keras_files.safety import check_layers
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.training.networks.weights.flat_copy import (
    IMAGE,
    LOGITS,
    PROBABILITIES,
    TO_FLOAT,
    LayerCopies,
    activation_name,
    is_graph,
    is_softmax,
)
from edgeclf.training.networks.weights.layer_weights import Size

CONTRACT = (
    "a function of classes and image_size that gives a functional or Sequential keras.Model: pixels of 0..255 in, uint8 or "
    "float, (height, width, 3); logits or a softmax of the classes out"
)
_WHAT = "--arch"
# What parameters of such functions are called.
_CLASSES = frozenset({"classes", "num_classes", "n_classes", "class_count"})
_SIZE = frozenset({"image_size", "size", "size_hw", "img_size"})
_SHAPE = frozenset({"input_shape", "image_shape"})


def is_own_network(architecture: str) -> bool:
    """Whether `--arch` names a function of the user: `module:function`."""
    return not architecture.startswith(("keras:", "onnx:")) and parse_object_name(architecture) is not None


def own_custom_objects(architecture: str) -> dict[str, Any]:
    """What the module of a network of the user has for Keras to load it.

    Raises:
        UsageError: There is no such module.
        InputError: It cannot be imported.
    """
    return custom_objects_of(import_user_module(architecture.partition(":")[0], _WHAT))


def own_source(architecture: str) -> str:
    """The text of the module of a network of the user; empty where it has none, such as a package of compiled code.

    Raises:
        UsageError: There is no such module.
        InputError: It cannot be imported.
    """
    file = import_user_module(architecture.partition(":")[0], _WHAT).__file__
    path = Path(file or "")
    return path.read_text(encoding="utf-8") if path.suffix == ".py" else ""


def own_module_folder(architecture: str) -> Path:
    """The folder that the module of a network of the user is imported from; the current folder where it has no file.

    Raises:
        UsageError: There is no such module.
        InputError: It cannot be imported.
    """
    name = architecture.partition(":")[0]
    module = import_user_module(name, _WHAT)
    if module.__file__ is None:
        return Path.cwd()
    file = Path(module.__file__).absolute()
    inside = file.parent if file.stem == "__init__" else file
    return inside.parents[name.count(".")]


def import_also_from(folder: Path) -> None:
    """Lets modules of the user be imported from a folder, those of the current folder first."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def own_function(architecture: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises:
        UsageError: There is no such module or function.
        InputError: The module cannot be imported.
    """
    found = import_object(architecture, _WHAT)
    if not callable(found) or isinstance(found, type):
        raise UsageError(
            f"{architecture} is no function", got=type(found).__name__, expected=CONTRACT, hint="name the function"
        )
    return found  # type: ignore[no-any-return]  # a callable


def build_own_network(architecture: str, size_hw: Size, classes: int) -> KerasModel:
    """Calls the user's function, and brings its network to the contract of edgeclf's own.

    Args:
        architecture: `module:function`.
        size_hw: Input height and width in pixels.
        classes: C.

    Returns:
        A flat Keras model with copies of its layers, uint8 (None, H, W, 3) RGB `image` in, `logits` and a softmax
        `probabilities` at its end.

    Raises:
        UsageError: There is no such function, it cannot be called like that, or its network is none of the contract.
        InputError: The function fails, or its network has layers that could not be loaded again.
    """
    import_tensorflow()
    function = own_function(architecture)
    arguments = _arguments(architecture, function, size_hw, classes)
    try:
        model = function(**arguments)
    except Exception as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise InputError(
            f"{architecture} fails", got=error_text(error), expected=CONTRACT, hint=f"try it in Python with {shown}"
        ) from error
    return _as_contract(architecture, model, size_hw, classes)


def _arguments(architecture: str, function: Callable[..., Any], size_hw: Size, classes: int) -> dict[str, Any]:
    """The arguments of the user's function, by the names of its parameters."""
    given: dict[str, Any] = {}
    unknown = []
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{architecture} cannot be called", got=error_text(error), expected=CONTRACT) from error
    for item in parameters:
        if item.kind in {item.VAR_POSITIONAL, item.VAR_KEYWORD}:
            continue
        if item.name in _CLASSES:
            given[item.name] = classes
        elif item.name in _SIZE:
            given[item.name] = tuple(size_hw)
        elif item.name in _SHAPE:
            given[item.name] = (*size_hw, 3)
        elif item.default is item.empty:
            unknown.append(item.name)
    if unknown or not _CLASSES & given.keys():
        raise UsageError(
            f"{architecture} has parameters that edgeclf does not know"
            if unknown
            else f"{architecture} takes no classes",
            got=", ".join(unknown or (item.name for item in parameters)) or "no parameter",
            expected="classes (or num_classes), image_size (height, width) or input_shape, and others with defaults",
            hint="rename them, or give the others defaults",
        )
    return given


def _as_contract(architecture: str, model: object, size_hw: Size, classes: int) -> KerasModel:
    import keras

    if not isinstance(model, keras.Model) or not is_graph(model):
        kind = "a subclass of keras.Model" if isinstance(model, keras.Model) else f"a {type(model).__name__}"
        raise _not_contract(
            architecture, kind, "wrap it: keras.Model(inputs, outputs) of what it gives for a keras.Input"
        )
    inputs, outputs = model.inputs or [], model.outputs or []
    shown = f"{_shapes(inputs)} in and {_shapes(outputs)} out"
    if len(inputs) != 1 or len(outputs) != 1:
        raise _not_contract(architecture, shown, "give it one input and one output")
    given, wanted = tuple(inputs[0].shape), (None, *size_hw, 3)
    if len(given) != 4 or any(
        side not in {None, expected} for side, expected in zip(given[1:], wanted[1:], strict=True)
    ):
        is_other_size = len(given) == 4 and given[3] == 3
        hint = (
            f"use the image_size that it is given, or pass --image-size {given[1]}"
            if is_other_size
            else "see the contract"
        )
        raise _not_contract(architecture, f"{shown}, for images {wanted}", hint)
    if not str(inputs[0].dtype).startswith(("float", "uint8")):
        raise _not_contract(architecture, f"an input of {inputs[0].dtype}", "make it uint8 or float32")
    if tuple(outputs[0].shape[1:]) != (classes,):
        raise _not_contract(architecture, f"{shown}, for {classes} classes", "end it with a Dense(classes)")
    _check_reloads(architecture, model)
    image = keras.Input((*size_hw, 3), dtype="uint8", name=IMAGE)
    x = image
    if not str(inputs[0].dtype).startswith("uint8"):
        x = keras.layers.Rescaling(1.0, name=TO_FLOAT)(x)
    copies = LayerCopies(model)
    logits = _logits(architecture, copies.apply(model, x))
    network = keras.Model(image, keras.layers.Softmax(name=PROBABILITIES)(logits), name=architecture.rpartition(":")[2])
    copies.copy_weights()
    return network


def _logits(architecture: str, output: KerasTensor) -> KerasTensor:
    """The logits of what a network gives: its output, or what its last softmax takes."""
    import keras

    last = output._keras_history.operation
    if is_softmax(last):
        output = last.input
        last = output._keras_history.operation
    if activation_name(last) not in {None, "linear"} or isinstance(last, keras.layers.ReLU):
        raise _not_contract(
            architecture,
            f"{activation_name(last) or type(last).__name__} at its end",
            "end it with a softmax, or without an activation",
        )
    return output if last.name == LOGITS else keras.layers.Activation("linear", name=LOGITS)(output)


def _check_reloads(architecture: str, network: KerasModel) -> None:
    """Checks that a run of the network can be opened again: no code in its config, and all its layers found by name."""
    import keras

    document = keras.saving.serialize_keras_object(network)
    found = check_layers(document, own_custom_objects(architecture))
    if found is not None:
        raise InputError(
            f"a run of {architecture} could not be opened again",
            got=found,
            expected="layers of Keras, and layers and functions that the module has at its top",
            hint="write a Lambda as a keras.ops expression or as a Layer class with get_config, in the module itself",
        )


def _shapes(tensors: list[KerasTensor]) -> str:
    return ", ".join(f"{item.dtype} {tuple(item.shape)}" for item in tensors) or "nothing"


def _not_contract(architecture: str, got: str, hint: str) -> UsageError:
    return UsageError(f"{architecture} gives no network that edgeclf can train", got=got, expected=CONTRACT, hint=hint)
