"""Calibration: temperature and rejection threshold fitted on validation images, their effect reported on both splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeclf.export.verify.rejection import choose_rejection_threshold, rejected_at_most, rejected_share
from edgeclf.runtime.arrays import FloatArray, IntArray
from edgeclf.runtime.metrics import expected_calibration_error
from edgeclf.training.calibration.temperature import fit_temperature, with_temperature
from edgeclf.training.data.dataset import Split
from edgeclf.training.fit.loop import cross_entropy

Scored = tuple[FloatArray, IntArray]


@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """Temperature and rejection threshold, with calibration error before and after.

    Attributes:
        temperature: Divisor of the logits.
        rejection_threshold: Confidence below which a prediction is called unknown; None for none.
        false_rejection_rate: Share of all images like the validation images that may be rejected; None for no threshold.
        rejected: Share of the images of each split below the threshold.
        rejected_at_most: Share of all such images below the threshold, at most, 95 % sure; above the rate where there are
            too few validation images to promise that. None for no threshold.
        validation_ece: Expected calibration error on validation images, before and after.
        test_ece: The same on test images; None where there are none.
        validation_nll: Mean negative log likelihood of validation images in nats, before and after.
        test_nll: The same on test images; None where there are none.
        uncalibrated: (n, C) float32 probabilities of each split at temperature 1.
        probabilities: (n, C) float32 probabilities of each split at the temperature.
        true_indices: (n,) the class of each image of each split.
    """

    temperature: float
    rejection_threshold: float | None
    false_rejection_rate: float | None
    rejected: Mapping[Split, float]
    rejected_at_most: float | None
    validation_ece: tuple[float, float]
    test_ece: tuple[float, float] | None
    validation_nll: tuple[float, float]
    test_nll: tuple[float, float] | None
    uncalibrated: Mapping[Split, FloatArray]
    probabilities: Mapping[Split, FloatArray]
    true_indices: Mapping[Split, IntArray]

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""

        def pair(values: tuple[float, float] | None) -> dict[str, float] | None:
            return None if values is None else {"before": values[0], "after": values[1]}

        return {
            "temperature": self.temperature,
            "validation_expected_calibration_error": pair(self.validation_ece),
            "test_expected_calibration_error": pair(self.test_ece),
            "validation_negative_log_likelihood": pair(self.validation_nll),
            "test_negative_log_likelihood": pair(self.test_nll),
            "rejection_threshold": self.rejection_threshold,
            "false_rejection_rate": self.false_rejection_rate,
            "rejected": dict(self.rejected),
            "rejected_at_most": self.rejected_at_most,
        }


def calibrate(scored: Mapping[Split, Scored], false_rejection_rate: float | None) -> CalibrationResult:
    """Fits temperature and rejection threshold on the validation images.

    Args:
        scored: For `val`, and `test` where there is one, (n, C) float32 probabilities and (n,) true classes.
        false_rejection_rate: Share of all images like the validation images that may be rejected, see
            `choose_rejection_threshold`; None for no threshold.
    """
    temperature = fit_temperature(*scored["val"])
    after = {split: with_temperature(values, temperature) for split, (values, _) in scored.items()}
    threshold = None
    if false_rejection_rate is not None:
        threshold = choose_rejection_threshold(after["val"], false_rejection_rate)
    errors = {split: (_error(values, true), _error(after[split], true)) for split, (values, true) in scored.items()}
    likelihoods = {
        split: (cross_entropy(values, true), cross_entropy(after[split], true))
        for split, (values, true) in scored.items()
    }
    return CalibrationResult(
        temperature=temperature,
        rejection_threshold=threshold,
        false_rejection_rate=false_rejection_rate,
        rejected={}
        if threshold is None
        else {split: rejected_share(values, threshold) for split, values in after.items()},
        rejected_at_most=None if threshold is None else rejected_at_most(after["val"], threshold),
        validation_ece=errors["val"],
        test_ece=errors.get("test"),
        validation_nll=likelihoods["val"],
        test_nll=likelihoods.get("test"),
        uncalibrated={split: values for split, (values, _) in scored.items()},
        probabilities=after,
        true_indices={split: true for split, (_, true) in scored.items()},
    )


def _error(probabilities: FloatArray, true_indices: IntArray) -> float:
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == true_indices)
