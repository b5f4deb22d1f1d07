"""The rejection threshold: the stated rate is used up and never exceeded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.runtime.prediction import choose_rejection_threshold, rejected_share

# Thousandths, and confidences that only their last digits tell apart: 0.999999 and 0.9999995.
confidence_lists = st.lists(
    st.integers(500, 1000).map(lambda n: n / 1000) | st.sampled_from([0.999999, 0.9999995, 0.700001]),
    min_size=1,
    max_size=60,
)


@given(confidences=confidence_lists, rate=st.floats(0, 1, exclude_max=True))
def test_the_stated_rate_is_never_exceeded_and_used_up(confidences, rate):
    top = np.array(confidences, np.float32)
    threshold = choose_rejection_threshold(np.stack([top, 1 - top], axis=1), rate)
    rejected = float((top < threshold).mean())
    assert 0 <= threshold <= 1
    assert rejected <= rate + 1e-9
    # The next image, with all that noise could not tell from it, would be too many.
    rest = np.sort(top[top >= threshold])
    alike = np.flatnonzero(np.diff(rest) > 5e-6)
    group = len(rest) if len(alike) == 0 else alike[0] + 1
    assert rejected + group / len(top) > rate
    for noise in (-1e-6, 1e-6):
        assert float((top + np.float32(noise) < threshold).mean()) == rejected


def test_where_nothing_may_be_rejected_the_threshold_is_just_below_all():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.99, 0.01]], np.float32)
    assert choose_rejection_threshold(probabilities, 0.0) == pytest.approx(0.8, abs=1e-5)
    assert choose_rejection_threshold(probabilities, 0.3) == choose_rejection_threshold(probabilities, 0.0)
    assert choose_rejection_threshold(probabilities, 1 / 3) == pytest.approx(0.85, abs=1e-5)


def test_a_rate_out_of_range_is_refused():
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="bad false-rejection rate"):
            choose_rejection_threshold(np.array([[0.5, 0.5]], np.float32), rate)


@pytest.mark.parametrize(
    ("probabilities", "words"),
    [(np.empty((0, 2), np.float32), "no validation images"), (np.array([[np.nan, 1]], np.float32), "not finite")],
)
def test_what_says_nothing_is_refused(probabilities, words):
    with pytest.raises(InputError, match=words):
        choose_rejection_threshold(probabilities, 0.1)


def test_the_rejected_share_is_of_confidences_below_the_threshold():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]], np.float32)
    assert [rejected_share(probabilities, threshold) for threshold in (0.0, 0.65, 0.75, 1.0)] == [0.0, 0.25, 0.5, 1.0]
