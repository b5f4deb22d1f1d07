import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.export.verify.rejection import fit_rejection
from edgeclf.runtime.prediction import choose_rejection_threshold
from edgeclf.runtime.spec import ModelSpec, Preprocess


def spec_with(threshold, rate=0.1):
    training = {"calibration": {"false_rejection_rate": rate}}
    return ModelSpec(("a", "b"), Preprocess((8, 8)), rejection_threshold=threshold, training=training)


def with_confidences(confidences):
    top = np.asarray(confidences, np.float32)
    return np.stack([top, 1 - top], axis=1)


REFERENCE = with_confidences(np.linspace(0.55, 0.99, 20))
TRAINED = choose_rejection_threshold(REFERENCE, 0.1)


def test_a_file_that_rejects_the_same_share_keeps_the_threshold():
    fit = fit_rejection(spec_with(TRAINED), REFERENCE, REFERENCE - np.float32(1e-3))
    assert (fit.threshold, fit.trained_threshold, fit.false_rejection_rate) == (TRAINED, TRAINED, 0.1)
    assert fit.reference_rejected == fit.rejected_at_trained == fit.rejected == 0.1


@given(st.floats(0.5, 0.95))
def test_a_less_confident_file_gets_a_threshold_of_its_own_by_the_same_rule(factor):
    candidate = with_confidences(0.5 + factor * (np.linspace(0.55, 0.99, 20) - 0.5))
    fit = fit_rejection(spec_with(TRAINED), REFERENCE, candidate)
    if fit.rejected_at_trained != 0.1:
        assert fit.rejected_at_trained > 0.1
        assert fit.threshold == choose_rejection_threshold(candidate, 0.1) < TRAINED
    assert fit.rejected == 0.1
    assert fit.to_json()["reference_rejected"] == 0.1


@pytest.mark.parametrize("training", [{}, {"calibration": None}, {"calibration": {"false_rejection_rate": None}}])
def test_without_a_recorded_rate_the_share_is_measured_and_nothing_fitted(training):
    spec = spec_with(TRAINED).with_changes(training=training)
    fit = fit_rejection(spec, REFERENCE, with_confidences(np.full(20, 0.5)))
    assert (fit.threshold, fit.false_rejection_rate, fit.rejected) == (TRAINED, None, 1.0)


def test_no_threshold_and_no_numbers_are_not_fitted():
    assert fit_rejection(spec_with(None), REFERENCE, REFERENCE) is None
    damaged = REFERENCE.copy()
    damaged[3, 1] = np.nan
    assert fit_rejection(spec_with(TRAINED), REFERENCE, damaged) is None
