"""Relation of two models' answers over the same images: whether the one answers as the other does, or as if it saw no image.

Errors of any size are explained by something. What remains of a file that computes nonsense, or always the same, is that its
answers do not follow the other's from image to image: neither the labels, beyond what chance gives, nor the probabilities.
"""

import math
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import Float64Array, IntArray
from edgeclf.runtime.metrics import Z_95

# Variation of the probabilities relative to their mean that rounding makes, as measured: of answers that vary less over the
# images, such as to the frames of one scene, nothing is left beside it.
ROUNDING_VARIATION = 0.12
# A range of probabilities below is none: float32 sums in another order differ by as much.
_NO_RANGE = 1e-6
# Images that the correlation is computed on, spread evenly: its interval is narrow then, and the sums stay small.
_MOST_IMAGES = 1024


@dataclass(frozen=True)
class Relation:
    """How a candidate's answers go with the reference's over the images.

    Attributes:
        chance_agreement: Share of images that would get the same label if each side gave its labels as often as it does and
            to images drawn by lot, 0..1 (Cohen 1960); 1 without images.
        correlation: Correlation of the two sides' probabilities over the images, of all classes together, -1..1; 0 where the
            candidate's do not vary. None where the reference's vary less than `ROUNDING_VARIATION`, and for a single class.
        correlation_high: Upper end of its 95 % interval; None where there is no correlation.
    """

    chance_agreement: float
    correlation: float | None = None
    correlation_high: float | None = None


def relation_of(reference: Float64Array, candidate: Float64Array) -> Relation:
    """The relation of two models' probabilities.

    Args:
        reference: (N, C) float64 probabilities of the reference, all finite.
        candidate: (N, C) float64 probabilities of the candidate, all finite.
    """
    count, classes = reference.shape
    if count == 0:
        return Relation(1.0)
    ours, theirs = (np.bincount(side.argmax(axis=1), minlength=classes) / count for side in (reference, candidate))
    chance = float(ours @ theirs)
    chosen: IntArray = np.unique(np.linspace(0, count - 1, min(count, _MOST_IMAGES)).astype(np.int64))
    one, other = reference[chosen], candidate[chosen]
    if len(chosen) < 2 or classes < 2 or _variation(one) < ROUNDING_VARIATION:
        return Relation(chance)
    correlation, error = _correlation(one - one.mean(axis=0), other - other.mean(axis=0))
    return Relation(chance, correlation, min(1.0, correlation + Z_95 * error))


def _variation(probabilities: Float64Array) -> float:
    """Root mean square of the chi-squared distances of the images' probabilities from their mean.

    Where all probabilities vary by the same factor, it is the variation of that factor.
    """
    mean = probabilities.mean(axis=0)
    seen = mean > 0
    return math.sqrt(float((np.square(probabilities - mean)[:, seen] / mean[seen]).sum() / len(probabilities)))


def _correlation(one: Float64Array, other: Float64Array) -> tuple[float, float]:
    """The correlation of two (N, C) arrays whose columns have mean 0, and its standard deviation over exchanged images.

    Exchanging the images of one side at random gives the sum of products the variance tr(A'A B'B) / (N - 1).
    """
    if np.ptp(other, axis=0).max() < _NO_RANGE:
        # By the reference alone: nothing varies that could be exchanged.
        return 0.0, _deviation(one, one)
    return float((one * other).sum() / (_norm(one) * _norm(other))), _deviation(one, other)


def _deviation(one: Float64Array, other: Float64Array) -> float:
    count, classes = one.shape
    # The same sum, by the smaller products.
    terms = (one.T @ one) * (other.T @ other) if classes < count else np.square(one @ other.T)
    return math.sqrt(max(0.0, float(terms.sum())) / (count - 1)) / (_norm(one) * _norm(other))


def _norm(values: Float64Array) -> float:
    return math.sqrt(float(np.square(values).sum()))
