"""When a camera counts as frozen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.live.events import Frozen, Recovered
from edgeclf.runtime.live.freeze import FreezeDetector

from ...randomness import fresh_rng


def noise():
    return fresh_rng().integers(0, 256, (64, 80, 3), dtype=np.uint8)


def test_silence_and_a_still_picture_are_two_kinds_of_frozen():
    detector = FreezeDetector("cam", 2.0, started_s=10.0)
    assert detector.check(11.9, 10.0) is None
    assert detector.check(12.1, 10.0) == Frozen("cam", "silent", pytest.approx(2.1))
    assert detector.check(20.0, 10.0) is None  # said once
    still = noise()
    detector.add(still, 20.0)
    assert detector.check(20.1, 20.0) == Recovered("cam")
    for at_s in np.arange(20.1, 22.55, 0.1):
        detector.add(still.copy(), float(at_s))
    assert detector.check(22.5, 22.5) == Frozen("cam", "still", pytest.approx(2.5))
    detector.add(noise(), 22.6)
    assert detector.check(22.6, 22.6) == Recovered("cam")
    assert detector.freezes == 2


def test_a_still_scene_is_not_frozen_while_its_time_stamps_go_on():
    detector = FreezeDetector("cam", 2.0, started_s=0.0)
    still = noise()
    for tenth in range(100):
        detector.add(still.copy(), tenth / 10, source_time_s=5 + tenth / 25)
        assert detector.check(tenth / 10, tenth / 10) is None
    # The same frame again and again.
    for tenth in range(100, 121):
        detector.add(still.copy(), tenth / 10, source_time_s=5 + 99 / 25)
    assert detector.check(12.0, 12.0) == Frozen("cam", "still", pytest.approx(2.1))
    detector.add(still.copy(), 12.1, source_time_s=9.5)
    assert detector.check(12.1, 12.1) == Recovered("cam")


def test_a_camera_of_which_few_frames_are_looked_at_is_not_frozen():
    detector = FreezeDetector("cam", 2.0, started_s=0.0)
    for second in range(0, 60, 10):
        detector.add(noise(), float(second))
        for later in range(1, 10):
            assert detector.check(second + later, second + later - 0.03) is None


def test_a_picture_of_another_size_is_another_picture():
    detector = FreezeDetector("cam", 1.0, started_s=0.0)
    black = np.zeros((64, 80, 3), np.uint8)
    detector.add(black, 0.5)
    detector.add(black[:32], 1.4)
    detector.add(black[:32], 1.6)
    assert detector.check(1.6, 1.6) is None


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 3)), max_size=50), st.floats(0.1, 3))
def test_it_is_frozen_exactly_while_pictures_are_missing_or_the_same(steps, after_s):
    detector = FreezeDetector("cam", after_s, started_s=0.0)
    now_s = moved_s = seen_s = 0.0
    last, frozen, freezes = None, False, 0
    for pause_s, shown in steps:
        now_s += pause_s
        if shown:  # 0 is silence, 1 to 3 are pictures
            detector.add(np.full((16, 16, 3), shown, np.uint8), now_s)
            moved_s, seen_s, last = (moved_s if shown == last else now_s), now_s, shown
        change = detector.check(now_s, seen_s)
        expected = max(now_s - seen_s, seen_s - moved_s) >= after_s
        assert (change is not None) == (expected != frozen)
        if expected and not frozen:
            assert change.kind == ("silent" if now_s - seen_s >= after_s else "still")
        freezes += expected and not frozen
        frozen = expected
    assert detector.freezes == freezes
