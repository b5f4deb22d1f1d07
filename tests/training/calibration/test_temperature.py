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
def test_the_temperature_never_makes_its_own_images_less_likely(seed, classes, count, scale):
    rng = np.random.default_rng(seed)
    probabilities = softmax(rng.normal(0, scale, (count, classes)))
    true = rng.integers(0, classes, count)
    found = fit_temperature(probabilities, true)
    assert 0.05 <= found <= 20
    after = with_temperature(probabilities, found)
    assert nll(np.maximum(after, 1e-38), true) <= nll(np.maximum(probabilities, 1e-38), true) + 1e-5
    assert after.dtype == np.float32
    assert after.sum(axis=1) == pytest.approx(np.ones(count), abs=1e-5)
    rows = np.arange(count)
    assert (after[rows, probabilities.argmax(axis=1)] == after.max(axis=1)).all()


@pytest.mark.parametrize("classes", [2, 10])
def test_few_images_that_are_all_right_show_little_of_a_temperature(classes):
    probabilities = np.full((20, classes), 0.1 / (classes - 1), np.float32)
    probabilities[:, 0] = 0.9
    # That 20 of 20 are right is what happens in one of eight cases where each is with a chance of 0.9.
    assert 0.85 < fit_temperature(probabilities, np.zeros(20, np.int64)) <= 1.0
    many = np.repeat(probabilities, 100, axis=0)
    assert fit_temperature(many, np.zeros(2000, np.int64)) < 0.6


@pytest.mark.parametrize(("count", "sharpness"), [(200, 1.0), (200, 2.0), (640, 1.0), (640, 1.5), (2000, 1.0)])
def test_on_other_images_it_is_hardly_ever_worse_than_none(count, sharpness, rng):
    # Good networks, of whose validation images few are wrong: there a temperature of chance did harm.
    logits, true = honest(rng, 20_000, classes=2, spread=5)
    others = softmax(logits * sharpness)
    none = nll(np.maximum(others, 1e-38), true)
    differences = []
    # The fewer the images, the more the draws scatter: 0.0027 nats at 200, of which the mean is 0.0004.
    for _ in range(60_000 // count):
        few_logits, few = honest(rng, count, classes=2, spread=5)
        temperature = fit_temperature(softmax(few_logits * sharpness), few)
        differences.append(nll(np.maximum(with_temperature(others, temperature), 1e-38), true) - none)
    # 0.001 nats is a hundredth of what such a network's images cost.
    assert np.mean(differences) < 0.001
    if sharpness > 1:
        assert np.mean(differences) < -0.002


def test_images_without_any_preference_leave_it_at_one():
    assert fit_temperature(np.full((5, 3), 1 / 3, np.float32), np.zeros(5, np.int64)) == 1.0
    assert fit_temperature(np.ones((5, 1), np.float32), np.zeros(5, np.int64)) == 1.0


def test_vanished_probabilities_are_survived():
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]] * 10, np.float32)
    temperature = fit_temperature(probabilities, np.array([0, 1, 1] * 10))
    assert np.isfinite(with_temperature(probabilities, temperature)).all()
    assert temperature > 1


def test_a_network_that_is_always_wrong_becomes_unsure():
    probabilities = np.array([[0.999, 0.001]] * 50, np.float32)
    temperature = fit_temperature(probabilities, np.ones(50, np.int64))
    assert temperature > 5
    assert with_temperature(probabilities, temperature)[0, 0] < 0.8


@pytest.mark.parametrize(
    ("probabilities", "words"),
    [(np.empty((0, 2), np.float32), "no validation images"), (np.array([[np.nan, 1]], np.float32), "not finite")],
)
def test_what_says_nothing_is_refused(probabilities, words):
    with pytest.raises(InputError, match=words):
        fit_temperature(probabilities, np.zeros(len(probabilities), np.int64))
