"""Figures by hand, and against a slow definition in plain Python."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import InputError
from edgeclf.runtime.metrics import (
    CALIBRATION_BINS,
    Z_95,
    binomial_tail,
    calibration_bins,
    classification_report,
    expected_calibration_error,
    paired_accuracy_interval,
    wilson_interval,
)

LABELS = ("ant", "bee", "cat")


def one_hot(predicted, confidence=1.0, classes=3):
    rows = np.full((len(predicted), classes), (1 - confidence) / (classes - 1), np.float32)
    rows[np.arange(len(predicted)), predicted] = confidence
    return rows


def test_figures_by_hand():
    report = classification_report(one_hot([0, 0, 1, 1, 1, 0]), [0, 0, 0, 1, 1, 2], LABELS)
    assert report.count == 6
    assert report.accuracy == pytest.approx(4 / 6)
    assert report.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    ant, bee, cat = report.per_class
    assert (ant.label, ant.support, ant.precision, ant.recall, ant.f1) == ("ant", 3, 2 / 3, 2 / 3, 2 / 3)
    assert (bee.support, bee.precision, bee.recall, bee.f1) == (2, 2 / 3, 1.0, 0.8)
    # No image was called a cat: its precision does not exist, its recall is 0.
    assert (cat.support, cat.precision, cat.recall, cat.f1) == (1, None, 0.0, 0.0)
    assert report.macro_f1 == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    assert report.labels == LABELS


def test_a_class_that_neither_occurs_nor_is_predicted_has_no_figures_and_no_part_in_the_mean():
    report = classification_report(one_hot([0, 1]), [0, 1], LABELS)
    assert (report.per_class[2].precision, report.per_class[2].recall, report.per_class[2].f1) == (None, None, None)
    assert report.macro_f1 == 1.0
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["per_class"][2] == {"label": "cat", "support": 0, "precision": None, "recall": None, "f1": None}
    assert document["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_calibration_error_is_small_where_confidence_is_accuracy_and_large_where_it_is_more():
    predicted, true = [0] * 100, [0] * 80 + [1] * 20
    calibrated = classification_report(one_hot(predicted, 0.8), true, LABELS)
    over_confident = classification_report(one_hot(predicted, 0.99), true, LABELS)
    under_confident = classification_report(one_hot(predicted, 0.6), true, LABELS)
    assert calibrated.expected_calibration_error == pytest.approx(0.0, abs=1e-6)
    assert over_confident.expected_calibration_error == pytest.approx(0.19, abs=1e-6)
    assert under_confident.expected_calibration_error == pytest.approx(0.2, abs=1e-6)


def test_calibration_bins_are_weighted_by_their_images_and_closed_above():
    # Gaps of 0.1 over three images and 0.5 over one, in bins of their own.
    confidences, correct = np.array([0.9, 0.9, 0.9, 0.5]), np.array([True, True, True, False])
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.75 * 0.1 + 0.25 * 0.5)
    # 1/15 lies in the first bin (0, 1/15], so that the two cancel; 1/15 + 1e-6 does not.
    assert expected_calibration_error(np.array([1 / 15, 0.0]), np.array([False, True])) == pytest.approx(7 / 15)
    apart = expected_calibration_error(np.array([1 / 15 + 1e-6, 0.0]), np.array([False, True]))
    assert apart == pytest.approx((1 / 15 + 1) / 2, abs=1e-5)


def slow_figures(probabilities, true, classes):
    """Accuracy, confusion, per class (precision, recall, f1) and calibration error, by definition."""
    predicted = [max(range(classes), key=lambda c, row=row: (row[c], -c)) for row in probabilities]
    pairs = list(zip(true, predicted, strict=True))
    figures = []
    for c in range(classes):
        hits = sum(t == p == c for t, p in pairs)
        called, there = sum(p == c for _, p in pairs), sum(t == c for t, _ in pairs)
        precision = hits / called if called else None
        recall = hits / there if there else None
        f1 = 2 * hits / (called + there) if called + there else None
        figures.append((precision, recall, f1))
    gap = 0.0
    for b in range(CALIBRATION_BINS):
        inside = [
            (max(row), t == p)
            for row, (t, p) in zip(probabilities, pairs, strict=True)
            if b < max(row) * CALIBRATION_BINS <= b + 1 or (b == 0 and max(row) == 0)
        ]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            gap += len(inside) / len(pairs) * abs(confidence - accuracy)
    confusion = [[pairs.count((t, p)) for p in range(classes)] for t in range(classes)]
    return sum(t == p for t, p in pairs) / len(pairs), confusion, figures, gap


@st.composite
def measured(draw):
    classes = draw(st.integers(1, 5))
    count = draw(st.integers(1, 20))
    # Multiples of 1/64 are exact in float32 and float64 alike, and ties are common.
    row = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=classes, max_size=classes)
    rows = draw(st.lists(row, min_size=count, max_size=count))
    true = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return rows, true, classes


@given(measured())
def test_figures_against_their_definitions(case):
    rows, true, classes = case
    report = classification_report(np.array(rows, np.float32), true, [f"class {c}" for c in range(classes)])
    accuracy, confusion, figures, gap = slow_figures(rows, true, classes)
    assert report.accuracy == pytest.approx(accuracy)
    assert report.confusion.tolist() == confusion
    for got, wanted in zip(report.per_class, figures, strict=True):
        assert (got.precision, got.recall, got.f1) == wanted
    assert report.expected_calibration_error == pytest.approx(gap, abs=1e-6)
    assert math.isfinite(report.macro_f1)
    assert sum(f.support for f in report.per_class) == report.count == len(true)


@pytest.mark.parametrize(
    ("probabilities", "true", "words"),
    [
        (np.empty((0, 3), np.float32), [], "at least one image"),
        (one_hot([0, 1]), [0], "for 1 images"),
        (one_hot([0, 1], classes=2), [0, 1], r"expected \(N, 3\)"),
        (np.ones(3, np.float32), [0, 1, 2], r"probabilities \(3,\)"),
        (one_hot([0, 1]), [[0], [1]], "class indices of shape"),
        (one_hot([0, 1]), [0, 3], r"0\.\.3.*expected 0\.\.2"),
        (one_hot([0, 1]), [-1, 1], r"-1\.\.1"),
        (np.where(one_hot([0, 1]) == 1, np.nan, 0), [0, 1], "not finite"),
        (np.where(one_hot([0, 1]) == 1, np.inf, 0), [0, 1], "not finite"),
    ],
)
def test_what_cannot_be_measured_is_an_error(probabilities, true, words):
    with pytest.raises(InputError, match=words):
        classification_report(probabilities, true, LABELS)


def test_a_calibration_error_of_nothing_is_an_error():
    with pytest.raises(InputError, match="no images"):
        expected_calibration_error(np.empty(0), np.empty(0, bool))


@given(measured())
def test_the_bins_of_a_reliability_diagram_give_the_calibration_error(case):
    rows, true, _ = case
    probabilities = np.array(rows, np.float32)
    confidences, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    counts, means, shares = calibration_bins(confidences, correct)
    assert len(counts) == CALIBRATION_BINS
    assert counts.sum() == len(true)
    there = counts > 0
    assert np.isnan(means[~there]).all()
    assert np.isnan(shares[~there]).all()
    edges = np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS
    assert (means[there] <= edges[1:][there] + 1e-6).all()
    assert (means[there] >= edges[:-1][there] - 1e-6).all()
    gap = (counts * np.abs(shares - means))[there].sum() / len(true)
    assert expected_calibration_error(confidences, correct) == pytest.approx(gap, abs=1e-9)


# Wilson's interval for 0 of 10 and 90 of 100, from Brown, Cai and DasGupta (Statistical Science 16, 2001).
@pytest.mark.parametrize(
    ("accuracy", "images", "low", "high"), [(0.0, 10, 0.0, 0.2775), (0.9, 100, 0.8256, 0.9448), (1.0, 10, 0.7225, 1.0)]
)
def test_wilson_interval_by_published_values(accuracy, images, low, high):
    assert wilson_interval(accuracy * images, images, z=Z_95) == pytest.approx((low, high), abs=1e-3)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_shrinks(pair):
    hits, count = pair
    low, high = wilson_interval(hits, count, z=Z_95)
    assert 0 <= low <= hits / count <= high <= 1
    assert low < high
    wider = wilson_interval(hits * 2, count * 2, z=Z_95)
    assert wider[1] - wider[0] < high - low


def test_wilson_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.9 <= high for low, high in (wilson_interval(int(k), 80, z=Z_95) for k in rng.binomial(80, 0.9, 4000))
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def restricted_score(harmful, beneficial, images, drop):
    """Tango's statistic with the restricted likelihood maximised on a grid, in place of his formula."""
    gain = np.linspace(max(0.0, -drop), (1 - drop) / 2, 200_001)[1:-1]
    loss, rest = gain + drop, 1 - 2 * gain - drop
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = harmful * np.log(loss) + beneficial * np.log(gain) + (images - harmful - beneficial) * np.log(rest)
    best = int(np.nanargmax(likelihood))
    return (harmful - beneficial - images * drop) / math.sqrt(images * (loss[best] + gain[best] - drop * drop))


