"""Tests and effect sizes against their definitions, by enumeration and by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeclf.toolkit.doctor.statistics import (
    below_tail,
    best_balanced_accuracy,
    binomial_standard_error,
    binomial_tail,
    class_mix_difference,
    cliffs_delta,
    detectable_difference,
    fisher_tails,
    gamma_tail,
    holm_rejects,
    is_above_chance,
    is_below,
    less_accurate_tail,
    mann_tail,
    mid_ranks,
    paired_drop,
    pearson3_tail,
    stratified_auc,
    van_elteren,
)


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
    assert cliffs_delta(values, group, one, 0.0) == pytest.approx((pairs > 0).mean() - (pairs < 0).mean())
    assert cliffs_delta(values, group, one, 1.5) == pytest.approx((pairs > 1.5).mean() - (pairs < -1.5).mean())
    assert cliffs_delta(-values, group, one, 1.5) == pytest.approx(-cliffs_delta(values, group, one, 1.5))
    assert best_balanced_accuracy(values, group) >= max(0.5, area / 2)


def test_missing_values_are_left_out(rng):
    values = rng.normal(size=50)
    group, strata = np.arange(50) < 20, np.zeros(50, np.int64)
    with_holes = np.concatenate([values, np.full(10, np.nan)])
    more_group, more_strata = np.concatenate([group, np.arange(10) < 5]), np.zeros(60, np.int64)
    assert cliffs_delta(with_holes, more_group, more_strata, 0.1) == cliffs_delta(values, group, strata, 0.1)
    assert van_elteren(with_holes, more_group, more_strata) == pytest.approx(van_elteren(values, group, strata))


def test_rank_z_is_a_standard_normal_where_nothing_differs(rng):
    group, strata = np.arange(120) < 40, np.arange(120) % 3
    found = [van_elteren(np.round(rng.normal(size=120), 1), group, strata)[0] for _ in range(300)]
    assert abs(np.mean(found)) < 0.25
    assert 0.8 < np.std(found) < 1.2
    assert van_elteren(np.zeros(120), group, strata) == (0.0, 1.0)


def test_the_detectable_difference_is_found_four_times_in_five(rng):
    accuracy, images = 0.85, 600
    difference = detectable_difference(accuracy, images)
    discordant = 2 * accuracy * (1 - accuracy)
    better, worse = (discordant + difference) / 2, (discordant - difference) / 2
    draws = rng.multinomial(images, [better, worse, 1 - discordant], size=4000)
    z = (draws[:, 0] - draws[:, 1]) / np.sqrt(draws[:, 0] + draws[:, 1])
    assert 0.76 < (np.abs(z) > 1.96).mean() < 0.84
    assert detectable_difference(accuracy, 4 * images) == pytest.approx(difference / 2, rel=0.03)
    assert detectable_difference(1.0, 5) <= 1.0


def test_the_chance_of_a_class_mix_is_that_of_sampling(rng):
    train = np.array([400, 300, 300])
    drawn = rng.multivariate_hypergeometric(train, 200, size=600)
    found = np.array([class_mix_difference(train - test, test) for test in drawn])
    # Bin(600, 0.05): outside of this once in a million times.
    assert 9 <= (found[:, 1] < 0.05).sum() <= 60
    assert abs(found[:, 0].mean()) < 0.01
    distance, chance = class_mix_difference([600, 400], [400, 600])
    # Two random halves of 1,000 differ by 0.018 on average.
    assert distance == pytest.approx(0.2 - 0.018, abs=0.001)
    assert chance < 1e-3
    assert class_mix_difference([10, 20], [5, 10])[1] > 0.5


def test_many_classes_of_few_images_are_no_other_mix(rng):
    both = np.full(300, 5)
    found = []
    for _ in range(8):
        test = rng.multivariate_hypergeometric(both, 300, method="marginals")
        found.append(class_mix_difference(both - test, test))
    # The distance of random splits themselves is 0.4; Bin(8, 0.01) is more than 3 once in two million times.
    assert np.abs(np.array(found)[:, 0]).max() < 0.1
    assert sum(chance < 0.01 for _, chance in found) <= 3


def test_a_class_mix_of_nothing_is_none():
    assert class_mix_difference([10, 20], [0, 0]) == (0.0, 1.0)


@settings(derandomize=True)
@given(images=st.integers(20, 5000), trials=st.integers(1, 100), seed=st.integers(0, 1 << 30))
def test_guessing_is_rarely_called_learning(images, trials, seed):
    best = np.random.default_rng(seed).binomial(images, 0.5, trials).max() / images
    assert not is_above_chance(best, 0.5, images, trials=trials * 50)


@settings(max_examples=25)
@given(images=st.integers(1, 80), chance=st.floats(0.001, 0.9), trials=st.integers(1, 30))
def test_what_is_above_chance_is_so_once_in_a_thousand_by_guessing(images, chance, trials):
    tails = [binomial_tail(hits, images, chance) for hits in range(images + 1)]
    for hits, tail in enumerate(tails):
        assert is_above_chance(hits / images, chance, images, trials=trials) == (tail < 0.001 / trials)
        below = hits < images and 1 - tails[hits + 1] < 0.001
        assert is_below(hits / images, chance, images) == (below and hits / images < chance)
    assert not is_above_chance(math.nan, chance, images)
    assert not is_below(math.nan, chance, images)
    assert below_tail(math.nan, chance, images) == below_tail(0.0, chance, 0) == 1.0


@given(images=st.integers(1, 40), others=st.integers(1, 40), data=st.data())
def test_one_accuracy_is_below_another_by_all_ways_to_deal_the_errors_out(images, others, data):
    right, right_of_others = data.draw(st.integers(0, images)), data.draw(st.integers(0, others))
    wrong, marks = images - right, images - right + others - right_of_others
    ways = sum(math.comb(images, k) * math.comb(others, marks - k) for k in range(wrong, min(images, marks) + 1))
    is_lower = right / images < right_of_others / others
    expected = ways / math.comb(images + others, marks) if is_lower else 1.0
    tail = less_accurate_tail(right / images, images, right_of_others / others, others)
    assert tail == pytest.approx(expected, rel=1e-9)
    assert less_accurate_tail(math.nan, images, 1.0, others) == less_accurate_tail(0.0, 0, 1.0, others) == 1.0


@given(shape=st.floats(0.02, 1e5), away=st.floats(-8, 12), skewness=st.floats(-2.5, 2.5))
def test_tails_of_gamma_and_of_pearsons_third_type(shape, away, skewness):
    stats = pytest.importorskip("scipy.stats")
    point = max(1e-9, shape + away * math.sqrt(shape))
    assert gamma_tail(shape, point) == pytest.approx(stats.gamma.sf(point, shape), rel=1e-6, abs=1e-10)
    assert pearson3_tail(away, skewness) == pytest.approx(stats.pearson3.sf(away, skewness), rel=1e-4, abs=1e-5)


def test_a_value_that_few_images_have_is_judged_by_all_ways_to_deal_it_out():
    # Four of 40 have a frame, all in a split of eight: once in 1,300 times, and not in 30,000 as a normal distribution has it.
    values, group = np.arange(40) < 4, np.arange(40) < 8
    z, chance = van_elteren(values.astype(float), group, np.zeros(40, np.int64))
    assert z > 4
    assert math.comb(8, 4) / math.comb(40, 4) < chance < 3 * math.comb(8, 4) / math.comb(40, 4)


@pytest.mark.parametrize("count", [2, 5, 6])
def test_the_chance_of_a_trend_is_that_of_counting_orders(count):
    orders = list(itertools.permutations(range(count)))
    rises = [sum(b > a for a, b in itertools.combinations(order, 2)) for order in orders]
    for most in range(max(rises) + 1):
        assert mann_tail(count, most) == pytest.approx(np.mean(np.array(rises) <= most))


def test_the_paired_test_counts_only_images_that_changed():
    before = np.array([True] * 90 + [False] * 10)
    assert paired_drop(before, before) == (0.0, 1.0)
    after = before.copy()
    after[:10] = False
    drop, chance = paired_drop(before, after)
    assert drop == pytest.approx(0.1)
    assert chance == pytest.approx(2**-10)
    better, certain = paired_drop(after, before)
    assert (better, certain) == (pytest.approx(-0.1), 1.0)


def test_a_fraction_of_none_or_all_has_a_standard_error():
    assert binomial_standard_error(0.0, 20) > 0.03
    assert binomial_standard_error(1.0, 20) == pytest.approx(binomial_standard_error(0.0, 20))
    assert binomial_standard_error(0.5, 10_000) == pytest.approx(0.005, rel=0.01)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=2, max_size=4))
def test_fishers_tail_counts_the_ways_to_deal_the_marks(drawn):
    counts = np.array([count for count, _ in drawn])
    marked = np.array([min(drawn_marks, count) for count, drawn_marks in drawn])
    total, marks = int(counts.sum()), int(marked.sum())
    for members, own, found in zip(counts, marked, fisher_tails(counts, marked), strict=True):
        ways = sum(
            math.comb(int(members), k) * math.comb(total - int(members), marks - k)
            for k in range(int(own), min(int(members), marks) + 1)
        )
        assert found == pytest.approx(ways / math.comb(total, marks), rel=1e-9)


@given(st.integers(1, 12), st.floats(0, 1), st.data())
def test_a_binomial_tail_is_the_sum_of_its_terms(trials, probability, data):
    count = data.draw(st.integers(0, trials + 1))
    terms = [
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(count, trials + 1)
    ]
    assert binomial_tail(count, trials, probability) == pytest.approx(math.fsum(terms), rel=1e-9, abs=1e-300)


def test_a_binomial_tail_of_many_trials_is_a_number():
    assert binomial_tail(50_000, 100_000, 0.5) == pytest.approx(0.5, abs=0.01)
    assert 0 < binomial_tail(51_000, 100_000, 0.5) < 1e-9


def test_holm_rejects_in_order_until_the_first_that_holds():
    assert holm_rejects(np.array([0.02, 0.001, 0.9, 0.004]), 0.015).tolist() == [False, True, False, True]
    assert holm_rejects(np.array([0.02, 0.006, 0.9, 0.0001]), 0.015).tolist() == [False, False, False, True]
    assert holm_rejects(np.array([0.005, 0.005]), 0.01).tolist() == [True, True]
    assert holm_rejects(np.array([0.5, 0.006]), 0.01).tolist() == [False, False]
    assert holm_rejects(np.array([]), 0.01).tolist() == []
