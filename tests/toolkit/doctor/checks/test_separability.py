import numpy as np
import pytest

from edgeclf.toolkit.doctor.checks.separability import (
    binned,
    class_chances,
    head_accuracies,
    held_out_scores,
    measure_separability,
)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def two_groups(generator: np.random.Generator, count: int, moved: float) -> tuple[np.ndarray, np.ndarray]:
    group = generator.random(count) < 0.3
    design = generator.normal(size=(count, 20))
    design[group, 3] += moved
    return design, group


def test_groups_that_differ_are_told_apart_and_those_that_do_not_are_not(generator):
    separability = measure_separability(*two_groups(generator, 400, 3.0))
    assert separability.auc > 0.95
    assert separability.accuracy > 0.85
    assert separability.z > 8
    for _ in range(5):
        assert abs(measure_separability(*two_groups(generator, 400, 0.0)).z) < 5


def test_a_yes_or_no_feature_is_worth_what_it_says(generator):
    # Seven of ten inside the group have it, three of ten outside: right for 70 %.
    group = np.arange(600) % 3 == 0
    has = np.where(group, generator.random(600) < 0.7, generator.random(600) < 0.3)
    separability = measure_separability(np.stack([has, ~has], axis=1).astype(float), group)
    assert separability.auc == pytest.approx(0.5 + ((has[group].mean() - has[~group].mean()) / 2), abs=0.04)
    assert separability.z > 4.5


def test_another_mix_of_classes_is_no_difference(generator):
    # Classes differ a lot, and one is much rarer in the second group.
    labels = generator.integers(0, 2, 600)
    group = generator.random(600) < np.where(labels == 1, 0.7, 0.2)
    design = generator.normal(size=(600, 5)) + 4.0 * labels[:, None]
    assert measure_separability(design, group).auc > 0.65
    assert abs(measure_separability(design, group, labels).auc - 0.5) < 0.1


def test_scores_are_held_out(generator):
    # With as many features as images anything can be learned by heart.
    design, target = generator.normal(size=(150, 140)), generator.normal(size=(150, 1))
    scores = held_out_scores(design, target)
    assert abs(np.corrcoef(scores[:, 0], target[:, 0])[0, 1]) < 0.4


def test_a_design_that_says_nothing_gives_no_scores():
    scores = held_out_scores(np.ones((20, 3)), np.arange(20.0)[:, None])
    assert (scores == 0).all()


def test_bins_keep_what_is_common_and_what_is_missing_apart():
    values = np.array([1.0] * 10 + [2.0, 3.0, 0.5] + [np.nan] * 3)
    bins = binned(values[:, None])
    assert (bins.sum(axis=1) == 1).all()
    kinds = bins.argmax(axis=1)
    assert len(set(kinds[:10])) == 1
    assert len({kinds[0], kinds[10], kinds[12], kinds[13]}) == 4


def test_a_head_loses_on_another_split_only_what_differs(generator):
    centres = generator.normal(size=(3, 30)) * 2

    def part(count: int, moved: float) -> tuple[np.ndarray, np.ndarray]:
        labels = generator.integers(0, 3, count)
        return centres[labels] * (1 - moved) + generator.normal(size=(count, 30)), labels

    own, other, z = head_accuracies(*part(300, 0.0), *part(150, 0.0))
    assert own > 0.9
    assert abs(own - other) < 0.08
    assert abs(z) < 4
    own, other, z = head_accuracies(*part(300, 0.0), *part(150, 1.0))
    assert own - other > 0.3
    assert z > 4


def test_the_chance_of_a_class_is_exact_where_labels_say_nothing(rng):
    # A mark on three images in a hundred and classes of twelve, far from any normal distribution; and a normal one.
    marks, vectors = (rng.random((240, 1)) < 0.03).astype(float), rng.normal(size=(120, 15))
    draws, level = 400, 0.05
    for design, labels in ((marks, np.arange(240) % 20), (vectors, (np.arange(120) < 40).astype(np.int64))):
        lowest = np.array(
            [class_chances(design, rng.permutation(labels), shuffles=99, seed=n).min() for n in range(draws)]
        )
        # Bin(400, 0.05) is above 43 once in a million times.
        assert (lowest <= level).sum() <= 43
    # Without ties the p-values are uniform: Bin(400, 0.05) is below 3 once in a million times.
    assert (lowest <= level).sum() >= 3
    assert 0.4 < lowest.mean() < 0.6


def test_the_chance_of_a_class_that_differs_is_small_and_that_of_others_is_not(rng):
    labels = np.arange(600) % 20
    design = rng.normal(size=(600, 10)) + 1.5 * (labels == 4)[:, None]
    chances = class_chances(design, labels, shuffles=499)
    assert chances[4] == 1 / 500
    assert np.median(chances) > 0.05


def test_classes_too_small_or_alone_have_no_chance(rng):
    labels = np.array([0] * 50 + [1] * 5)
    assert (class_chances(rng.normal(size=(55, 3)), labels, fewest=51) == 1).all()
    assert class_chances(rng.normal(size=(55, 3)), labels, fewest=10, shuffles=9)[1] == 1
    assert (class_chances(rng.normal(size=(55, 3)), np.zeros(55, np.int64)) == 1).all()
    # What is the same in all images tells nothing.
    assert (class_chances(np.ones((55, 3)), labels) == 1).all()
