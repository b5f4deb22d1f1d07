"""Parity of two models' probabilities on the same images: the figures, the limits, and what a model misses of them.

The figures are measured, the verdict is a pure function of figures and limits, and neither prints.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeclf.export.verify.expected_flips import expected_flips
from edgeclf.export.verify.relation import relation_of
from edgeclf.runtime.arrays import AnyArray, BoolArray, Float64Array, IntArray
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.metrics import Z_95, paired_accuracy_interval, wilson_interval

# Of an image whose two largest probabilities differ by more the reference is sure: no rounding error may change its label.
SURE_MARGIN = 0.3
# Two probabilities that differ by less are equal: float32 sums in another order differ by as much.
TIE_MARGIN = 1e-4


@dataclass(frozen=True)
class ParityFacts:
    """Figures of one comparison, over all N x C probabilities, computed in float64.

    Attributes:
        split: Which images: `validation`, `test`, or another name for them.
        images: Number of images.
        agreement: Top-1 agreement: fraction of images whose most probable class is the same in both, 0..1.
        max_error: Largest absolute difference of a probability; NaN when either side has a NaN or an infinity.
        mean_error: Mean absolute difference of the probabilities.
        reference_accuracy: Top-1 accuracy of the reference, None without labels.
        candidate_accuracy: Top-1 accuracy of the candidate, None without labels.
        disagreements: Positions (at most 20) of the images on which the most probable class differs.
        tied_flips: Disagreements on classes that the reference gives probabilities less than `TIE_MARGIN` apart.
        sure_images: Images of which the reference is sure: its two largest probabilities differ by more than `SURE_MARGIN`.
            None, like the figures below, in figures of an earlier edgeclf.
        sure_flips: Disagreements among these.
        harmful_flips: Images that the reference classifies correctly and the candidate does not; None without labels.
        beneficial_flips: Images that the candidate classifies correctly and the reference does not; None without labels.
        expected_flips: Disagreements that chance errors of the measured size explain, see `expected_flips.py`.
        expected_flips_low: Lower end of the interval that holds their number in 99.9 % of repetitions.
        expected_flips_high: Its upper end.
        decision_agreement: Fraction of images with the same label and on the same side of the rejection threshold; None
            without a threshold.
        reference_rejected: Fraction of images that the reference rejects; None without a threshold.
        candidate_rejected: The same of the candidate.
        reference_range: Largest range of a class's probability over the images: close to 0 where the reference gives all
            images the same. None for a single class, and in figures of an earlier edgeclf.
        far_flips: Disagreements where the difference of the probabilities of the two labels moves by more than `SURE_MARGIN`:
            those of all images of which either side is sure, among others.
        chance_agreement: Agreement of a candidate that gives each label as often and looks at no image, see `relation.py`.
        correlation: Correlation of the two sides' probabilities over the images, -1..1; None where those of the reference
            vary no more than rounding moves them.
        correlation_high: Upper end of its 95 % interval.
    """

    split: str
    images: int
    agreement: float
    max_error: float
    mean_error: float
    reference_accuracy: float | None
    candidate_accuracy: float | None
    disagreements: tuple[int, ...] = ()
    tied_flips: int = 0
    sure_images: int | None = None
    sure_flips: int | None = None
    harmful_flips: int | None = None
    beneficial_flips: int | None = None
    expected_flips: float | None = None
    expected_flips_low: int | None = None
    expected_flips_high: int | None = None
    decision_agreement: float | None = None
    reference_rejected: float | None = None
    candidate_rejected: float | None = None
    reference_range: float | None = None
    far_flips: int | None = None
    chance_agreement: float | None = None
    correlation: float | None = None
    correlation_high: float | None = None

    @property
    def flips(self) -> int:
        """Number of images on which the most probable class differs."""
        return round((1 - self.agreement) * self.images)

    @property
    def sure_agreement(self) -> float | None:
        """Top-1 agreement on the images of which the reference is sure; None where there are none."""
        return None if not self.sure_images or self.sure_flips is None else 1 - self.sure_flips / self.sure_images

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa of the labels, the agreement beyond chance: 0 is chance, 1 all; None where both give one label only."""
        return self._beyond_chance(self.agreement)

    @property
    def kappa_high(self) -> float | None:
        """Upper end of its 95 % interval, that of the agreement; None where there is no kappa."""
        return self._beyond_chance(self.agreement_interval[1])

    def _beyond_chance(self, agreement: float) -> float | None:
        chance = self.chance_agreement
        return None if chance is None or chance >= 1 - 1e-9 else (agreement - chance) / (1 - chance)

    @property
    def accuracy_drop_interval(self) -> tuple[float, float] | None:
        """95 % interval of the accuracy drop from the two kinds of flips; None where they are not known."""
        if self.harmful_flips is None or self.beneficial_flips is None:
            return None
        return paired_accuracy_interval(self.harmful_flips, self.beneficial_flips, self.images)

    @property
    def agreement_interval(self) -> tuple[float, float]:
        """95 % interval of the agreement, by Wilson's score."""
        return self._interval(self.agreement)

    @property
    def reference_accuracy_interval(self) -> tuple[float, float] | None:
        """95 % interval of the reference's accuracy; None without labels."""
        return None if self.reference_accuracy is None else self._interval(self.reference_accuracy)

    @property
    def candidate_accuracy_interval(self) -> tuple[float, float] | None:
        """95 % interval of the candidate's accuracy; None without labels."""
        return None if self.candidate_accuracy is None else self._interval(self.candidate_accuracy)

    def _interval(self, share: float) -> tuple[float, float]:
        return wilson_interval(round(share * self.images), self.images, z=Z_95)

    @property
    def expected_agreement(self) -> tuple[float, float, float] | None:
        """Agreement that errors of the measured size let expect, and its 99.9 % interval; None where it is not known."""
        if self.expected_flips is None or self.expected_flips_low is None or self.expected_flips_high is None:
            return None
        flips = (self.expected_flips, self.expected_flips_high, self.expected_flips_low)
        mean, low, high = (1 - count / self.images for count in flips)
        return mean, low, high

    @property
    def accuracy_drop(self) -> float | None:
        """Reference accuracy less candidate accuracy: positive where the candidate is worse; None without labels."""
        if self.reference_accuracy is None or self.candidate_accuracy is None:
            return None
        return self.reference_accuracy - self.candidate_accuracy

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values, without the positions; a NaN error is null."""
        document = asdict(self)
        del document["disagreements"]
        expected = self.expected_agreement
        document = {
            "part": document.pop("split"),
            **document,
            "sure_agreement": self.sure_agreement,
            "agreement_interval": [*self.agreement_interval],
            "reference_accuracy_interval": _listed(self.reference_accuracy_interval),
            "candidate_accuracy_interval": _listed(self.candidate_accuracy_interval),
            "accuracy_drop": self.accuracy_drop,
            "accuracy_drop_interval": _listed(self.accuracy_drop_interval),
            "kappa": self.kappa,
            "expected_agreement": None if expected is None else expected[0],
            "expected_agreement_interval": None if expected is None else [*expected[1:]],
        }
        return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in document.items()}


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [*interval]


@dataclass(frozen=True)
class ParityLimits:
    """The largest differences that a model may have from its reference.

    Attributes:
        min_agreement: Lowest top-1 agreement, 0..1.
        max_error: Highest absolute probability error, None for any.
        max_accuracy_drop: Highest loss of top-1 accuracy, 0..1; None for any.
        ignores_ties: Whether a disagreement on two equal probabilities, less than `TIE_MARGIN` apart, counts as none.

    Raises:
        ValueError: The lowest agreement is not between 0 and 1.
    """

    min_agreement: float
    max_error: float | None = None
    max_accuracy_drop: float | None = None
    ignores_ties: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_agreement <= 1.0:
            raise ValueError(f"min_agreement must lie in 0..1, got {self.min_agreement!r}")


FP32_LIMITS = ParityLimits(min_agreement=1.0, max_error=TIE_MARGIN, ignores_ties=True)
# Rounding moves probabilities, so only decisions count. What asks for no other limits is judged by `verdict.GateRule`.
INT8_LIMITS = ParityLimits(min_agreement=0.99, max_accuracy_drop=0.01)


def compare_probabilities(
    reference: AnyArray,
    candidate: AnyArray,
    split: str,
    true_indices: Sequence[int] | IntArray | None = None,
    *,
    rejection_thresholds: tuple[float | None, float | None] = (None, None),
) -> ParityFacts:
    """Compares two models' probabilities on the same images.

    Args:
        reference: (N, C) float probabilities of the reference.
        candidate: (N, C) float probabilities of the model under test, the same images in the same order.
        split: What to call these images.
        true_indices: (N,) index of each image's class, for the accuracies; None leaves them out.
        rejection_thresholds: Confidence below which the reference, and the candidate, calls an image unknown; None where it
            accepts everything.

    Returns:
        The figures. A NaN or an infinity anywhere makes the errors NaN and its image a disagreement.

    Raises:
        InputError: There are no images, or the shapes differ: an empty comparison is no pass.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or reference.size == 0:
        raise InputError(
            f"cannot compare the models on the {split} images",
            got=f"outputs of shapes {reference.shape} and {candidate.shape}",
            expected="the same shape (N, classes) with at least one image",
            hint="check the data and that both models have the same classes",
        )
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    for side in (a, b):
        # No probability either: what runs the file refuses both.
        side[np.isinf(side)] = np.nan
    error = np.abs(a - b)
    damaged = np.isnan(error).any(axis=1)
    before, after = a.argmax(axis=1), b.argmax(axis=1)
    same = (before == after) & ~damaged
    rows = np.arange(len(a))
    flipped_by = a[rows, before] - a[rows, after]
    moved_by = flipped_by + b[rows, after] - b[rows, before]
    sure = _margins(a) > SURE_MARGIN
    expected = expected_flips(a[~damaged], b[~damaged])
    relation = relation_of(a[~damaged], b[~damaged])
    true = None if true_indices is None else np.asarray(true_indices)
    right_before, right_after = (None, None) if true is None else (before == true, (after == true) & ~damaged)
    return ParityFacts(
        split=split,
        images=len(a),
        agreement=float(same.mean()),
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        reference_accuracy=None if right_before is None else float(right_before.mean()),
        candidate_accuracy=None if right_after is None else float(right_after.mean()),
        disagreements=tuple(np.flatnonzero(~same)[:20].tolist()),
        tied_flips=int((~same & ~damaged & (flipped_by < TIE_MARGIN)).sum()),
        sure_images=int(sure.sum()),
        sure_flips=int((sure & ~same).sum()),
        harmful_flips=_count_only_first(right_before, right_after),
        beneficial_flips=_count_only_first(right_after, right_before),
        expected_flips=expected.mean,
        expected_flips_low=expected.low,
        expected_flips_high=expected.high,
        reference_range=float(np.ptp(a, axis=0).max()) if a.shape[1] > 1 else None,
        far_flips=int((~same & ~(moved_by <= SURE_MARGIN)).sum()),
        chance_agreement=relation.chance_agreement,
        correlation=relation.correlation,
        correlation_high=relation.correlation_high,
        **_decisions(a, b, same, rejection_thresholds),
    )


