"""Recordings in real time, on a clock that the test advances, and the lines of a log."""

import datetime as dt
import os

import cv2
import numpy as np
import pytest

from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.live.results import CameraStatistics, LiveFigures
from edgeclf.toolkit.events.appended_file import keep_earlier
from edgeclf.toolkit.infer.log_lines import LogLines
from edgeclf.toolkit.infer.recording import LiveRecording

from ...clocks import FakeClock, wait_until


def image(number):
    return np.full((48, 64, 3), number * 20, np.uint8)


def numbers_in(path):
    capture, numbers = cv2.VideoCapture(str(path)), []
    while (frame := capture.read()[1]) is not None:
        numbers.append(round(float(frame.mean()) / 20))
    return numbers


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def recording(tmp_path, clock):
    return LiveRecording(tmp_path / "deep" / "v.avi", lambda: 8.0, pytest.fail, clock)


def test_a_recording_is_as_long_as_the_camera_ran(recording, clock, tmp_path):
    for number, pause_s in enumerate((0.125, 0.375, 0.125, 0.0, 0.0, 0.125)):
        recording.add(image(number))
        clock.advance(pause_s)
    recording.close()
    # 8 frames/s: the third frame fills the 0.375 s before it; of frames that come faster than that, the first stays.
    assert numbers_in(tmp_path / "deep" / "v.avi") == [0, 1, 2, 2, 2, 3]
    assert (recording.written, recording.lost, recording.stop_reason) == (6, 0, None)


def test_a_gap_is_filled_for_two_seconds_only(recording, clock, tmp_path):
    recording.add(image(0))
    clock.advance(3600)
    recording.add(image(1))
    clock.advance(0.125)
    recording.add(image(2))
    recording.close()
    assert numbers_in(tmp_path / "deep" / "v.avi") == [0, *[1] * 17, 2]


def test_a_recording_of_an_earlier_run_is_kept_under_its_time(tmp_path):
    path = tmp_path / "v.avi"
    assert keep_earlier(path) is None
    path.touch()
    assert keep_earlier(path) is None
    changed_s = 1_772_600_767
    stamp = f"{dt.datetime.fromtimestamp(changed_s).astimezone():%Y%m%dT%H%M%S}"
    for number in range(3):
        path.write_bytes(b"%d" % number)
        os.utime(path, (changed_s, changed_s))
        keep_earlier(path)
        assert not path.exists()
    names = [f"v.{stamp}.avi", f"v.{stamp}-2.avi", f"v.{stamp}-3.avi"]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"0", b"1", b"2"]
    assert keep_earlier(tmp_path) is None


def test_a_nearly_full_disk_ends_the_recording_at_the_next_check_and_keeps_it(tmp_path, clock, monkeypatch):
    reasons = []
    recording = LiveRecording(tmp_path / "v.avi", lambda: 8.0, reasons.append, clock)
    for number in range(3):
        recording.add(image(number))
        clock.advance(0.125)
    monkeypatch.setattr("edgeclf.toolkit.infer.recording._file_size_limit", lambda: 1000)
    for number in (3, 4, 5):
        recording.add(image(number))
        clock.advance(0.125)
    recording.close()
    # Checked every 0.25 s: the fourth frame still goes in.
    assert numbers_in(tmp_path / "v.avi") == [0, 1, 2, 3]
    assert (recording.written, recording.lost) == (4, 2)
    assert recording.stop_reason == "the disk is nearly full, recording ends after 4 frames"
    assert reasons == [f"--save {tmp_path / 'v.avi'}: {recording.stop_reason}"]


def test_a_recording_without_a_frame_is_an_error(recording):
    with pytest.raises(OutputError, match="no frame"):
        recording.close()


def test_the_recording_takes_the_place_of_no_folder(tmp_path):
    (tmp_path / "v.avi").mkdir()
    with pytest.raises(OutputError, match="folder"):
        LiveRecording(tmp_path / "v.avi", lambda: 10.0, pytest.fail)


class Line:
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


class Camera:
    def __init__(self, name, clock):
        self.name = name
        self.is_alive = True
        self.live = self
        self.figures = LiveFigures(clock)
        self.statistics = CameraStatistics(captured=9, taken=5, reconnects=1)


def test_the_log_has_a_line_of_each_running_camera_in_every_period(clock):
    line, cameras = Line(), [Camera("a", clock), Camera("b", clock)]
    cameras[1].is_alive = False
    with LogLines(cameras, line, 60, clock):
        for frames in (3, 5):
            for _ in range(frames):
                cameras[0].figures.add(7.0, is_error=False)
            before = len(line.notes)
            wait_until(lambda: clock.advance(15) or len(line.notes) > before)  # noqa: B023 - called here only
    assert line.notes[0].startswith("camera a: 3 frames in ")
    assert "; in all 3 frames, 4 dropped, 1 reconnects, frame age p50 7 ms, p95 7 ms" in line.notes[0]
    assert line.notes[1].startswith("camera a: 5 frames in ")
    assert "; in all 8 frames" in line.notes[1]
