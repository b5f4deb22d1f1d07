"""Recordings: frames of any size, and places and names that cannot be written."""

import pytest

from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.images.video import VideoFile
from edgeclf.runtime.live.recorder import VideoRecorder

from ..images.videos import frames_of, record


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    path = record(tmp_path / "v.avi", [*frames_of(2), *frames_of(2, (100, 30)), *frames_of(1, (480, 640))])
    with VideoFile(path) as video:
        assert {frame.shape for frame in video} == {(48, 64, 3)}
        assert video.frames_read == 5


def test_recordings_that_cannot_be(tmp_path):
    with pytest.raises(OutputError, match="suffix"):
        VideoRecorder(tmp_path / "v.gif", tmp_path / "v.gif")
    with pytest.raises(OutputError, match="UTF-8"):
        VideoRecorder(tmp_path / "v\udcff.avi", tmp_path / "v.avi")
    with pytest.raises(OutputError, match="does not open"):
        record(tmp_path / "no folder" / "v.avi", frames_of(1))
    with pytest.raises(OutputError, match="no frame"):
        record(tmp_path / "v.avi", [])
