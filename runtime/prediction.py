"""Predictions: the classification of one image, read from a model's output."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.errors import EdgeclfError, ModelFileError
from edgeclf.runtime.spec import UNKNOWN_LABEL, ModelSpec


class LabelConfidence(NamedTuple):
    """A class and its probability, 0..1."""

    label: str
    confidence: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """The classification of one image.

    Attributes:
        label: The most probable class, or `unknown` when `confidence` is below the model's rejection threshold.
        index: The most probable class's position in `labels`, also when it was rejected.
        confidence: Its probability, 0..1.
        probabilities: (C,) float32, in the order of `labels`.
        labels: Class names in the order of the model's output.
        rejected: Whether `confidence` is below the threshold: a class may itself be called `unknown`.
    """

    label: str
    index: int
    confidence: float
    probabilities: FloatArray
    labels: tuple[str, ...]
    rejected: bool = False

    def top_k(self, count: int) -> list[LabelConfidence]:
        """The `count` most probable classes, most probable first, ties in the order of the labels."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [LabelConfidence(self.labels[i], float(self.probabilities[i])) for i in order]


def predictions_from(probabilities: FloatArray, spec: ModelSpec) -> list[Prediction]:
    """Reads a batch of model outputs.

    Args:
        probabilities: (N, C) float32.
        spec: Labels and rejection threshold.

    Returns:
        One prediction a row.

    Raises:
        ModelFileError: A row holds NaN or infinity.
    """
    if not np.isfinite(probabilities).all():
        raise ModelFileError(
            "the model does not give probabilities for this image",
            got="NaN or infinity",
            expected="numbers from 0 to 1",
            hint="check the image; if it is most images, export or train the model again",
        )
    threshold = spec.rejection_threshold
    results = []
    for row, index in zip(probabilities, probabilities.argmax(axis=1).tolist(), strict=True):
        confidence = float(row[index])
        rejected = threshold is not None and confidence < threshold
        label = UNKNOWN_LABEL if rejected else spec.labels[index]
        results.append(Prediction(label, index, confidence, row, spec.labels, rejected))
    return results


def predictions_or_errors(probabilities: FloatArray, spec: ModelSpec) -> "list[Prediction | EdgeclfError]":
    """As `predictions_from`, but a row that holds NaN or infinity gets its error in its place, and the others go on."""
    if np.isfinite(probabilities).all():
        return [*predictions_from(probabilities, spec)]
    results: list[Prediction | EdgeclfError] = []
    for row in probabilities:
        try:
            results += predictions_from(row[None], spec)
        except ModelFileError as error:
            results.append(error)
    return results
