"""Video files in real time: when each frame is due."""

import cv2
import numpy as np
import pytest

from edgeclf.runtime.live.captures.capture import CaptureEndedError
from edgeclf.runtime.live.captures.video_file import FileCapture

from ....clocks import FakeClock
from ...images.videos import frames_of, jpeg, write_matroska


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


def test_frames_have_the_time_stamps_of_the_file(video, clock):
    capture = FileCapture(video, lambda: False, is_looped=True, clock=clock)
    stamps_s = [capture.grab() and capture.retrieve() is not None and capture.source_time_s for _ in range(6)]
    assert stamps_s[:5] == sorted(set(stamps_s[:5]))
    # The file begins again.
    assert stamps_s[5] == stamps_s[0]
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


def test_frames_of_a_variable_rate_come_when_the_file_says(tmp_path, clock):
    times_ms = [0, 40, 500, 540, 2540, 2560]
    packets = [(time_ms, jpeg(frame)) for time_ms, frame in zip(times_ms, frames_of(6), strict=True)]
    started_s = clock.now_s()
    capture = FileCapture(write_matroska(tmp_path / "v.mkv", packets), lambda: False, is_looped=False, clock=clock)
    found = [(capture.grab() - started_s, shown_by(capture)) for _ in times_ms]
    assert found == [(pytest.approx(time_ms / 1e3), number) for number, time_ms in enumerate(times_ms)]
    capture.close()


def test_frames_that_cannot_be_decoded_do_not_end_it(tmp_path, clock):
    packets = [(50 * n, bytes(900) if n in {2, 3} else jpeg(frame)) for n, frame in enumerate(frames_of(6))]
    started_s = clock.now_s()
    capture = FileCapture(write_matroska(tmp_path / "v.mkv", packets), lambda: False, is_looped=False, clock=clock)
    found = [(capture.grab() - started_s, shown_by(capture)) for _ in range(4)]
    assert found == [(pytest.approx(number / 20), number) for number in (0, 1, 4, 5)]
    with pytest.raises(CaptureEndedError, match="the file ended"):
        capture.grab()
    capture.close()
