"""The rejection threshold: chosen on validation images to hold beyond them, and chosen anew for a rounded file."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.runtime.metrics import binomial_tail, binomial_upper_end
from edgeclf.runtime.spec import ModelSpec

# How sure a statement about all images like the ones at hand is.
_CONFIDENCE = 0.95
# What the confidences of a network and of its exported file differ by at most, nearly always.
_NOISE = 2e-6


def choose_rejection_threshold(probabilities: FloatArray, false_rejection_rate: float) -> float:
    """The highest threshold that rejects at most the given share of all images like these, 95 % sure.

    Some share of the images at hand lies below every threshold; of all images like them, about half of the time more.
    The threshold therefore rejects only the largest number k of these N images with P(Binomial(N, rate) <= k) <= 5 %:
    a lower tolerance limit, free of any assumption on how confidences are distributed (Wilks 1941, "Determination of
    sample sizes for setting tolerance limits"), and the same as that the upper end of Clopper and Pearson's one-sided
    interval of k in N is not above the rate. Of fewer images than `fewest_images` even k = 0 promises nothing; the
    threshold is then below all of them.

    Args:
        probabilities: (N, C) float32 of validation images; each one's confidence is its largest.
        false_rejection_rate: Share of all such images that may be below the threshold, from 0 to below 1.

    Returns:
        A confidence from 0 to 1, placed as by `threshold_that_rejects`; an image is rejected when its own is below.

    Raises:
        UsageError: The rate is out of range.
        InputError: There are no images, or their probabilities are not finite.
    """
    if not 0.0 <= false_rejection_rate < 1.0:
        raise UsageError("bad false-rejection rate", got=f"{false_rejection_rate:g}", expected="at least 0 and below 1")
    count = len(probabilities)
    # The chance of at most k grows with k.
    low, high = -1, math.floor(false_rejection_rate * count)
    while low < high:
        middle = (low + high + 1) // 2
        if 1.0 - binomial_tail(middle + 1, count, false_rejection_rate) <= 1 - _CONFIDENCE:
            low = middle
        else:
            high = middle - 1
    return threshold_that_rejects(probabilities, max(0, low))


def fewest_images(false_rejection_rate: float) -> int | None:
    """Number of validation images from which on a threshold can promise a rate, none of them rejected; None for a rate of 0.

    Args:
        false_rejection_rate: From 0 to below 1.
    """
    if false_rejection_rate <= 0.0:
        return None
    return math.ceil(math.log(1 - _CONFIDENCE) / math.log1p(-false_rejection_rate))


def rejected_at_most(probabilities: FloatArray, threshold: float) -> float:
    """Share of all images like these whose confidence is below a threshold, at most, 95 % sure (Clopper & Pearson 1934).

    Args:
        probabilities: (N, C) float32 of one or more images that the network was not fitted to.
        threshold: Confidence from 0 to 1.
    """
    return binomial_upper_end(int((probabilities.max(axis=1) < threshold).sum()), len(probabilities), _CONFIDENCE)


def threshold_that_rejects(probabilities: FloatArray, most: int) -> float:
    """The highest threshold that rejects at most so many images.

    It lies midway between the confidences of two images - or just below the lowest, where none may be rejected - and
    never between two that are closer than 4e-6: the last digits, in which a network and its exported file differ, reject
    no other image.

    Args:
        probabilities: (N, C) float32; the confidence of an image is its largest.
        most: Images that may be below the threshold, from 0; one always stays above.

    Returns:
        A confidence from 0 to 1.

    Raises:
        InputError: There are no images, or their probabilities are not finite.
    """
    what = "cannot choose a rejection threshold"
    if len(probabilities) == 0:
        raise InputError(what, got="no validation images", expected="at least one")
    if not np.isfinite(probabilities).all():
        raise InputError(what, got="probabilities that are not finite", expected="numbers from 0 to 1")
    confidences = np.sort(probabilities.max(axis=1).astype(np.float64))
    places = np.flatnonzero(np.diff(confidences[: most + 1]) >= 2 * _NOISE)
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


@dataclass(frozen=True)
class RejectionFit:
    """Rejected shares of the validation images, and the threshold of a file.

    Attributes:
        false_rejection_rate: Share that the threshold may reject, as asked for in training; None where that is not recorded.
        trained_threshold: The threshold of the trained network.
        reference_rejected: Share that the trained network rejects with it.
        rejected_at_trained: Share that the file would reject with it.
        threshold: The file's own threshold: the trained one where both reject the same share, else one that rejects as many
            of the images as the trained network, or fewer.
        rejected: Share that the file rejects with its own.
        rejected_at_most: Share of all such images that the file rejects at most, 95 % sure.
    """

    false_rejection_rate: float | None
    trained_threshold: float
    reference_rejected: float
    rejected_at_trained: float
    threshold: float
    rejected: float
    rejected_at_most: float

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


def fit_rejection(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> RejectionFit | None:
    """Measures the rejection threshold of a file on validation images, and chooses another where it rejects another share.

    Args:
        spec: The spec of the file with the threshold of the training.
        reference: (N, C) float32 probabilities of the trained network.
        candidate: (N, C) float32 probabilities of the file, for the same images.

    Returns:
        The threshold; None where the spec has none, or where a probability of the file is not finite.
    """
    trained = spec.rejection_threshold
    if trained is None or not np.isfinite(candidate).all():
        return None
    rate = (spec.training.get("calibration") or {}).get("false_rejection_rate")
    before, after = rejected_share(reference, trained), rejected_share(candidate, trained)
    threshold = trained
    if before != after:
        threshold = threshold_that_rejects(candidate, round(before * len(reference)))
    return RejectionFit(
        false_rejection_rate=None if rate is None else float(rate),
        trained_threshold=trained,
        reference_rejected=before,
        rejected_at_trained=after,
        threshold=threshold,
        rejected=rejected_share(candidate, threshold),
        rejected_at_most=rejected_at_most(candidate, threshold),
    )
