"""Facts of a comparison and their verdict, from answers."""

from pathlib import Path

import numpy as np
import pytest

from edgeclf.export.verify.paired import PairedCounts
from edgeclf.toolkit.compare.comparison import Answer, compare_answers, verdict

AB = ("cat", "dog")


def compare(true, first, second, labels=(AB, AB)):
    """The comparison of answers given as labels."""
    paths = [Path(f"{number}.jpg") for number in range(len(true))]
    answers = [(Answer(a, 0.9), Answer(b, 0.6)) for a, b in zip(first, second, strict=True)]
    return compare_answers(paths, true, answers, labels)


def test_the_same_answers_are_no_difference(rng):
    true, answers = (rng.choice(AB, 50).tolist() for _ in range(2))
    facts = compare(true, answers, answers)
    low, high = facts.shared.interval()
    assert (facts.shared.difference, facts.agreement, facts.changed) == (0.0, 1.0, ())
    assert low < 0 < high
    assert low == pytest.approx(-high)
    assert facts.verdict.startswith("no difference that these 50 images can show: B - A is +0.0 points")


def test_counts_add_up_whatever_the_answers(rng):
    names = ("cat", "dog", "bird")
    true, first, second = (rng.choice(names, 200).tolist() for _ in range(3))
    facts = compare(true, first, second, (names, names))
    assert facts.shared.first_accuracy == pytest.approx(np.mean(np.array(true) == np.array(first)))
    assert facts.shared.second_accuracy == pytest.approx(np.mean(np.array(true) == np.array(second)))
    assert facts.shared.images - facts.same_label == len(facts.changed)
    changes = [item.change for item in facts.changed]
    assert (changes.count("lost"), changes.count("won")) == (facts.shared.lost, facts.shared.won)
    assert changes == sorted(changes, key=["lost", "won", "wrong in both"].index)
    for key in ("images", "both", "lost", "won"):
        assert sum(getattr(its, key) for _, its in facts.classes) == getattr(facts.shared, key)
    back = compare(true, second, first, (names, names))
    assert (back.shared.lost, back.shared.won) == (facts.shared.won, facts.shared.lost)
    assert back.shared.interval() == pytest.approx([-end for end in reversed(facts.shared.interval())], abs=1e-9)


def test_a_class_that_one_alone_knows_is_reported_apart():
    true = ["cat", "dog", "fox", "fox", "fox"]
    first = ["cat", "dog", "dog", "dog", "cat"]
    second = ["cat", "fox", "fox", "fox", "dog"]
    facts = compare(true, first, second, (AB, ("cat", "dog", "fox")))
    # The second answers with its new class, and that is a loss of the old one.
    assert (facts.shared.images, facts.shared.lost, facts.shared.won) == (2, 1, 0)
    assert [label for label, _ in facts.classes] == ["cat", "dog"]
    (fox,) = facts.only_b
    assert (fox.label, fox.images, fox.found, fox.taken_for) == ("fox", 3, 2, (("dog", 1),))
    assert facts.only_a == ()
    assert facts.accuracies == (1.0, 0.6)
    assert [item.path.name for item in facts.changed] == ["1.jpg"]


def test_classes_without_images_have_no_recall():
    facts = compare(["cat"], ["cat"], ["cat"], (("cat", "dog"), ("cat", "dog", "fox")))
    document = facts.to_json()
    assert [item["a_recall"] for item in document["classes"]] == [1.0, None]
    assert document["only_b"] == [{"label": "fox", "images": 0, "found": 0, "recall": None, "taken_for": {}}]


@pytest.mark.parametrize(
    ("lost", "won", "images", "said"),
    [
        (0, 30, 300, "B is better by 10.0 points (7."),
        (30, 0, 300, "A is better by 10.0 points (7."),
        (10, 12, 300, "no difference that these 300 images can show: B - A is +0.7 points (-2."),
        (1, 0, 1, "no difference that this 1 image can show: B - A is -100.0 points (-100.0 to +"),
    ],
)
def test_a_verdict_needs_an_interval_that_leaves_out_zero(lost, won, images, said):
    assert verdict(PairedCounts(images, images - lost - won, lost, won)).startswith(said)
