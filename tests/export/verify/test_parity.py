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