@pytest.mark.parametrize(("harmful", "beneficial", "images"), [(5, 1, 100), (86, 150, 1600), (3, 9, 40), (30, 30, 379)])
def test_the_ends_of_the_paired_interval_are_drops_that_the_counts_just_reject(harmful, beneficial, images):
    low, high = paired_accuracy_interval(harmful, beneficial, images)
    assert restricted_score(harmful, beneficial, images, low) == pytest.approx(Z_95, abs=2e-3)
    assert restricted_score(harmful, beneficial, images, high) == pytest.approx(-Z_95, abs=2e-3)


def test_without_flips_the_paired_interval_is_that_of_a_share_of_none():
    for images in (1, 100, 379, 400, 10_000):
        low, high = paired_accuracy_interval(0, 0, images)
        assert high == pytest.approx(wilson_interval(0, images, z=Z_95)[1])
        assert low == pytest.approx(-high)
    assert paired_accuracy_interval(0, 0, 0) == (-1.0, 1.0)


def test_flips_all_one_way_have_the_interval_of_their_share():
    for flips, images in ((1, 50), (7, 400), (50, 50)):
        assert paired_accuracy_interval(flips, 0, images)[1] == pytest.approx(wilson_interval(flips, images, z=Z_95)[1])
    assert paired_accuracy_interval(50, 0, 50)[1] == pytest.approx(1.0)
    assert paired_accuracy_interval(0, 50, 50)[0] == pytest.approx(-1.0)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5000))
