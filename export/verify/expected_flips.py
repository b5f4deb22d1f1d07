"""Expected flips: how many labels change where only chance errors of the measured size move the probabilities.

Rounding moves a score up as easily as down. So the mirror image of each image's errors is as likely as the errors
themselves, and the labels that the mirrored errors would change say how many changes chance alone explains. An image near
the border between two classes may flip either way; a fault flips images for which no such error was measured.
"""

import math
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import AnyArray, Float64Array, IntArray

# Most probable classes of an image that are looked at: a label never changes to one far below.
_RANKS = 5
# Images of the most similar margin whose errors an image could have had as well.
_NEIGHBOURS = 33
# Probabilities below take part with this value: float32 softmax gives 0 for them on one machine and not on another.
_LOWEST_PROBABILITY = 1e-12
# Images whose classes are sorted at once.
_ROWS = 4096
# Flips that one image's errors explain where none was explained: more than those of nearly all networks that flip rarely.
_SCALE_OF_NONE = 0.3
# Two-sided probability outside the interval.
_OUTSIDE = 0.001


@dataclass(frozen=True)
class ExpectedFlips:
    """Images that get another label by chance errors of the measured size, of all images compared.

    Attributes:
        mean: The expected number.
        low: Lower end of the interval that holds the number in 99.9 % of repetitions.
        high: Its upper end.
    """

    mean: float
    low: int
    high: int


def expected_flips(reference: AnyArray, candidate: AnyArray) -> ExpectedFlips:
    """Expected flips from the mirrored errors of log-probabilities, exchanged among images of similar margin.

    Args:
        reference: (N, C) float probabilities of the reference, without NaN.
        candidate: (N, C) float probabilities of the candidate, without NaN.
    """
    count, classes = reference.shape
    if count == 0 or classes < 2:
        return ExpectedFlips(0.0, 0, 0)
    scores, errors = _ranked(reference, candidate)
    order = np.argsort(scores[:, 0] - scores[:, 1], kind="stable")
    scores, errors = scores[order], errors[order]
    neighbours = min(_NEIGHBOURS, count)
    first = np.clip(np.arange(count) - neighbours // 2, 0, count - neighbours)
    # How many flips each image's errors explain.
    explained = np.zeros(count)
    for offset in range(neighbours):
        flipped = (scores - errors[first + offset]).argmax(axis=1) != 0
        np.add.at(explained, (first + offset)[flipped], 1 / neighbours)
    mean = float(explained.sum())
    return ExpectedFlips(mean, *_predictive_interval(mean, float(np.square(explained).sum()), count))


def _ranked(reference: AnyArray, candidate: AnyArray) -> tuple[Float64Array, Float64Array]:
    """(N, R) log-probabilities of the reference's most probable classes, falling, and the candidate's errors of them."""
    ranks = min(_RANKS, reference.shape[1])
    ours, theirs = np.empty((2, len(reference), ranks))
    # Sorting makes indices as large as the probabilities themselves.
    for start in range(0, len(reference), _ROWS):
        rows = slice(start, start + _ROWS)
        classes: IntArray = np.argsort(-reference[rows], axis=1, kind="stable")[:, :ranks]
        for values, ranked in ((reference, ours), (candidate, theirs)):
            chosen = np.take_along_axis(values[rows], classes, axis=1).astype(np.float64)
            ranked[rows] = np.log(np.maximum(chosen, _LOWEST_PROBABILITY))
    return ours, theirs / _confidence_factor(ours, theirs) - ours


def _confidence_factor(ours: Float64Array, theirs: Float64Array) -> float:
    """The factor by which the candidate's margins differ as a whole: like another temperature, that changes no label."""
    mine, other = ours[:, 0] - ours[:, 1], theirs[:, 0] - theirs[:, 1]
    apart = mine > 0
    # A median, so that images that fail for another reason have no part in it.
    return float(np.clip(np.median(other[apart] / mine[apart]), 0.5, 2.0)) if apart.any() else 1.0


def _predictive_interval(mean: float, variance: float, count: int) -> tuple[int, int]:
    """Interval of a Poisson count whose mean was itself estimated, with the given variance.

    A mean with a gamma distribution gives a negative binomial count. Half an event more, as in Jeffreys' prior, keeps the
    interval wider than nothing where no flip was expected.
    """
    scale = variance / mean if mean > 0 else _SCALE_OF_NONE
    shape = mean / scale + 0.5
    # Density of the negative binomial distribution, by recursion.
    density, total, low, number = math.exp(-shape * math.log1p(scale)), 0.0, None, 0
    while number < count:
        total += density
        if low is None and total > _OUTSIDE / 2:
            low = number
        if total >= 1 - _OUTSIDE / 2:
            break
        density *= (shape + number) / (number + 1) * scale / (1 + scale)
        number += 1
    return low or 0, number
