"""Checks of a model file's use on answers that are made up: false alarms, NaN, classes that are never given."""

import numpy as np
import pytest

from edgeclf.toolkit.doctor.checks.use.answers import (
    check_activation,
    check_dead_classes,
    check_numbers,
    check_same_answer,
)
from edgeclf.toolkit.doctor.checks.use.label_order import check_labels
from edgeclf.toolkit.doctor.checks.use.preprocessing import check_preprocessing
from edgeclf.toolkit.doctor.facts import Facts, Trial, UseFacts

from ....randomness import fresh_rng

CLASSES = tuple("abcdef")


@pytest.fixture
def rng():
    return fresh_rng()


def answers(rng, true, accuracy, classes=6):
    """(N, C) probabilities that are right so often, and wrong anywhere."""
    given = np.where(rng.random(len(true)) < accuracy, true, rng.integers(0, classes, len(true)))
    return (0.9 * np.eye(classes)[given] + 0.1 / classes).astype(np.float32)


def use_facts(true, *probabilities, labels=CLASSES, folders=CLASSES, **changes):
    trials = tuple(
        Trial({} if n == 0 else {"--mean": f"{n}", "--std": "9"}, its) for n, its in enumerate(probabilities)
    )
    values = {
        "model": "m.onnx", "data": "data", "given": {}, "is_foreign": True, "is_scaling_unsaid": False, "scales_itself": False,
        "labels": labels, "has_names": True, "activation": "softmax", "is_one_value": False,
        "paths": tuple(f"{n}.png" for n in range(len(true))), "folders": folders, "true": true, "trials": trials,
        "raw": probabilities[0],
    }  # fmt: skip
    return Facts(use=UseFacts(**{**values, **changes}))


def test_ways_that_are_equally_good_raise_no_alarm(rng):
    alarms = 0
    for _ in range(150):
        true = rng.integers(0, len(CLASSES), 240)
        accuracy = rng.uniform(0.2, 0.95)
        facts = use_facts(true, *(answers(rng, true, accuracy) for _ in range(16)))
        alarms += len(check_preprocessing(facts)) + len(check_labels(facts))
    # One in a thousand is accepted, and more than three of 150 would be one in ten thousand tests.
    assert alarms <= 3


def test_a_way_that_is_better_is_found_and_a_little_better_one_is_not(rng):
    true = rng.integers(0, len(CLASSES), 240)
    base = answers(rng, true, 0.5)
    better, little = base.copy(), base.copy()
    wrong = np.flatnonzero(base.argmax(axis=1) != true)
    better[wrong[:60]] = answers(rng, true[wrong[:60]], 1.0)
    little[wrong[:8]] = answers(rng, true[wrong[:8]], 1.0)
    (finding,) = check_preprocessing(use_facts(true, base, little, better))
    assert finding.evidence["options"] == {"--mean": "2", "--std": "9"}
    assert finding.severity == "problem"
    assert check_preprocessing(use_facts(true, base, little)) == []


def test_a_systematic_confusion_is_no_other_order_of_the_labels(rng):
    # Two of six classes are mostly taken for each other: a poor model, and not a wrong list.
    true = np.arange(240) % len(CLASSES)
    shown = answers(rng, true, 0.9)
    swapped = shown.copy()
    for one, other in ((0, 1), (1, 0)):
        rows = np.flatnonzero(true == one)[:24]
        swapped[rows] = answers(rng, np.full(len(rows), other), 1.0)
    assert check_labels(use_facts(true, swapped)) == []


def test_nan_is_counted(rng):
    true = rng.integers(0, len(CLASSES), 200)
    base = answers(rng, true, 0.9)
    assert check_numbers(use_facts(true, base)) == []
    broken = base.copy()
    broken[7] = np.nan
    (finding,) = check_numbers(use_facts(true, broken, base))
    assert (finding.severity, finding.items) == ("warning", ("7.png",))
    broken[:50] = np.inf
    (finding,) = check_numbers(use_facts(true, broken, base))
    assert finding.severity == "problem"
    assert "--mean 1" in finding.fix
    # All of them: nothing else can be said.
    facts = use_facts(true, np.full_like(base, np.nan))
    assert (
        check_preprocessing(facts)
        == check_same_answer(facts)
        == check_dead_classes(facts)
        == check_activation(facts)
        == []
    )


def test_one_answer_for_all_is_a_problem_unless_nearly_all_show_it(rng):
    true = rng.integers(0, len(CLASSES), 100)
    same = answers(rng, np.full(100, 2), 1.0)
    (finding,) = check_same_answer(use_facts(true, same))
    assert "answers c for 100 of 100" in finding.title
    assert check_same_answer(use_facts(np.full(100, 2), same)) == []
    assert check_same_answer(use_facts(true, answers(rng, true, 0.9))) == []


def test_a_class_that_is_never_given_is_named(rng):
    true = np.arange(120) % len(CLASSES)
    base = answers(rng, true, 1.0)
    assert check_dead_classes(use_facts(true, base)) == []
    base[true == 4] = answers(rng, np.full(20, 3), 1.0)
    (finding,) = check_dead_classes(use_facts(true, base))
    assert finding.evidence["classes"] == {"e": 20}


def test_unsure_models_are_no_softmax_of_a_softmax(rng):
    true = rng.integers(0, 2, 60)
    unsure = np.clip(rng.normal(0.5, 0.05, (60, 1)), 0.3, 0.7)
    two = np.concatenate([unsure, 1 - unsure], axis=1).astype(np.float32)
    assert check_activation(use_facts(true, two, labels=("a", "b"), folders=("a", "b"))) == []
    logits = rng.normal(0, 0.4, (60, 6))
    six = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert check_activation(use_facts(rng.integers(0, 6, 60), six.astype(np.float32))) == []
    inner = answers(rng, rng.integers(0, 6, 60), 1.0).astype(np.float64)
    twice = np.exp(inner) / np.exp(inner).sum(axis=1, keepdims=True)
    assert len(check_activation(use_facts(rng.integers(0, 6, 60), twice.astype(np.float32)))) == 1
