"""A trained Keras classifier behind the same two names as a `ModelSession`, so that both can be put to the same work."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.preprocess import UInt8Array
from edgeclf.runtime.spec import ModelSpec


class KerasModel:
    """A Keras classifier and its spec.

    Args:
        model: A Keras model, uint8 (None, H, W, 3) RGB in, probabilities (None, C) out.
        spec: Its labels and preprocessing.
    """

    def __init__(self, model: Any, spec: ModelSpec) -> None:  # noqa: ANN401 - keras carries no types
        self.model = model
        self.spec = spec

    def run(self, images_rgb: UInt8Array) -> npt.NDArray[np.float32]:
        """(N, H, W, 3) uint8 RGB to (N, C) float32 probabilities, computed by Keras in inference mode."""
        return np.asarray(self.model.predict_on_batch(images_rgb), np.float32)
