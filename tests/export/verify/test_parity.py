import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.export.verify.parity import (
    FP32_LIMITS,
    INT8_LIMITS,
    ParityFacts,
    ParityLimits,
    compare_probabilities,
    parity_failures,
)
from edgeclf.runtime.errors import InputError


def random_probabilities(seed: int, images: int = 20, classes: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), images).astype(np.float32)


@given(st.integers(0, 2**32 - 1))
def test_a_model_agrees_with_itself_and_passes_the_strictest_limits(seed):
    probabilities = random_probabilities(seed)
    facts = compare_probabilities(probabilities, probabilities, "validation", probabilities.argmax(axis=1))
    assert (facts.agreement, facts.max_error, facts.mean_error) == (1.0, 0.0, 0.0)
    assert facts.reference_accuracy == facts.candidate_accuracy == 1.0
    assert parity_failures(facts, FP32_LIMITS) == []


@given(st.integers(0, 2**32 - 1))
def test_figures_are_those_of_the_definition(seed):
    a, b = random_probabilities(seed), random_probabilities(seed + 1)
    true = np.random.default_rng(seed).integers(0, 4, len(a))
    facts = compare_probabilities(a, b, "test", true)
    differing = [i for i in range(len(a)) if list(a[i]).index(max(a[i])) != list(b[i]).index(max(b[i]))]
    assert facts.agreement == pytest.approx(1 - len(differing) / len(a))
    assert facts.disagreements == tuple(differing)
    errors = [
        abs(float(x) - float(y)) for row_a, row_b in zip(a, b, strict=True) for x, y in zip(row_a, row_b, strict=True)
    ]
    assert facts.max_error == pytest.approx(max(errors))
    assert facts.mean_error == pytest.approx(sum(errors) / len(errors))
    assert facts.accuracy_drop == pytest.approx((a.argmax(1) == true).mean() - (b.argmax(1) == true).mean())


def test_an_error_just_above_the_limit_fails_and_just_below_passes():
    a = np.array([[0.9, 0.1]], np.float64)
    below = compare_probabilities(a, a + np.array([0.9e-4, -0.9e-4]), "validation")
    above = compare_probabilities(a, a + np.array([1.1e-4, -1.1e-4]), "validation")
    assert parity_failures(below, FP32_LIMITS) == []
    (failure,) = parity_failures(above, FP32_LIMITS)
    assert "0.00011" in failure
    assert "0.0001 required" in failure


def test_nan_fails_even_where_no_error_limit_is_set():
    a = random_probabilities(1)
    b = a.copy()
    b[3, 2] = np.nan
    facts = compare_probabilities(a, b, "validation")
    assert facts.agreement == pytest.approx(0.95)
    assert parity_failures(facts, ParityLimits(min_agreement=0.5))
    assert facts.to_json()["max_error"] is None


@pytest.mark.parametrize(
    ("reference", "candidate"), [((0, 3), (0, 3)), ((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,))]
)
def test_nothing_to_compare_is_an_error_and_not_a_pass(reference, candidate):
    with pytest.raises(InputError, match="cannot compare"):
        compare_probabilities(np.zeros(reference), np.zeros(candidate), "validation")


def test_limits_of_int8_judge_agreement_and_accuracy_but_not_the_size_of_errors():
    facts = ParityFacts("validation", 200, 0.985, 0.4, 0.01, 0.95, 0.935)
    failures = parity_failures(facts, INT8_LIMITS)
    assert len(failures) == 2
    assert "0.9850" in failures[0]
    assert "falls by 0.0150" in failures[1]
    assert parity_failures(facts, ParityLimits(0.98, max_accuracy_drop=0.015)) == []


def test_a_candidate_better_than_the_reference_has_a_negative_drop_and_passes():
    facts = ParityFacts("validation", 200, 1.0, 0.0, 0.0, 0.9, 0.95)
    assert facts.accuracy_drop == pytest.approx(-0.05)
    assert parity_failures(facts, ParityLimits(0.99, max_accuracy_drop=0.0)) == []


def test_limits_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="min_agreement"):
        ParityLimits(min_agreement=99)


