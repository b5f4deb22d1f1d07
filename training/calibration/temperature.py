"""Temperature scaling of a network's probabilities."""

import math

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray
from edgeclf.runtime.errors import InputError

# Temperatures above, and below its inverse, are no calibration any more.
_HIGHEST = 20.0
# Of ln T: a network that is over- or underconfident by a factor of e is nothing unusual, one by a factor of 20 is.
_PRIOR_DEVIATION = 1.0
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
    """The temperature for images like these held-out ones, as far as they show that it is not 1.

    Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") takes the temperature T under which
    held-out images are most likely. With few errors among them that is mostly chance: one more or less moves it by a third.
    Here ln T has a normal prior with mean 0 and standard deviation 1, so that images which are all classified correctly
    do not ask for complete certainty, and the most probable value b is then drawn towards 0 by what chance alone makes of
    it: by the factor max(0, 1 - 2 s^2 / b^2), with s its standard error (the positive part of an estimator of James and
    Stein 1961, in one dimension). A temperature beyond chance is hardly changed, one that lies within 1.4 standard errors is
    1.

    The standard error is the larger one of two: of the observed information, and of White's estimator (1982), which also holds
    where dividing by a temperature is not what is wrong with the probabilities.

    Args:
        probabilities: (N, C) float32 of images the network was not fitted to, at temperature 1.
        true_indices: (N,) int, the class of each.

    Returns:
        A temperature from 0.05 to 20; 1 where the images do not show another one.

    Raises:
        InputError: There are no images, or their probabilities are not finite.
    """
    _check("cannot fit a temperature", probabilities)
    logits = _logits(probabilities)
    true = np.asarray(true_indices)[:, None]

    def slopes(inverse: float) -> Float64Array:
        """(N,) derivatives of each image's negative log likelihood in 1 / T: what the network expects of its logits, less what is."""
        slope = (_softmax(logits, inverse) * logits).sum(axis=1) - np.take_along_axis(logits, true, axis=1)[:, 0]
        return np.asarray(slope, np.float64)

    def gradient(log_temperature: float) -> float:
        """Derivative in ln T of the negative log likelihood and the prior's."""
        inverse = math.exp(-log_temperature)
        return log_temperature / _PRIOR_DEVIATION**2 - inverse * float(slopes(inverse).sum())

    low, high = -math.log(_HIGHEST), math.log(_HIGHEST)
    if gradient(0.0) > 0:
        high = 0.0
    else:
        low = 0.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if gradient(middle) > 0 else (middle, high)
    found = (low + high) / 2
    inverse = math.exp(-found)
    chances = _softmax(logits, inverse)
    means = (chances * logits).sum(axis=1, keepdims=True)
    information = inverse**2 * float((chances * (logits - means) ** 2).sum())
    spread = inverse**2 * float((slopes(inverse) ** 2).sum())
    if information <= 0.0 or found == 0.0:
        return 1.0
    variance = max(1 / information, spread / information**2)
    return math.exp(found * max(0.0, 1.0 - 2.0 * variance / found**2))


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
