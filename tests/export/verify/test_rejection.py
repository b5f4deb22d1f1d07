"""The rejection threshold: a promise for all images like the validation images, and a rounded file that keeps it."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.export.verify.rejection import (
    choose_rejection_threshold,
    fewest_images,
    fit_rejection,
    rejected_at_most,
    rejected_share,
    threshold_that_rejects,
)
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.runtime.spec import ModelSpec, Preprocess

# Thousandths, and confidences that only their last digits tell apart: 0.999999 and 0.9999995.
confidence_lists = st.lists(
    st.integers(500, 1000).map(lambda n: n / 1000) | st.sampled_from([0.999999, 0.9999995, 0.700001]),
    min_size=1,
    max_size=60,
)


def with_confidences(confidences):
    top = np.asarray(confidences, np.float32)
    return np.stack([top, 1 - top], axis=1)


def rejected_by_rule(count, rate):
    """Images that the threshold of a rate rejects, of so many whose confidences all differ."""
    probabilities = with_confidences(np.linspace(0.51, 0.99, count))
    return round(rejected_share(probabilities, choose_rejection_threshold(probabilities, rate)) * count)


@pytest.mark.parametrize("images", [100, 149, 200, 640])
@pytest.mark.parametrize("rate", [0.01, 0.02, 0.05, 0.2])
def test_the_promise_holds_in_19_of_20_repetitions_where_there_are_images_enough(rng, images, rate):
    # Confidences are even between 0.5 and 1, so that a threshold rejects 2 (threshold - 0.5) of all images.
    thresholds = [choose_rejection_threshold(with_confidences(0.5 + rng.random(images) / 2), rate) for _ in range(300)]
    broken = np.mean([2 * (threshold - 0.5) > rate for threshold in thresholds])
    # Without images enough the lowest confidence is all there is to go by.
    expected = 0.05 if images >= fewest_images(rate) else (1 - rate) ** images
    assert broken <= expected + 4 * np.sqrt(expected * (1 - expected) / 300)


@given(count=st.integers(1, 400), rate=st.floats(0.001, 0.9))
def test_as_many_are_rejected_as_the_promise_allows(count, rate):
    def chance_of_at_most(rejected):
        return sum(comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(rejected + 1))

    rejected = rejected_by_rule(count, rate)
    assert chance_of_at_most(rejected + 1) > 0.05 - 1e-9
    assert chance_of_at_most(rejected) <= 0.05 + 1e-9 or (rejected == 0 and count < fewest_images(rate))


# Of Wilks's tolerance limits that hold 95 % with a probability of 95 %: the first to fourth smallest of so many.
@pytest.mark.parametrize(("images", "rejected"), [(59, 0), (92, 0), (93, 1), (123, 1), (124, 2), (152, 2), (153, 3)])
def test_the_threshold_is_a_tolerance_limit_by_published_numbers(images, rejected):
    assert fewest_images(0.05) == 59
    assert rejected_by_rule(images, 0.05) == rejected


def test_the_bound_is_the_upper_end_of_the_exact_interval():
    assert rejected_at_most(with_confidences(np.full(149, 0.9)), 0.8) == pytest.approx(1 - 0.05 ** (1 / 149))
    assert rejected_at_most(with_confidences([0.6] * 3 + [0.9] * 7), 0.8) == pytest.approx(0.6066, abs=1e-4)
    assert rejected_at_most(with_confidences([0.6, 0.6]), 0.8) == 1.0


def test_no_number_of_images_promises_that_none_is_rejected():
    assert fewest_images(0.0) is None
    assert [fewest_images(rate) for rate in (0.01, 0.02, 0.5)] == [299, 149, 5]
    assert rejected_by_rule(1000, 0.0) == 0


@given(confidences=confidence_lists, most=st.integers(0, 60))
def test_never_more_images_are_rejected_than_may_be_and_no_fewer(confidences, most):
    top = np.array(confidences, np.float32)
    threshold = threshold_that_rejects(np.stack([top, 1 - top], axis=1), most)
    rejected = int((top < threshold).sum())
    assert 0 <= threshold <= 1
    assert rejected <= most
    # The next image, with all that noise could not tell from it, would be too many.
    rest = np.sort(top[top >= threshold])
    alike = np.flatnonzero(np.diff(rest) > 5e-6)
    assert len(alike) == 0 or rejected + alike[0] + 1 > most
    for noise in (-1e-6, 1e-6):
        assert int((top + np.float32(noise) < threshold).sum()) == rejected


def test_where_nothing_may_be_rejected_the_threshold_is_just_below_all():
    probabilities = with_confidences([0.9, 0.8, 0.99])
    assert choose_rejection_threshold(probabilities, 0.0) == pytest.approx(0.8, abs=1e-5)
    assert choose_rejection_threshold(probabilities, 0.3) == choose_rejection_threshold(probabilities, 0.0)
    assert threshold_that_rejects(probabilities, 1) == pytest.approx(0.85, abs=1e-5)


def test_a_rate_out_of_range_is_refused():
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="bad false-rejection rate"):
            choose_rejection_threshold(np.array([[0.5, 0.5]], np.float32), rate)


@pytest.mark.parametrize(
    ("probabilities", "words"),
    [(np.empty((0, 2), np.float32), "no validation images"), (np.array([[np.nan, 1]], np.float32), "not finite")],
)
def test_what_says_nothing_is_refused(probabilities, words):
    with pytest.raises(InputError, match=words):
        choose_rejection_threshold(probabilities, 0.1)


def test_the_rejected_share_is_of_confidences_below_the_threshold():
    probabilities = with_confidences([0.9, 0.6, 0.7, 0.8])
    assert [rejected_share(probabilities, threshold) for threshold in (0.0, 0.65, 0.75, 1.0)] == [0.0, 0.25, 0.5, 1.0]


REFERENCE = with_confidences(np.linspace(0.55, 0.99, 20))
TRAINED = threshold_that_rejects(REFERENCE, 2)


def spec_with(threshold, rate=0.1):
    training = {"calibration": {"false_rejection_rate": rate}}
    return ModelSpec(("a", "b"), Preprocess((8, 8)), rejection_threshold=threshold, training=training)


def test_a_file_that_rejects_the_same_share_keeps_the_threshold():
    fit = fit_rejection(spec_with(TRAINED), REFERENCE, REFERENCE - np.float32(1e-3))
    assert (fit.threshold, fit.trained_threshold, fit.false_rejection_rate) == (TRAINED, TRAINED, 0.1)
    assert fit.reference_rejected == fit.rejected_at_trained == fit.rejected == 0.1
    assert fit.rejected_at_most == rejected_at_most(REFERENCE, TRAINED)


@given(
    st.floats(0.5, 0.95), st.sampled_from([{}, {"calibration": None}, {"calibration": {"false_rejection_rate": 0.1}}])
)
def test_a_less_confident_file_gets_a_threshold_that_rejects_as_many(factor, training):
    candidate = with_confidences(0.5 + factor * (np.linspace(0.55, 0.99, 20) - 0.5))
    fit = fit_rejection(spec_with(TRAINED).with_changes(training=training), REFERENCE, candidate)
    if fit.rejected_at_trained != 0.1:
        assert fit.rejected_at_trained > 0.1
        assert fit.threshold == threshold_that_rejects(candidate, 2) < TRAINED
    assert fit.rejected == 0.1
    assert fit.to_json()["reference_rejected"] == 0.1


def test_a_file_whose_confidences_are_all_alike_rejects_none():
    fit = fit_rejection(spec_with(TRAINED), REFERENCE, with_confidences(np.full(20, 0.5)))
    assert (fit.rejected_at_trained, fit.rejected) == (1.0, 0.0)


def test_no_threshold_and_no_numbers_are_not_fitted():
    assert fit_rejection(spec_with(None), REFERENCE, REFERENCE) is None
    damaged = REFERENCE.copy()
    damaged[3, 1] = np.nan
    assert fit_rejection(spec_with(TRAINED), REFERENCE, damaged) is None
