import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeclf.toolkit.doctor.checks.separability import (
    best_accuracy,
    binned,
    head_accuracies,
    held_out_scores,
    mid_ranks,
    rank_z,
    stratified_auc,
    superiority,
    tell_apart,
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
    told = tell_apart(*two_groups(generator, 400, 3.0))
    assert told.auc > 0.95
    assert told.accuracy > 0.85
    assert told.z > 8
    for _ in range(5):
        assert abs(tell_apart(*two_groups(generator, 400, 0.0)).z) < 5


def test_a_yes_or_no_feature_is_worth_what_it_says(generator):
    # Seven of ten inside the group have it, three of ten outside: right for 70 %.
    group = np.arange(600) % 3 == 0
    has = np.where(group, generator.random(600) < 0.7, generator.random(600) < 0.3)
    told = tell_apart(np.stack([has, ~has], axis=1).astype(float), group)
    assert told.auc == pytest.approx(0.5 + ((has[group].mean() - has[~group].mean()) / 2), abs=0.04)
    assert told.z > 4.5


def test_another_mix_of_classes_is_no_difference(generator):
    # Classes differ a lot, and one is much rarer in the second group.
    labels = generator.integers(0, 2, 600)
    group = generator.random(600) < np.where(labels == 1, 0.7, 0.2)
    design = generator.normal(size=(600, 5)) + 4.0 * labels[:, None]
    assert tell_apart(design, group).auc > 0.65
    assert abs(tell_apart(design, group, labels).auc - 0.5) < 0.1


def test_scores_are_held_out(generator):
    # With as many features as pictures anything can be learned by heart.
    design, target = generator.normal(size=(150, 140)), generator.normal(size=(150, 1))
    scores = held_out_scores(design, target)
    assert abs(np.corrcoef(scores[:, 0], target[:, 0])[0, 1]) < 0.4


def test_a_design_that_says_nothing_gives_no_scores():
    scores = held_out_scores(np.ones((20, 3)), np.arange(20.0)[:, None])
    assert (scores == 0).all()


@given(hnp.arrays(np.int64, st.integers(2, 30), elements=st.integers(0, 5)))
def test_ranks_of_equal_values_are_shared(values):
    ranks = mid_ranks(values[:, None].astype(float))[:, 0]
    expected = [(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values]
    assert ranks == pytest.approx(expected)


@settings(max_examples=50)
@given(st.data())
def test_areas_and_deltas_are_those_of_all_pairs(data):
    count = data.draw(st.integers(4, 25))
    values = data.draw(hnp.arrays(np.float64, count, elements=st.integers(-3, 3).map(float)))
    group = data.draw(hnp.arrays(np.bool_, count).filter(lambda g: g.any() and not g.all()))
    pairs = values[group][:, None] - values[~group][None, :]
    area = (pairs > 0).mean() + 0.5 * (pairs == 0).mean()
    assert stratified_auc(values[:, None], group[:, None])[0] == pytest.approx(area)
    one = np.zeros(count, np.int64)
    assert superiority(values, group, one, 0.0) == pytest.approx((pairs > 0).mean() - (pairs < 0).mean())
    assert superiority(values, group, one, 1.5) == pytest.approx((pairs > 1.5).mean() - (pairs < -1.5).mean())
    assert superiority(-values, group, one, 1.5) == pytest.approx(-superiority(values, group, one, 1.5))
    assert best_accuracy(values, group) >= max(0.5, area / 2)


def test_missing_values_are_left_out(generator):
    values = generator.normal(size=50)
    group, strata = np.arange(50) < 20, np.zeros(50, np.int64)
    with_holes = np.concatenate([values, np.full(10, np.nan)])
    more_group, more_strata = np.concatenate([group, np.arange(10) < 5]), np.zeros(60, np.int64)
    assert superiority(with_holes, more_group, more_strata, 0.1) == superiority(values, group, strata, 0.1)
    assert rank_z(with_holes, more_group, more_strata) == pytest.approx(rank_z(values, group, strata))


def test_rank_z_is_a_standard_normal_where_nothing_differs(generator):
    group, strata = np.arange(120) < 40, np.arange(120) % 3
    found = [rank_z(np.round(generator.normal(size=120), 1), group, strata) for _ in range(300)]
    assert abs(np.mean(found)) < 0.25
    assert 0.8 < np.std(found) < 1.2
    assert rank_z(np.zeros(120), group, strata) == 0.0


def test_bins_keep_what_is_common_and_what_is_missing_apart():
    values = np.array([1.0] * 10 + [2.0, 3.0, 0.5] + [np.nan] * 3)
    bins = binned(values[:, None])
    assert (bins.sum(axis=1) == 1).all()
    kinds = bins.argmax(axis=1)
    assert len(set(kinds[:10])) == 1
    assert len({kinds[0], kinds[10], kinds[12], kinds[13]}) == 4


def test_a_head_loses_on_another_part_only_what_differs(generator):
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