def test_flips_are_told_apart_by_what_they_do_to_the_accuracy_and_by_how_sure_the_reference_is():
    reference = np.array([[0.9, 0.1], [0.4, 0.6], [0.55, 0.45], [0.2, 0.8], [0.7, 0.3]])
    candidate = np.array([[0.4, 0.6], [0.6, 0.4], [0.45, 0.55], [0.1, 0.9], [0.8, 0.2]])
    facts = compare_probabilities(reference, candidate, "validation", [0, 0, 0, 0, 0])
    assert (facts.flips, facts.harmful_flips, facts.beneficial_flips) == (3, 2, 1)
    assert (facts.sure_images, facts.sure_flips) == (3, 1)
    assert facts.sure_agreement == pytest.approx(2 / 3)
    low, high = facts.accuracy_drop_interval
    assert low < facts.accuracy_drop < high
    document = facts.to_json()
    assert document["accuracy_drop_interval"] == [low, high]
    assert document["sure_agreement"] == facts.sure_agreement
    assert document["expected_agreement_interval"][0] <= document["expected_agreement"]
    unlabelled = compare_probabilities(reference, candidate, "validation")
    assert (unlabelled.harmful_flips, unlabelled.accuracy_drop_interval) == (None, None)


def test_a_damaged_image_is_a_sure_and_harmful_flip():
    reference, candidate = np.array([[0.9, 0.1]] * 3), np.array([[0.9, 0.1], [np.nan, 0.1], [0.9, 0.1]])
    facts = compare_probabilities(reference, candidate, "validation", [0, 0, 0])
    assert (facts.flips, facts.sure_flips, facts.harmful_flips, facts.tied_flips) == (1, 1, 1, 0)


@pytest.mark.parametrize(("difference", "passes"), [(0.0, True), (0.9e-4, True), (1.5e-4, False)])
def test_two_equal_classes_do_not_keep_an_fp32_file_back(difference, passes):
    reference = np.array([[0.5 + difference / 2, 0.5 - difference / 2], [0.9, 0.1]])
    # The label turns, by less than the error that is allowed.
    candidate = np.array([[0.5 + difference / 2 - 0.9e-4, 0.5 - difference / 2 + 0.9e-4], [0.9, 0.1]])
    facts = compare_probabilities(reference, candidate, "validation")
    assert facts.agreement == 0.5
    assert (parity_failures(facts, FP32_LIMITS) == []) == passes
    # Limits of the user's own know no such exception.
    assert parity_failures(facts, ParityLimits(1.0, max_error=1e-4))


def test_decisions_are_compared_with_each_models_own_threshold():
    reference = np.array([[0.9, 0.1], [0.55, 0.45], [0.6, 0.4], [0.3, 0.7]])
    candidate = np.array([[0.9, 0.1], [0.45, 0.55], [0.66, 0.34], [0.3, 0.7]])
    facts = compare_probabilities(reference, candidate, "test", rejection_thresholds=(0.65, 0.65))
    # The second gets another label and is unknown to both; the third is unknown to the reference alone.
    assert (facts.agreement, facts.decision_agreement) == (0.75, 0.75)
    assert (facts.reference_rejected, facts.candidate_rejected) == (0.5, 0.25)
    own = compare_probabilities(reference, candidate, "test", rejection_thresholds=(0.65, 0.68))
    assert own.decision_agreement == 1.0
    none = compare_probabilities(reference, candidate, "test")
    assert (none.decision_agreement, none.reference_rejected, none.candidate_rejected) == (None, None, None)
    one = compare_probabilities(reference, candidate, "test", rejection_thresholds=(None, 0.65))
    assert (one.reference_rejected, one.candidate_rejected) == (0.0, 0.25)


@given(st.integers(0, 2**32 - 1))
def test_figures_of_an_earlier_version_have_no_intervals(seed):
    probabilities = random_probabilities(seed)
    now = compare_probabilities(probabilities, probabilities, "validation", probabilities.argmax(axis=1))
    earlier = ParityFacts("validation", 20, 1.0, 0.0, 0.0, 1.0, 1.0)
    assert earlier.to_json().keys() == now.to_json().keys()
    assert (earlier.sure_agreement, earlier.accuracy_drop_interval, earlier.expected_agreement) == (None, None, None)