def test_the_paired_interval_holds_the_measured_drop_and_turns_with_the_sides(harmful, beneficial, unchanged):
    images = harmful + beneficial + unchanged
    low, high = paired_accuracy_interval(harmful, beneficial, images)
    assert -1.0 <= low <= high <= 1.0
    if images:
        assert low <= (harmful - beneficial) / images <= high
    assert paired_accuracy_interval(beneficial, harmful, images) == (-high, -low)
    # Ten times the images, the same shares: a narrower interval.
    if images > 1:
        wide = paired_accuracy_interval(10 * harmful, 10 * beneficial, 10 * images)
        assert wide[1] - wide[0] < high - low


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_counts_that_cannot_be_have_no_paired_interval(counts):
    with pytest.raises(ValueError, match="no paired counts"):
        paired_accuracy_interval(*counts)


@pytest.mark.parametrize(("loss", "gain"), [(0.01, 0.0), (0.02, 0.01), (0.05, 0.05), (0.06, 0.02)])
def test_the_paired_interval_covers_the_true_drop_as_often_as_it_says(rng, loss, gain):
    images, repetitions = 400, 4000
    counts = rng.multinomial(images, [loss, gain, 1 - loss - gain], size=repetitions)
    pairs, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    ends = np.array([paired_accuracy_interval(int(harmful), int(beneficial), images) for harmful, beneficial in pairs])
    true = loss - gain
    above = times[ends[:, 1] < true].sum() / repetitions
    below = times[ends[:, 0] > true].sum() / repetitions
    # 2.5 % on each side, but counts are whole numbers: with 4 harmful flips expected and no beneficial ones, 8 or more come
    # in 5.1 % of repetitions, and then the lower end is above the true drop.
    assert above < 0.035
    assert below < 0.07


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.001, 0.999))
def test_the_binomial_tail_is_the_sum_of_its_definition(hits, more, share):
    count = hits + more
    expected = sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(hits, count + 1))
    assert binomial_tail(hits, count, share) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_binomial_tail_of_many_trials_and_of_certain_ones():
    assert binomial_tail(5000, 1_000_000, 0.005) == pytest.approx(0.5, abs=0.01)
    assert binomial_tail(1000, 10_000, 0.005) < 1e-100
    # Far fewer terms than trials are summed, on either side of the mean.
    for hits in (499_000_000, 500_000_000, 500_010_000):
        expected = 0.5 * math.erfc((hits - 0.5e9) / math.sqrt(0.25e9) / math.sqrt(2))
        assert binomial_tail(hits, 1_000_000_000, 0.5) == pytest.approx(expected, abs=1e-3)
    assert (binomial_tail(0, 5, 0.0), binomial_tail(1, 5, 0.0)) == (1.0, 0.0)
    assert (binomial_tail(5, 5, 1.0), binomial_tail(6, 5, 1.0)) == (1.0, 0.0)
