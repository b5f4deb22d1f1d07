"""What the doctor says of a model on held-out images: where it errs, how sure it is, what it does not bear."""

import numpy as np
import pytest

from edgeclf.toolkit.doctor.checks.model import CHECKS, _worst_class, calibration_gap, most_confident_errors
from edgeclf.toolkit.doctor.facts import Facts, ModelFacts

pytestmark = pytest.mark.slow

COUNT = 400


def probabilities_of(given_labels, confidence, classes=2):
    """(N, C) with the given confidence on the given labels, the rest spread."""
    confidence = np.broadcast_to(np.asarray(confidence, np.float32), (len(given_labels),))
    values = np.repeat(((1 - confidence) / (classes - 1))[:, None], classes, axis=1)
    values[np.arange(len(given_labels)), given_labels] = confidence
    return values.astype(np.float32)


def field_facts(true, probabilities, *, changed=None, int8=None):
    paths = tuple(f"test/{number}.jpg" for number in range(len(true)))
    return ModelFacts("test", paths, np.asarray(true, np.int64), probabilities, changed or {}, int8)


def examine(field):
    return {finding.cause: finding for check in CHECKS for finding in check.find(Facts(model=field))}


def flip(labels, rows, classes=2):
    flipped = np.array(labels)
    flipped[rows] = (flipped[rows] + 1) % classes
    return flipped


def balanced(seed, classes=2, count=COUNT):
    return np.random.default_rng(seed).permutation(np.arange(count) % classes)


@pytest.mark.parametrize("classes", [2, 4, 8])
def test_a_calibrated_even_robust_model_is_warned_of_as_seldom_as_the_checks_say(rng, classes):
    """Warnings at the claimed rates: 1 % for classes, 1 % for calibration, 0.1 % for changes, 1 % for int8 - and no problem."""
    runs, warned = 250, []
    for _ in range(runs):
        accuracy = rng.uniform(0.6, 0.99)
        true = rng.permutation(np.arange(COUNT) % classes)
        said = flip(true, rng.random(COUNT) > accuracy, classes)
        before = probabilities_of(said, accuracy, classes)
        # A change that takes a few answers either way.
        again = said.copy()
        either = rng.random(COUNT) < 0.02
        again[either] = rng.integers(0, classes, either.sum())
        found = examine(
            field_facts(true, before, changed={"blur": probabilities_of(again, accuracy, classes)}, int8=before)
        )
        assert all(finding.severity != "problem" for finding in found.values())
        assert not {"fragile", "int8-gap"} & set(found)
        warned += [cause for cause, finding in found.items() if finding.severity == "warning"]
    # Expected 2.5 each where the tests are exact; 9 and more have a chance of 0.1 %.
    assert warned.count("class-errors") <= 8
    assert warned.count("calibration") <= 8


@pytest.mark.parametrize(
    ("classes", "each", "accuracy"), [(100, 3, 0.99), (100, 5, 0.9), (1000, 5, 0.8), (10, 50, 0.7), (2, 5, 0.8)]
)
def test_a_healthy_model_of_any_number_of_classes_has_no_bad_class(rng, classes, each, accuracy):
    runs, true = 100, np.arange(classes * each) % classes
    right = rng.random((runs, len(true))) < accuracy
    found = [_worst_class(row, true) for row in right]
    # One in a hundred at most; Bin(100, 0.01) is 7 or more once in 15,000.
    assert sum(worst is not None for worst in found) <= 6
    assert not any(worst.is_problem for worst in found if worst is not None)


def test_a_class_that_is_never_right_is_found_among_a_thousand_and_by_how_much_where_that_is_sure():
    true = np.arange(10_000) % 1000
    right = np.random.default_rng(5).random(len(true)) < 0.9
    assert _worst_class(right, true) is None
    right[true == 321] = False
    worst = _worst_class(right, true)
    assert (worst.label, worst.rate, worst.is_problem) == (321, 0.0, True)
    # Of four images nothing is said, and of a few nothing beyond a warning.
    few = np.concatenate([np.zeros(4, int), np.ones(400, int)])
    assert _worst_class(few == 1, few) is None
    some = np.concatenate([np.zeros(6, int), np.ones(400, int)])
    half = np.concatenate([np.arange(6) < 1, np.arange(400) >= 80])
    assert not _worst_class(half, some).is_problem


