"""Paired counts of two classifiers and the interval of their difference."""

import numpy as np
import pytest

from edgeclf.export.verify.paired import PairedCounts, paired_counts


def test_counts_are_those_of_the_four_cases(rng):
    first, second = rng.random((2, 100)) < 0.7
    counts = paired_counts(first, second)
    assert (counts.images, counts.both) == (100, int((first & second).sum()))
    assert counts.first_accuracy == pytest.approx(first.mean())
    assert counts.second_accuracy == pytest.approx(second.mean())
    assert counts.difference == pytest.approx(second.mean() - first.mean())
    low, high = counts.interval()
    assert low < counts.difference < high


def test_the_interval_has_the_sign_of_what_was_won():
    assert PairedCounts(200, 150, 0, 20).interval()[0] > 0
    assert PairedCounts(200, 150, 20, 0).interval()[1] < 0
    low, high = PairedCounts(200, 150, 10, 10).interval()
    assert low < 0 < high


def test_more_comparisons_are_wider():
    one, ten = (PairedCounts(200, 150, 4, 14).interval(count) for count in (1, 10))
    assert ten[0] < one[0] < one[1] < ten[1]


def test_without_images_nothing_is_known():
    counts = paired_counts(np.zeros(0, bool), np.zeros(0, bool))
    assert (counts.first_accuracy, counts.difference) == (None, 0.0)
    assert counts.interval() == (-1.0, 1.0)
    with pytest.raises(ValueError, match="expected"):
        paired_counts(np.zeros(3, bool), np.zeros(2, bool))
