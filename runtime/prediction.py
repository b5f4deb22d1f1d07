"""Predictions: the classification of one image, read from a model's output, and the threshold below which it is unknown."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.errors import EdgeclfError, InputError, ModelFileError, UsageError
from edgeclf.runtime.spec import UNKNOWN_LABEL, ModelSpec

# What the confidences of a network and of its exported file differ by at most, nearly always.
_NOISE = 2e-6


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


def choose_rejection_threshold(probabilities: FloatArray, false_rejection_rate: float) -> float:
    """The highest threshold that rejects at most the given share of images of known classes.

    It lies midway between the confidences of two images - or just below the lowest, where none may be rejected - and
    never between two that are closer than 4e-6: the last digits, in which a network and its exported file differ, reject
    no other image.

    Args:
        probabilities: (N, C) float32 of validation images; each one's confidence is its largest.
        false_rejection_rate: Share of these that may be below the threshold, from 0 to below 1.

    Returns:
        A confidence from 0 to 1; an image is rejected when its own is below.

    Raises:
        UsageError: The rate is out of range.
        InputError: There are no images, or their probabilities are not finite.
    """
    if not 0.0 <= false_rejection_rate < 1.0:
        raise UsageError("bad false-rejection rate", got=f"{false_rejection_rate:g}", expected="at least 0 and below 1")
    what = "cannot choose a rejection threshold"
    if len(probabilities) == 0:
        raise InputError(what, got="no validation images", expected="at least one")
    if not np.isfinite(probabilities).all():
        raise InputError(what, got="probabilities that are not finite", expected="numbers from 0 to 1")
    confidences = np.sort(probabilities.max(axis=1).astype(np.float64))
    # A rate such as 0.29 of 100 images must allow 29, though the product of floats is below.
    allowed = min(math.floor(false_rejection_rate * len(confidences) + 1e-9), len(confidences) - 1)
    places = np.flatnonzero(np.diff(confidences[: allowed + 1]) >= 2 * _NOISE)
    if len(places) == 0:
        return max(0.0, float(confidences[0]) - _NOISE)
    return float(confidences[places[-1]] + confidences[places[-1] + 1]) / 2


def rejected_share(probabilities: FloatArray, threshold: float) -> float:
    """Share of images whose confidence is below a threshold.

    Args:
        probabilities: (N, C) float32 of one or more images; each one's confidence is its largest.
        threshold: Confidence from 0 to 1.
    """
    return float((probabilities.max(axis=1) < threshold).mean())
