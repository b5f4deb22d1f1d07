"""Video files in real time: when each frame is due."""

import cv2
import numpy as np
import pytest

from edgeclf.runtime.live.captures.capture import CaptureEndedError
from edgeclf.runtime.live.captures.video_file import FileCapture

from ....clocks import FakeClock


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), number * 8, np.uint8))
    writer.release()
    return path


@pytest.fixture
def clock():
    clock = FakeClock()
    clock.skips = True
    return clock


def shown_by(capture):
    return round(float(capture.retrieve().mean()) / 8)


def test_frames_come_at_the_frame_rate_of_the_file_and_then_it_ends(video, clock):
    started_s = clock.now_s()
    capture = FileCapture(video, lambda: False, is_looped=False, clock=clock)
    found = [(capture.grab() - started_s, shown_by(capture)) for _ in range(5)]
    assert found == [(pytest.approx(number / 20), number) for number in range(5)]
    with pytest.raises(CaptureEndedError, match="the file ended") as ended:
        capture.grab()
    assert ended.value.is_finished
    capture.close()


def test_a_looped_file_goes_on_without_a_gap(video, clock):
    started_s = clock.now_s()
    capture = FileCapture(video, lambda: False, is_looped=True, clock=clock)
    found = [(capture.grab() - started_s, shown_by(capture)) for _ in range(12)]
    assert found == [(pytest.approx(number / 20), number % 5) for number in range(12)]
    capture.close()


def test_after_a_long_pause_the_schedule_begins_at_the_present(video, clock):
    capture = FileCapture(video, lambda: False, is_looped=True, clock=clock)
    capture.grab()
    clock.advance(0.5)  # made up for: the next ten frames are due at once
    late_s = clock.now_s()
    assert [capture.grab() - late_s for _ in range(3)] == [0, 0, 0]
    clock.advance(5)  # given up
    late_s = clock.now_s()
    assert [capture.grab() - late_s for _ in range(3)] == [0, pytest.approx(0.05), pytest.approx(0.1)]
    capture.close()