def _margins(probabilities: Float64Array) -> Float64Array:
    """(N,) difference of the two largest probabilities of each image; 1 for a single class."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    largest = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.asarray(largest[:, 1] - largest[:, 0])


def _count_only_first(one: BoolArray | None, other: BoolArray | None) -> int | None:
    return None if one is None or other is None else int((one & ~other).sum())


def _decisions(
    reference: Float64Array, candidate: Float64Array, same: BoolArray, thresholds: tuple[float | None, float | None]
) -> dict[str, float]:
    """Decision agreement and rejected fractions; empty where neither model rejects."""
    if thresholds == (None, None):
        return {}
    before, after = (
        values.max(axis=1) < (-1.0 if threshold is None else threshold)
        for values, threshold in zip((reference, candidate), thresholds, strict=True)
    )
    # Two images that are both called unknown get the same answer, whatever their most probable classes are.
    agree = (before & after) | (same & (before == after))
    return {
        "decision_agreement": float(agree.mean()),
        "reference_rejected": float(before.mean()),
        "candidate_rejected": float(after.mean()),
    }


def parity_failures(facts: ParityFacts, limits: ParityLimits) -> list[str]:
    """The limits that a model misses, a phrase each; empty when it passes."""
    failures = []
    forgiven = facts.tied_flips / facts.images if limits.ignores_ties else 0.0
    # The tolerance only absorbs the rounding of the sum of two quotients.
    if facts.agreement + (forgiven + 1e-12 if forgiven else 0.0) < limits.min_agreement:
        failures.append(
            f"top-1 agreement {facts.agreement:.4f} on {facts.images} {facts.split} images, "
            f"at least {limits.min_agreement:g} required"
        )
    # Written so that NaN, which compares false with everything, fails.
    if math.isnan(facts.max_error) or (limits.max_error is not None and not facts.max_error <= limits.max_error):
        allowed = "a number" if limits.max_error is None else f"at most {limits.max_error:g}"
        failures.append(f"largest probability error {facts.max_error:.3g} on {facts.split} images, {allowed} required")
    drop = facts.accuracy_drop
    # Accuracies are counts divided by the image count; the tolerance only absorbs the rounding of that division.
    if limits.max_accuracy_drop is not None and drop is not None and drop > limits.max_accuracy_drop + 1e-9:
        failures.append(
            f"accuracy falls by {drop:.4f} on {facts.split} images, at most {limits.max_accuracy_drop:g} allowed"
        )
    return failures
