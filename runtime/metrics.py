"""Classification metrics on labelled images: accuracy, per-class figures, confusion, calibration, intervals."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import AnyArray, BoolArray, Float64Array, IntArray
from edgeclf.runtime.errors import InputError

CALIBRATION_BINS = 15
# Quantile of the normal distribution for a two-sided interval of 95 %.
Z_95 = 1.959964


@dataclass(frozen=True)
class ClassFigures:
    """Precision, recall and F1 of one class.

    Attributes:
        label: Its name.
        support: Images of this class.
        precision: Share of the images given this label that are of this class; None where none was given it.
        recall: Share of this class's images that were given this label; None where there is no image of it.
        f1: Harmonic mean of the two, 2 TP / (2 TP + FP + FN); None where the class neither occurs nor is predicted.
    """

    label: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, eq=False)
class ClassificationReport:
    """Metrics of a classifier over a set of labelled images.

    Attributes:
        count: Number of images.
        accuracy: Top-1 accuracy, 0..1.
        macro_f1: Mean F1 of the classes that occur or were predicted.
        expected_calibration_error: Mean gap between confidence and accuracy over 15 equal-width confidence bins,
            weighted by their number of images (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3).
        per_class: One entry a class, in the order of the labels.
        confusion: (C, C) int64 counts, rows the true class, columns the predicted one.
    """

    count: int
    accuracy: float
    macro_f1: float
    expected_calibration_error: float
    per_class: tuple[ClassFigures, ...]
    confusion: IntArray

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of rows and columns of the confusion matrix."""
        return tuple(figures.label for figures in self.per_class)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, by Wilson's score."""
        return wilson_interval(round(self.accuracy * self.count), self.count, z=Z_95)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {
            "count": self.count,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "macro_f1": self.macro_f1,
            "expected_calibration_error": self.expected_calibration_error,
            "per_class": [asdict(figures) for figures in self.per_class],
            "labels": list(self.labels),
            "confusion": self.confusion.tolist(),
        }


def classification_report(
    probabilities: AnyArray, true_indices: Sequence[int] | AnyArray, labels: Sequence[str]
) -> ClassificationReport:
    """The metrics of a classifier's probabilities.

    Args:
        probabilities: (N, C) float, rows in the order of `true_indices`.
        true_indices: (N,) int, each image's class as a position in `labels`.
        labels: The C class names.

    Raises:
        InputError: There are no images, the shapes do not fit, an index is out of range, or a probability is not finite.
    """
    true = np.asarray(true_indices, np.int64)
    classes = len(labels)
    if true.ndim != 1:
        raise InputError("cannot measure accuracy", got=f"class indices of shape {true.shape}", expected="(N,)")
    if probabilities.ndim != 2 or probabilities.shape != (len(true), classes) or len(true) == 0:
        raise InputError(
            "cannot measure accuracy",
            got=f"probabilities {probabilities.shape} for {len(true)} images",
            expected=f"(N, {classes}) with at least one image",
        )
    if not np.isfinite(probabilities).all():
        raise InputError("cannot measure accuracy", got="probabilities that are not finite", expected="0..1")
    if true.min() < 0 or true.max() >= classes:
        raise InputError(
            "cannot measure accuracy", got=f"class indices {true.min()}..{true.max()}", expected=f"0..{classes - 1}"
        )
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    per_class = tuple(_class_figures(label, index, confusion) for index, label in enumerate(labels))
    scores = [figures.f1 for figures in per_class if figures.f1 is not None]
    correct = predicted == true
    return ClassificationReport(
        count=len(true),
        accuracy=float(correct.mean()),
        macro_f1=float(np.mean(scores)),
        expected_calibration_error=expected_calibration_error(probabilities.max(axis=1), correct),
        per_class=per_class,
        confusion=confusion,
    )


