"""What calibration chooses on validation images and reports on both parts."""

import json

import numpy as np
import pytest

from edgeclf.runtime.metrics import classification_report
from edgeclf.training.calibration.report import calibrate
from edgeclf.training.calibration.temperature import fit_temperature


def scored(seed, count, sharpness):
    """Probabilities of a classifier of three classes that is surer than it should be, and the classes."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = (rng.random((count, 1)) > np.cumsum(chances, axis=1)).sum(axis=1).clip(0, 2)
    powers = np.exp(logits * sharpness)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), true


def test_the_validation_part_chooses_and_both_parts_report():
    parts = {"val": scored(1, 1500, 3.0), "test": scored(2, 1500, 3.0)}
    result = calibrate(parts, 0.1)
    assert result.temperature == fit_temperature(*parts["val"])
    # Fewer than one in ten, so that of all such images no more than one in ten is rejected.
    assert 0.08 < result.rejected["val"] < 0.09
    assert 0.09 < result.rejected_at_most <= 0.1
    assert 0.05 < result.rejected["test"] < 0.12
    for ece, nll in ((result.validation_ece, result.validation_nll), (result.test_ece, result.test_nll)):
        assert ece[1] < 0.5 * ece[0]
        assert nll[1] < 0.7 * nll[0]
    labels = ["a", "b", "c"]
    for part, (before, true) in parts.items():
        reports = [classification_report(values, true, labels) for values in (before, result.probabilities[part])]
        assert reports[0].confusion.tolist() == reports[1].confusion.tolist()
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["validation_negative_log_likelihood"] == dict(
        zip(("before", "after"), result.validation_nll, strict=True)
    )
    assert document["rejection_threshold"] == result.rejection_threshold
    assert document["rejected_at_most"] == result.rejected_at_most


def test_without_test_images_and_without_a_rate_there_are_no_such_figures():
    result = calibrate({"val": scored(1, 200, 1.0)}, None)
    assert result.rejection_threshold is None
    assert (result.rejected, result.rejected_at_most) == ({}, None)
    document = result.to_json()
    assert document["test_expected_calibration_error"] is None
    assert document["test_negative_log_likelihood"] is None
    assert result.temperature == pytest.approx(1, rel=0.4)
