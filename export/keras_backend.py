"""A trained Keras classifier behind the same two names as a `ModelSession`, so that both can be put to the same work."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeclf.export._packages import import_tensorflow
from edgeclf.runtime.images.preprocess import UInt8Array
from edgeclf.runtime.spec import ModelSpec

Inference: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]


def inference_of(model: Any) -> Inference:  # noqa: ANN401 - keras carries no types
    """A function that runs a Keras model in inference mode on arrays of any batch size.

    `model.predict` sets up a data pipeline at each call, and both it and `predict_on_batch` trace the network anew for
    a batch size they have not seen; this traces it once.

    Args:
        model: A Keras model with one input and one output.

    Returns:
        Takes (N, ...) arrays of the input's dtype, gives (N, ...) float32.
    """
    tensorflow = import_tensorflow()
    given = model.inputs[0]
    signature = [tensorflow.TensorSpec((None, *given.shape[1:]), given.dtype)]
    traced = tensorflow.function(
        lambda inputs: model(inputs, training=False), input_signature=signature, autograph=False
    )

    def run(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.asarray(traced(tensorflow.constant(inputs)), np.float32)

    return run


class KerasModel:
    """A Keras classifier and its spec.

    Args:
        model: A Keras model, uint8 (None, H, W, 3) RGB in, probabilities (None, C) out.
        spec: Its labels and preprocessing.
    """

    def __init__(self, model: Any, spec: ModelSpec) -> None:  # noqa: ANN401 - keras carries no types
        self.spec = spec
        self._infer = inference_of(model)

    def run(self, images_rgb: UInt8Array) -> npt.NDArray[np.float32]:
        """(N, H, W, 3) uint8 RGB to (N, C) float32 probabilities, computed by Keras in inference mode."""
        return self._infer(images_rgb)
