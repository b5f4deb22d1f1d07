"""What pretrained networks have in common: the names of their weights, and what is made of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from edgeclf.runtime.arrays import FloatArray

PRETRAINED, RANDOM = "imagenet", "none"
# Input height and width in pixels, None for any.
Size: TypeAlias = tuple[int | None, int | None]
# The arrays of each layer by its name, shaped and ordered as its Keras layer has them.
LayerWeights: TypeAlias = Mapping[str, Sequence[FloatArray]]
# From the name of an architecture, height and width in pixels, and the weights: its backbone as an ONNX model.
WriteBackbone: TypeAlias = Callable[[str, tuple[int, int], LayerWeights], Any]


def weights_of(model: Any) -> LayerWeights:  # noqa: ANN401 - keras carries no types
    """The weights of a Keras model's layers, without those that have none."""
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
