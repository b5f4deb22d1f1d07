"""Labels that do not flicker: what averaging and hysteresis must hold for any probabilities at any times."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.live.smoothing import UNKNOWN_INDEX, LabelState, Smoothing, smooth

steps = st.floats(0, 5)
smoothings = st.builds(
    Smoothing, time_constant_s=st.floats(0, 5), margin=st.floats(0, 0.9), hold_s=st.floats(0, 3)
)  # fmt: skip


@st.composite
def sequences(draw, max_size=30):
    """Probabilities of some classes, and the pause before each."""
    classes = draw(st.integers(2, 5))
    rows = draw(
        st.lists(st.lists(st.floats(0.001, 1), min_size=classes, max_size=classes), min_size=1, max_size=max_size)
    )
    values = [np.array(row) / sum(row) for row in rows]
    return values, [draw(steps) for _ in values]


def run(values, pauses, smoothing, threshold=None):
    state, at_s, states = None, 0.0, []
    for row, pause in zip(values, pauses, strict=True):
        at_s += pause
        state = smooth(state, row, at_s, smoothing, threshold)
        states.append(state)
    return states


@given(sequences(), smoothings, st.one_of(st.none(), st.floats(0, 1)))
def test_the_mean_stays_a_distribution_and_its_inputs_stay_as_they_are(sequence, smoothing, threshold):
    values, pauses = sequence
    before = [row.copy() for row in values]
    for state in run(values, pauses, smoothing, threshold):
        assert math.isclose(state.mean.sum(), 1, abs_tol=1e-9)
        assert state.mean.min() >= -1e-12
        assert 0 <= state.confidence <= 1 + 1e-9
    assert all(np.array_equal(a, b) for a, b in zip(values, before, strict=True))


@given(sequences(), st.one_of(st.none(), st.floats(0, 1)))
def test_switched_off_it_is_each_frames_own_label(sequence, threshold):
    values, pauses = sequence
    assert Smoothing().is_off
    for row, state in zip(values, run(values, pauses, Smoothing(), threshold), strict=True):
        rejected = threshold is not None and row.max() < threshold
        assert state.index == UNKNOWN_INDEX if rejected else row[state.index] == row.max()
        assert state.confidence == pytest.approx(row.max())


@given(sequences(), st.floats(0.01, 5), st.integers(1, 5))
def test_a_pause_counts_the_same_in_one_step_or_in_several(sequence, time_constant_s, parts):
    (first, *_), _ = sequence
    second = first[::-1]
    smoothing = Smoothing(time_constant_s)
    start = LabelState(first, 0.0, 0)
    whole = smooth(start, second, 1.0, smoothing)
    state = start
    for part in range(1, parts + 1):
        state = smooth(state, second, part / parts, smoothing)
    np.testing.assert_allclose(state.mean, whole.mean, atol=1e-12)
    # The documented formula, for a full exchange of evidence.
    np.testing.assert_allclose(whole.mean, second + (first - second) * math.exp(-1 / time_constant_s), atol=1e-12)


@given(sequences(), smoothings)
def test_labels_change_no_faster_than_they_are_held(sequence, smoothing):
    values, pauses = sequence
    states = run(values, pauses, smoothing)
    changes = [b.at_s for a, b in itertools.pairwise(states) if a.index != b.index]
    assert all(later - earlier >= smoothing.hold_s for earlier, later in itertools.pairwise(changes))


@given(sequences(), smoothings)
def test_a_change_has_its_margin_and_a_lasting_lead_is_never_ignored(sequence, smoothing):
    values, pauses = sequence
    states = run(values, pauses, smoothing)
    for before, after in itertools.pairwise(states):
        if before.index != after.index:
            assert after.mean[after.index] - after.mean[before.index] >= smoothing.margin
            assert after.mean[after.index] == after.mean.max()
    # One-sided evidence for a whole minute wins, whatever came before.
    certain = np.eye(len(values[0]))[-1]
    state = states[-1]
    for second in range(1, 61):
        state = smooth(state, certain, states[-1].at_s + second, smoothing)
    assert state.index == len(values[0]) - 1


@given(sequences(), smoothings, st.floats(0, 1))
def test_a_label_is_never_less_probable_than_the_threshold(sequence, smoothing, threshold):
    values, pauses = sequence
    for state in run(values, pauses, smoothing, threshold):
        assert state.rejected or state.mean[state.index] >= threshold


def test_a_label_that_falls_below_the_threshold_is_unknown_at_once_and_another_comes_by_its_margin_and_time():
    a, b, surely_b = np.array([0.9, 0.1]), np.array([0.45, 0.55]), np.array([0.2, 0.8])
    # B leads A, but not by the margin; A is not sure any more.
    states = run([a, b, surely_b], [1, 1, 1], Smoothing(margin=0.2), threshold=0.5)
    assert [state.label("AB") for state in states] == ["A", "unknown", "B"]
    states = run([a, surely_b, surely_b, surely_b], [1, 1, 1, 1], Smoothing(hold_s=2), threshold=0.5)
    assert [state.label("AB") for state in states] == ["A", "unknown", "unknown", "B"]
    # Without a threshold the label stays until the other one's time has come.
    states = run([a, surely_b, surely_b, surely_b], [1, 1, 1, 1], Smoothing(hold_s=2))
    assert [state.label("AB") for state in states] == ["A", "A", "A", "B"]


def test_flicker_between_two_classes_leaves_the_label_alone():
    values = [np.array([0.6, 0.4]), np.array([0.4, 0.6])] * 50
    pauses = [1 / 30] * 100
    assert len({state.index for state in run(values, pauses, Smoothing())}) == 2
    assert {state.index for state in run(values, pauses, Smoothing(0.5, margin=0.05))} == {0}
    assert {state.index for state in run(values, pauses, Smoothing(margin=0.3))} == {0}
    assert {state.index for state in run(values, pauses, Smoothing(hold_s=0.1))} == {0}


def test_below_the_threshold_the_label_is_unknown_and_comes_back_with_a_margin():
    sure, unsure, nearly = np.array([0.9, 0.1]), np.array([0.55, 0.45]), np.array([0.72, 0.28])
    states = run([sure, unsure, nearly, sure], [1, 1, 1, 1], Smoothing(margin=0.1), threshold=0.7)
    assert [state.label(("a", "b")) for state in states] == ["a", "unknown", "unknown", "a"]
    assert [state.rejected for state in states] == [False, True, True, False]
    # Also where the threshold and the margin together exceed what a probability can be.
    assert run([unsure, sure], [1, 1], Smoothing(margin=0.5), threshold=0.8)[-1].index == 0


def test_a_model_with_other_classes_begins_anew():
    state = smooth(None, np.array([0.1, 0.9]), 0.0, Smoothing(5.0))
    assert smooth(state, np.array([0.8, 0.1, 0.1]), 0.1, Smoothing(5.0)).index == 0


def test_a_clock_that_goes_back_does_no_harm():
    state = smooth(None, np.array([0.1, 0.9]), 10.0, Smoothing(1.0))
    state = smooth(state, np.array([0.9, 0.1]), 5.0, Smoothing(1.0))
    assert state.at_s == 10.0
    assert state.index == 1


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (0, 1.0, 0), (0, 0, math.nan), (math.inf, 0, 0)])
def test_numbers_that_make_no_sense(numbers):
    with pytest.raises(UsageError, match="bad smoothing"):
        Smoothing(*numbers)
