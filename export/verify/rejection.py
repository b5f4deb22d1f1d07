"""The rejection threshold of a rounded file, measured on its own probabilities and fitted to them where it must be."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.prediction import choose_rejection_threshold, rejected_share
from edgeclf.runtime.spec import ModelSpec


@dataclass(frozen=True)
class RejectionFit:
    """Rejected shares of the validation images, and the threshold of a file.

    Attributes:
        false_rejection_rate: Share that the threshold may reject, as asked for in training; None where that is not recorded.
        trained_threshold: The threshold of the trained network.
        reference_rejected: Share that the trained network rejects with it.
        rejected_at_trained: Share that the file would reject with it.
        threshold: The file's own threshold: the trained one where both reject the same share, else fitted by the same rule
            to the file's probabilities.
        rejected: Share that the file rejects with its own.
    """

    false_rejection_rate: float | None
    trained_threshold: float
    reference_rejected: float
    rejected_at_trained: float
    threshold: float
    rejected: float

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


def fit_rejection(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> RejectionFit | None:
    """Measures the rejection threshold of a file on validation images, and fits it anew where it rejects another share.

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
    if before != after and rate is not None:
        threshold = choose_rejection_threshold(candidate, float(rate))
    rejected = rejected_share(candidate, threshold)
    return RejectionFit(None if rate is None else float(rate), trained, before, after, threshold, rejected)
