"""Temperature: found where it is known, sane where data are few."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import InputError
from edgeclf.runtime.metrics import expected_calibration_error
from edgeclf.training.calibration.temperature import fit_temperature, with_temperature


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def honest(rng, count=4000, classes=4, spread=2):
    """Logits of a calibrated classifier, and classes drawn from exactly their probabilities."""
    logits = rng.normal(0, spread, (count, classes))
    chances = softmax(logits).astype(np.float64)
    true = (rng.random((count, 1)) > np.cumsum(chances, axis=1)).sum(axis=1).clip(0, classes - 1)
    return logits, true


def nll(probabilities, true):
    return float(-np.log(probabilities[np.arange(len(true)), true]).mean())


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_over_and_underconfidence(sharpness):
    logits, true = honest(np.random.default_rng(7))
    probabilities = softmax(logits * sharpness)
    temperature = fit_temperature(probabilities, true)
    assert temperature == pytest.approx(sharpness, rel=0.12)
    after = with_temperature(probabilities, temperature)
    assert nll(after, true) <= nll(probabilities, true) + 1e-3
    error = expected_calibration_error(after.max(axis=1), after.argmax(axis=1) == true)
    assert error < 0.03
    if sharpness == 3.0:
        assert error < expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == true) / 3


@pytest.mark.parametrize(("count", "classes"), [(200, 100), (400, 400), (3000, 20)])
def test_many_classes_and_few_images_do_not_look_overconfident(count, classes):
    logits, true = honest(np.random.default_rng(7), count, classes, spread=5)
    assert fit_temperature(softmax(logits), true) == pytest.approx(1, rel=0.15)


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), count=st.integers(1, 40), scale=st.floats(0.1, 30))
def test_the_temperature_is_the_best_of_all(seed, classes, count, scale):
    rng = np.random.default_rng(seed)
    probabilities = softmax(rng.normal(0, scale, (count, classes)))
    true = rng.integers(0, classes, count)
    targets = np.full((count, classes), 1 / (count + 2) / (classes - 1))
    targets[np.arange(count), true] = (count + 1) / (count + 2)

    def loss(temperature):
        logits = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny)) / temperature
        logits -= logits.max(axis=1, keepdims=True)
        return -(targets * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum()

    found = fit_temperature(probabilities, true)
    assert 0.05 <= found <= 20
    # Those for 1 among them: calibration never makes the validation images less likely.
    for other in (0.05, found * 0.9, found * 1.1, 1.0, 20.0):
        if 0.05 <= other <= 20:
            assert loss(found) <= loss(other) + 1e-6
    after = with_temperature(probabilities, found)
    assert after.dtype == np.float32
    assert after.sum(axis=1) == pytest.approx(np.ones(count), abs=1e-5)
    rows = np.arange(count)
    assert (after[rows, probabilities.argmax(axis=1)] == after.max(axis=1)).all()


@pytest.mark.parametrize("classes", [2, 10])
def test_few_images_that_are_all_right_do_not_make_certainty(classes):
    probabilities = np.full((20, classes), 0.1 / (classes - 1), np.float32)
    probabilities[:, 0] = 0.9
    temperature = fit_temperature(probabilities, np.zeros(20, np.int64))
    # 21 / 22 is as sure as 20 successes in 20 can make one.
    assert with_temperature(probabilities, temperature)[0, 0] == pytest.approx(21 / 22, abs=1e-3)


def test_images_without_any_preference_leave_it_at_one():
    assert fit_temperature(np.full((5, 3), 1 / 3, np.float32), np.zeros(5, np.int64)) == 1.0
    assert fit_temperature(np.ones((5, 1), np.float32), np.zeros(5, np.int64)) == 1.0


def test_vanished_probabilities_are_survived():
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    temperature = fit_temperature(probabilities, np.array([0, 1, 1]))
    assert np.isfinite(with_temperature(probabilities, temperature)).all()
    assert temperature > 1


def test_a_network_that_is_always_wrong_gets_the_highest_temperature():
    probabilities = np.array([[0.999, 0.001]] * 50, np.float32)
    assert fit_temperature(probabilities, np.ones(50, np.int64)) == 20.0


@pytest.mark.parametrize(
    ("probabilities", "words"),
    [(np.empty((0, 2), np.float32), "no validation images"), (np.array([[np.nan, 1]], np.float32), "not finite")],
)
def test_what_says_nothing_is_refused(probabilities, words):
    with pytest.raises(InputError, match=words):
        fit_temperature(probabilities, np.zeros(len(probabilities), np.int64))