def expected_calibration_error(confidences: AnyArray, correct: BoolArray) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, eq. 3).

    Args:
        confidences: (N,) float, the probability of each predicted class, 0..1.
        correct: (N,) bool, whether that class is the true one.

    Raises:
        InputError: There are no images.
    """
    if len(confidences) == 0:
        raise InputError("cannot measure the calibration error", got="no images", expected="at least one")
    bins = _bin_indices(confidences)
    gaps = np.bincount(bins, weights=correct - confidences.astype(np.float64), minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def calibration_bins(confidences: AnyArray, correct: BoolArray) -> tuple[IntArray, Float64Array, Float64Array]:
    """The bins of a reliability diagram, those of `expected_calibration_error`.

    Args:
        confidences: (N,) float, the probability of each predicted class, 0..1.
        correct: (N,) bool, whether that class is the true one.

    Returns:
        For each of the 15 bins, by rising confidence: images, mean confidence, share that is correct; NaN for a mean or
        share of none.
    """
    bins = _bin_indices(confidences)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):
        means = np.bincount(bins, weights=confidences.astype(np.float64), minlength=CALIBRATION_BINS) / counts
        shares = np.bincount(bins, weights=correct.astype(np.float64), minlength=CALIBRATION_BINS) / counts
    return counts, means, shares


def wilson_interval(hits: float, count: int, *, z: float) -> tuple[float, float]:
    """Wilson's score interval of a binomial share, as its lower and upper end.

    Unlike the normal approximation it holds near 0 and 1, and for few observations (E. B. Wilson, Probable inference,
    the law of succession, and statistical inference, JASA 22, 1927).

    Args:
        hits: Successes; a fraction where the share is assumed and not counted.
        count: Trials; 0 gives (0, 1).
        z: Two-sided quantile of the normal distribution, such as `Z_95`.
    """
    if not count:
        return 0.0, 1.0
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # The ends are exact where nothing, or everything, is a hit; rounding must not put them inside.
    return (max(0.0, centre - half) if hits else 0.0), (min(1.0, centre + half) if hits < count else 1.0)


def binomial_tail(hits: int, count: int, share: float) -> float:
    """Probability of at least so many hits in trials that each hit with the given probability.

    Args:
        hits: Successes; 0 or less gives 1.
        count: Trials.
        share: Probability of a success, between 0 and 1.
    """
    if hits <= 0:
        return 1.0
    if not 0.0 < share < 1.0:
        return 1.0 if share >= 1.0 and hits <= count else 0.0
    log_share, log_rest = math.log(share), math.log1p(-share)

    def density(k: int) -> float:
        ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        return math.exp(ways + k * log_share + (count - k) * log_rest)

    def tail(numbers: range) -> float:
        total = 0.0
        # From the largest term on, so that the sum is complete long before the last of millions.
        for k in numbers:
            term = density(k)
            total += term
            if term <= 1e-17 * total:
                break
        return total

    # The shorter tail is summed.
    if hits > count * share:
        return min(1.0, tail(range(hits, count + 1)))
    return max(0.0, 1.0 - tail(range(hits - 1, -1, -1)))


def binomial_upper_end(hits: int, count: int, confidence: float) -> float:
    """Upper end of Clopper and Pearson's one-sided interval of a binomial share (Biometrika 26, 1934).

    Of all shares the true one is above it in at most 1 - confidence of repetitions, also of few trials.

    Args:
        hits: Successes, from 0 to `count`.
        count: Trials.
        confidence: Below 1.
    """
    low, high = (hits / count, 1.0) if count else (1.0, 1.0)
    while hits < count and high - low > 1e-9:
        middle = (low + high) / 2
        # As few successes or fewer are no rarity yet.
        if 1.0 - binomial_tail(hits + 1, count, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def paired_accuracy_interval(harmful: int, beneficial: int, images: int, *, z: float = Z_95) -> tuple[float, float]:
    """Score interval of an accuracy drop between two classifiers of the same images, as its lower and upper end.

    The drop is (harmful - beneficial) / images; images that both classify correctly, or both wrongly, tell nothing of its
    sign. Tango's interval holds for few flips and for none, where the normal approximation has no width (T. Tango,
    Equivalence test and confidence interval for the difference in proportions for the paired-sample design, Statistics in
    Medicine 17, 1998). With `Z_95` the drop lies above the upper end in about 2.5 % of repetitions.

    Args:
        harmful: Images that the reference classifies correctly and the candidate does not.
        beneficial: Images that the candidate classifies correctly and the reference does not.
        images: All images, also those without a flip; 0 gives (-1, 1).
        z: Two-sided quantile of the normal distribution.

    Raises:
        ValueError: A count is negative, or there are more flips than images.
    """
    if min(harmful, beneficial) < 0 or harmful + beneficial > images:
        raise ValueError(f"{harmful} harmful and {beneficial} beneficial flips of {images} images are no paired counts")
    low = -_highest_drop(beneficial, harmful, images, z)
    return low, _highest_drop(harmful, beneficial, images, z)


def _highest_drop(harmful: int, beneficial: int, images: int, z: float) -> float:
    """The largest drop that the counts do not reject, by bisection: the score falls as the assumed drop rises."""
    low, high = (harmful - beneficial) / images if images else 0.0, 1.0
    if not images:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _paired_score(harmful, beneficial, images, middle) > -z else (low, middle)
    return high


def _paired_score(harmful: int, beneficial: int, images: int, drop: float) -> float:
    """Tango's score statistic of the hypothesis that the drop is the given one, larger than measured and below 1."""
    # The likeliest probability of a beneficial flip, given the drop, is the root of a quadratic equation (Tango 1998, eq. 7).
    linear = (2 * images - harmful + beneficial) * drop - harmful - beneficial
    constant = -beneficial * drop * (1 - drop)
    root = (math.sqrt(linear * linear - 8 * images * constant) - linear) / (4 * images)
    variance = images * (2 * max(root, 0.0) + drop * (1 - drop))
    return (harmful - beneficial - images * drop) / math.sqrt(max(variance, 1e-300))


def _bin_indices(confidences: AnyArray) -> IntArray:
    # Bins are (lower, upper], as in the paper; a confidence of exactly 0 joins the first.
    bins = np.clip(np.ceil(confidences.astype(np.float64) * CALIBRATION_BINS).astype(np.int64) - 1, 0, None)
    return np.minimum(bins, CALIBRATION_BINS - 1)


def _class_figures(label: str, index: int, confusion: IntArray) -> ClassFigures:
    hits = int(confusion[index, index])
    support, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
    return ClassFigures(
        label=label,
        support=support,
        precision=hits / predicted if predicted else None,
        recall=hits / support if support else None,
        f1=2 * hits / (support + predicted) if support + predicted else None,
    )