def test_the_class_that_suffers_is_named_and_its_most_confident_errors_come_first():
    rng = np.random.default_rng(1)
    true = balanced(1, 3)
    rows = np.flatnonzero(true == 2)[:70]
    said = true.copy()
    said[rows] = 0
    confidence = rng.uniform(0.6, 0.9, COUNT)
    confidence[rows[5]] = 0.99
    finding = examine(field_facts(true, probabilities_of(said, confidence, 3)))["class-errors"]
    assert finding.severity == "problem"
    assert (finding.evidence["class"], finding.evidence["taken_for"]) == ("2", "0")
    assert finding.evidence["class_recall"] == pytest.approx(1 - 70 / (true == 2).sum())
    assert finding.items[0] == f"test/{rows[5]}.jpg"
    assert finding.details[0] == "2, taken for 0 (0.99)"
    even = flip(true, rng.permutation(COUNT)[:60], 3)
    assert examine(field_facts(true, probabilities_of(even, 0.85, 3)))["class-errors"].severity == "note"
    assert "class-errors" not in examine(field_facts(true, probabilities_of(true, 0.97, 3)))


def test_the_change_that_costs_accuracy_is_named_with_the_images_it_costs():
    rng = np.random.default_rng(2)
    true = balanced(2)
    rows = rng.permutation(COUNT)[:60]
    changed = {
        "blur": probabilities_of(true, 0.97),
        "noise": probabilities_of(flip(true, rows), 0.9),
        "brightness x0.8": probabilities_of(flip(true, rows[:30]), 0.9),
    }
    finding = examine(field_facts(true, probabilities_of(true, 0.98), changed=changed))["fragile"]
    assert (finding.severity, finding.evidence["change"]) == ("warning", "noise")
    assert finding.evidence["drop"] == pytest.approx(60 / COUNT)
    assert set(finding.items) <= {f"test/{row}.jpg" for row in rows}
    assert "brightness x0.8" in finding.title
    assert "blur" not in finding.title
    worse = {"noise": probabilities_of(flip(true, rng.permutation(COUNT)[:120]), 0.9)}
    assert examine(field_facts(true, probabilities_of(true, 0.98), changed=worse))["fragile"].severity == "problem"
    few = {"noise": probabilities_of(flip(true, rows[:15]), 0.9)}
    assert "fragile" not in examine(field_facts(true, probabilities_of(true, 0.98), changed=few))


def test_confidences_that_are_too_high_or_too_low_are_told_apart():
    true = balanced(3)
    said = flip(true, np.random.default_rng(3).permutation(COUNT)[:80])
    sure = examine(field_facts(true, probabilities_of(said, 0.99)))["calibration"]
    assert "too sure" in sure.title
    assert sure.evidence["expected_calibration_error"] == pytest.approx(0.19, abs=0.01)
    assert "less sure" in examine(field_facts(true, probabilities_of(true, 0.7)))["calibration"].title
    assert "calibration" not in examine(field_facts(true, probabilities_of(said, 0.8)))


def test_an_int8_file_that_loses_a_class_is_named():
    true = balanced(4)
    fp32 = probabilities_of(true, 0.97)
    rows = np.flatnonzero(true == 1)[:40]
    finding = examine(field_facts(true, fp32, int8=probabilities_of(flip(true, rows), 0.6)))["int8-gap"]
    assert finding.severity == "problem"
    assert finding.evidence["agreement"] == pytest.approx(0.9)
    assert finding.evidence["agreement_by_class"] == {"0": 1.0, "1": pytest.approx(0.8)}
    assert set(finding.items) <= {f"test/{row}.jpg" for row in rows}
    assert "int8-gap" not in examine(field_facts(true, fp32, int8=probabilities_of(flip(true, rows[:2]), 0.6)))
    assert "int8-gap" not in examine(field_facts(true, fp32))


def test_the_calibration_bound_is_exceeded_by_one_honest_sample_in_a_hundred_and_by_overconfidence(rng):
    runs, honest_alarms, overconfident_alarms = 300, 0, 0
    for _ in range(runs):
        confidences = rng.uniform(0.5, 1.0, 600)
        error, bound = calibration_gap(confidences, rng.random(600) < confidences)
        honest_alarms += error > bound
        overconfident = np.minimum(1.0, confidences + 0.1)
        error, bound = calibration_gap(overconfident, rng.random(600) < confidences)
        overconfident_alarms += error > bound
    # Bin(300, 0.01) is 10 or more once in a thousand.
    assert honest_alarms <= 9
    assert overconfident_alarms >= 0.95 * runs


def test_errors_are_ordered_by_their_confidence():
    true = np.array([0, 0, 1, 1])
    order = most_confident_errors(probabilities_of(np.array([1, 1, 1, 0]), [0.6, 0.9, 0.99, 0.7]), true)
    assert order.tolist() == [1, 3, 0]


def test_without_a_model_nothing_is_said():
    assert [finding for check in CHECKS for finding in check.find(Facts())] == []
    nothing = field_facts(np.zeros(0, np.int64), np.zeros((0, 2), np.float32))
    assert examine(nothing) == {}
