"""Temperature scaling of a network's probabilities."""

import math

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray
from edgeclf.runtime.errors import InputError

# Temperatures outside are no calibration any more.
_LOWEST, _HIGHEST = 0.05, 20.0
# The smallest float32 above zero, so that a probability that has vanished has a finite logarithm.
_TINY = float(np.finfo(np.float32).tiny)


def with_temperature(probabilities: FloatArray, temperature: float) -> FloatArray:
    """Probabilities of a network whose logits are divided by a temperature before the softmax.

    Args:
        probabilities: (N, C) float32, at temperature 1; their logarithms are the logits up to a constant.
        temperature: Larger than 0; above 1 makes predictions less sure.

    Returns:
        (N, C) float32, rows summing to 1; no two classes of a row change places, though they may come to be equal.
    """
    return np.asarray(_softmax(_logits(probabilities), 1.0 / temperature), np.float32)


def fit_temperature(probabilities: FloatArray, true_indices: IntArray) -> float:
    """The temperature that makes held-out images most likely (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    The negative log likelihood is convex in 1 / T, so that the zero of its derivative is found by bisection. Its targets
    are smoothed as Platt (1999) does it: with N images the true class has (N + 1) / (N + 2), and the others share
    1 / (N + 2). Without that, images which are all classified correctly - few images, or a good network - would ask for
    complete certainty. For two classes these are Platt's targets; for more, what is taken from the true class stays one
    image's worth, because (N + 1) / (N + C) would call every network overconfident that has many classes and few images.

    Args:
        probabilities: (N, C) float32 of images the network was not fitted to, at temperature 1.
        true_indices: (N,) int, the class of each.

    Returns:
        A temperature from 0.05 to 20; 1 where every image has equal probabilities.

    Raises:
        InputError: There are no images, or their probabilities are not finite.
    """
    _check("cannot fit a temperature", probabilities)
    count, classes = probabilities.shape
    logits = _logits(probabilities)
    if float(np.ptp(logits, axis=1).max()) == 0.0:
        return 1.0
    targets = np.full(probabilities.shape, 1.0 / ((count + 2) * (classes - 1)))
    targets[np.arange(count), true_indices] = (count + 1.0) / (count + 2)
    wanted = float((targets * logits).sum())

    def slope(inverse: float) -> float:
        """Derivative of the negative log likelihood in 1 / T: what the network expects of its logits, less what is."""
        return float((_softmax(logits, inverse) * logits).sum()) - wanted

    low, high = 1.0 / _HIGHEST, 1.0 / _LOWEST
    if slope(low) >= 0:
        return _HIGHEST
    if slope(high) <= 0:
        return _LOWEST
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1.0 / math.sqrt(low * high)


def _check(what: str, probabilities: FloatArray) -> None:
    if len(probabilities) == 0:
        raise InputError(what, got="no validation images", expected="at least one")
    if not np.isfinite(probabilities).all():
        raise InputError(what, got="probabilities that are not finite", expected="numbers from 0 to 1")


def _logits(probabilities: FloatArray) -> Float64Array:
    """(N, C) float64 logits of softmax probabilities, the largest of each row 0."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
    return np.asarray(logits - logits.max(axis=1, keepdims=True))


def _softmax(logits: Float64Array, inverse_temperature: float) -> Float64Array:
    powers = np.exp(logits * inverse_temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
