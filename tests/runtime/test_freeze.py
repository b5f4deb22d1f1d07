"""When a camera counts as frozen."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.freeze import FreezeDetector


def noise():
    return np.random.default_rng().integers(0, 256, (64, 80, 3), dtype=np.uint8)


def test_silence_and_a_still_picture_are_two_kinds_of_frozen():
    detector = FreezeDetector(2.0, started_s=10.0)
    assert detector.ask(11.9) is None
    assert detector.ask(12.1) == "no new frame for 2.1 s"
    assert detector.ask(20.0) is None  # said once
    still = noise()
    detector.see(still, 20.0)
    assert detector.ask(20.1) == ""
    for at_s in np.arange(20.1, 22.5, 0.1):
        detector.see(still.copy(), float(at_s))
    assert detector.ask(22.5) == "the same picture for 2.5 s"
    detector.see(noise(), 22.6)
    assert detector.ask(22.6) == ""
    assert detector.freezes == 2


def test_a_picture_of_another_size_is_another_picture():
    detector = FreezeDetector(1.0, started_s=0.0)
    black = np.zeros((64, 80, 3), np.uint8)
    detector.see(black, 0.5)
    detector.see(black[:32], 1.4)
    assert detector.ask(1.6) is None


@given(st.lists(st.floats(0, 3), max_size=50), st.floats(0.1, 3))
def test_it_is_frozen_exactly_while_the_last_new_picture_is_old(pauses, after_s):
    detector = FreezeDetector(after_s, started_s=0.0)
    now_s, moved_s, frozen, freezes = 0.0, 0.0, False, 0
    for number, pause_s in enumerate(pauses):
        now_s += pause_s
        if number % 2:
            detector.see(np.full((16, 16, 3), number, np.uint8), now_s)
            moved_s = now_s
        change = detector.ask(now_s)
        expected = now_s - moved_s >= after_s
        assert (change is not None) == (expected != frozen)
        frozen, freezes = expected, freezes + (expected and not frozen)
    assert detector.freezes == freezes
