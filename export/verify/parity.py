"""Parity of two models' probabilities on the same images: the figures, the limits, and what a model misses of them.

The figures are measured, the verdict is a pure function of figures and limits, and neither prints.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import AnyArray, IntArray
from edgeclf.runtime.errors import InputError


@dataclass(frozen=True)
class ParityFacts:
    """Figures of one comparison, over all N x C probabilities, computed in float64.

    Attributes:
        split: Which images: `validation`, `test`, or another name for them.
        images: Number of images.
        agreement: Top-1 agreement: fraction of images whose most probable class is the same in both, 0..1.
        max_error: Largest absolute difference of a probability; NaN when either side has a NaN.
        mean_error: Mean absolute difference of the probabilities.
        reference_accuracy: Top-1 accuracy of the reference, None without labels.
        candidate_accuracy: Top-1 accuracy of the candidate, None without labels.
        disagreements: Positions (at most 20) of the images on which the most probable class differs.
    """

    split: str
    images: int
    agreement: float
    max_error: float
    mean_error: float
    reference_accuracy: float | None
    candidate_accuracy: float | None
    disagreements: tuple[int, ...] = ()

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
        document = {"part": document.pop("split"), **document}
        return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in document.items()}


@dataclass(frozen=True)
class ParityLimits:
    """The largest differences that a model may have from its reference.

    Attributes:
        min_agreement: Lowest top-1 agreement, 0..1.
        max_error: Highest absolute probability error, None for any.
        max_accuracy_drop: Highest loss of top-1 accuracy, 0..1; None for any.

    Raises:
        ValueError: The lowest agreement is not between 0 and 1.
    """

    min_agreement: float
    max_error: float | None = None
    max_accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_agreement <= 1.0:
            raise ValueError(f"min_agreement must lie in 0..1, got {self.min_agreement!r}")


FP32_LIMITS = ParityLimits(min_agreement=1.0, max_error=1e-4)
# Rounding moves probabilities, so only decisions count.
INT8_LIMITS = ParityLimits(min_agreement=0.99, max_accuracy_drop=0.01)


def limits_between(precision: str, reference_precision: str, rounded: ParityLimits) -> ParityLimits:
    """The limits between two models: `FP32_LIMITS` where both are fp32, else those given for rounded models."""
    return FP32_LIMITS if precision == reference_precision == "fp32" else rounded


def compare_probabilities(
    reference: AnyArray,
    candidate: AnyArray,
    split: str,
    true_indices: Sequence[int] | IntArray | None = None,
) -> ParityFacts:
    """Compares two models' probabilities on the same images.

    Args:
        reference: (N, C) float probabilities of the reference.
        candidate: (N, C) float probabilities of the model under test, the same images in the same order.
        split: What to call these images.
        true_indices: (N,) index of each image's class, for the accuracies; None leaves them out.

    Returns:
        The figures. A NaN anywhere makes the errors NaN and its image a disagreement.

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
    error = np.abs(a - b)
    damaged = np.isnan(error).any(axis=1)
    same = (a.argmax(axis=1) == b.argmax(axis=1)) & ~damaged
    true = None if true_indices is None else np.asarray(true_indices)
    return ParityFacts(
        split=split,
        images=len(a),
        agreement=float(same.mean()),
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        reference_accuracy=None if true is None else float((a.argmax(axis=1) == true).mean()),
        candidate_accuracy=None if true is None else float(((b.argmax(axis=1) == true) & ~damaged).mean()),
        disagreements=tuple(np.flatnonzero(~same)[:20].tolist()),
    )


def parity_failures(facts: ParityFacts, limits: ParityLimits) -> list[str]:
    """The limits that a model misses, a phrase each; empty when it passes."""
    failures = []
    if facts.agreement < limits.min_agreement:
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
