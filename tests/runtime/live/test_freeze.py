"""When a camera counts as frozen."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.live.freeze import FreezeDetector

from ...randomness import fresh_rng


def noise():
    return fresh_rng().integers(0, 256, (64, 80, 3), dtype=np.uint8)


def test_silence_and_a_still_picture_are_two_kinds_of_frozen():
    detector = FreezeDetector(2.0, started_s=10.0)
    assert detector.ask(11.9, 10.0) is None
    assert detector.ask(12.1, 10.0) == "no new frame for 2.1 s"
    assert detector.ask(20.0, 10.0) is None  # said once
    still = noise()
    detector.see(still, 20.0)
    assert detector.ask(20.1, 20.0) == ""
    for at_s in np.arange(20.1, 22.55, 0.1):
        detector.see(still.copy(), float(at_s))
    assert detector.ask(22.5, 22.5) == "the same picture for 2.5 s"
    detector.see(noise(), 22.6)
    assert detector.ask(22.6, 22.6) == ""
    assert detector.freezes == 2


def test_a_camera_of_which_few_frames_are_looked_at_is_not_frozen():
    detector = FreezeDetector(2.0, started_s=0.0)
    for second in range(0, 60, 10):
        detector.see(noise(), float(second))
        for later in range(1, 10):
            assert detector.ask(second + later, second + later - 0.03) is None


def test_a_picture_of_another_size_is_another_picture():
    detector = FreezeDetector(1.0, started_s=0.0)
    black = np.zeros((64, 80, 3), np.uint8)
    detector.see(black, 0.5)
    detector.see(black[:32], 1.4)
    detector.see(black[:32], 1.6)
    assert detector.ask(1.6, 1.6) is None


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 3)), max_size=50), st.floats(0.1, 3))
def test_it_is_frozen_exactly_while_pictures_are_missing_or_the_same(steps, after_s):
    detector = FreezeDetector(after_s, started_s=0.0)
    now_s = moved_s = seen_s = 0.0
    last, frozen, freezes = None, False, 0
    for pause_s, shown in steps:
        now_s += pause_s
        if shown:  # 0 is silence, 1 to 3 are pictures
            detector.see(np.full((16, 16, 3), shown, np.uint8), now_s)
            moved_s, seen_s, last = (moved_s if shown == last else now_s), now_s, shown
        change = detector.ask(now_s, seen_s)
        expected = max(now_s - seen_s, seen_s - moved_s) >= after_s
        assert (change is not None) == (expected != frozen)
        assert not change or change.startswith("no new frame" if now_s - seen_s >= after_s else "the same picture")
        freezes += expected and not frozen
        frozen = expected
    assert detector.freezes == freezes
