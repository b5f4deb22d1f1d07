"""Pretrained weights: the names of the sources, and types for the arrays and for the ONNX model written from them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from edgeclf.export.keras_backend import KerasModel
from edgeclf.runtime.arrays import FloatArray

if TYPE_CHECKING:
    from edgeclf.export._onnx import onnx

PRETRAINED, RANDOM = "imagenet", "none"
# Input height and width in pixels, None for any.
Size: TypeAlias = tuple[int | None, int | None]
# The arrays of each layer by its name, shaped and ordered as its Keras layer has them.
LayerWeights: TypeAlias = Mapping[str, Sequence[FloatArray]]
# From the name of an architecture, height and width in pixels, and the weights: its backbone as an ONNX model.
WriteBackbone: TypeAlias = Callable[[str, tuple[int, int], LayerWeights], "onnx.ModelProto"]


def weights_of(model: KerasModel) -> LayerWeights:
    """The weights of a Keras model's layers, without those that have none."""
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
