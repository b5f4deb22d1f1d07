import numpy as np
import pytest

from edgeclf.export.verify.expected_flips import expected_flips


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def flips_of(reference, candidate):
    return int((reference.argmax(axis=1) != candidate.argmax(axis=1)).sum())


@pytest.mark.parametrize(("classes", "spread"), [(2, 6.0), (6, 2.2), (100, 1.5)])
@pytest.mark.parametrize("error", [0.03, 0.2])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "some images more", "less confident"])
def test_chance_errors_cause_as_many_flips_as_expected(rng, classes, spread, error, kind):
    measured, expected, outside, repetitions = 0, 0.0, 0, 60
    for _ in range(repetitions):
        logits = rng.normal(0, spread, (400, classes))
        noise = rng.normal(0, error, logits.shape)
        if kind == "heavy tails":
            noise = rng.standard_t(3, logits.shape) * error / 1.7
        elif kind == "some images more":
            noise *= rng.lognormal(0, 0.7, (400, 1))
        elif kind == "less confident":
            noise -= 0.1 * logits
        reference, candidate = softmax(logits), softmax(logits + noise)
        result = expected_flips(reference, candidate)
        measured, expected = measured + flips_of(reference, candidate), expected + result.mean
        outside += not result.low <= flips_of(reference, candidate) <= result.high
    assert expected == pytest.approx(measured, rel=0.12, abs=5 * measured**0.5 + 3)
    # 0.1 % of repetitions lie outside by design.
    assert outside <= 2


def test_flips_of_sure_images_are_more_than_small_errors_explain(rng):
    logits = rng.normal(0, 2.2, (1000, 6))
    reference, candidate = softmax(logits), softmax(logits + rng.normal(0, 0.05, logits.shape))
    assert flips_of(reference, candidate) <= expected_flips(reference, candidate).high
    # Every tenth image gets the probabilities of the classes beside its own.
    candidate[::10] = np.roll(candidate[::10], 1, axis=1)
    assert flips_of(reference, candidate) > expected_flips(reference, candidate).high


def test_errors_that_are_none_explain_no_flip_and_leave_an_interval_for_chance(rng):
    probabilities = rng.dirichlet(np.ones(4), 50)
    result = expected_flips(probabilities, probabilities)
    assert (result.mean, result.low) == (0.0, 0)
    assert 2 <= result.high <= 5


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (1, 1), (2, 3), (40, 1), (5, 1000)])
def test_few_images_and_few_classes_have_an_expectation_as_well(rng, images, classes):
    one, other = rng.dirichlet(np.ones(classes), (2, images))
    result = expected_flips(one, other)
    assert 0 <= result.low <= result.mean <= images
    assert result.high <= images
    assert expected_flips(np.empty((0, classes)), np.empty((0, classes))).high == 0


def test_many_images_are_expected_to_flip_as_often_as_few(rng):
    logits = rng.normal(0, 2.2, (9000, 6))
    reference, candidate = softmax(logits), softmax(logits + rng.normal(0, 0.2, logits.shape))
    whole = expected_flips(reference, candidate).mean
    parts = sum(expected_flips(reference[i::3], candidate[i::3]).mean for i in range(3))
    assert whole == pytest.approx(parts, rel=0.1)


def test_probabilities_of_zero_and_one_are_no_trouble():
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert expected_flips(sure, np.roll(sure, 1, axis=1)).mean == 0.0
