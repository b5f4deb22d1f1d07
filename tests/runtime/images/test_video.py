"""Video files as they are read, whatever their names, suffixes and ends are."""

import os

import numpy as np
import pytest

from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.images.video import VideoFile, begins_like_video, usable_fps

from ..videos import frames_of, record


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv", ".mov", ".m4v", ".AVI"])
def test_what_is_recorded_is_read_back_frame_by_frame(tmp_path, suffix):
    path = record(tmp_path / f"v{suffix}", frames_of(20))
    with VideoFile(path) as video:
        means = [float(frame.mean()) for frame in video]
        assert video.frames_read == 20
        assert not video.ended_early
        assert video.fps == pytest.approx(20)
    assert np.abs(np.array(means) - np.arange(20) * 8).max() < 4
    assert begins_like_video(path.read_bytes()[:1024])


@pytest.mark.parametrize("name", ["50% off.avi", "a:b.avi", "ünï.avi", "v.avi.backup"])
def test_odd_names_are_read(tmp_path, name):
    record(tmp_path / "v.avi", frames_of(3)).rename(tmp_path / name)
    with VideoFile(tmp_path / name) as video:
        assert len(list(video)) == 3


def test_a_name_that_is_not_utf8_is_read(tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/v\xff.avi")
    record(tmp_path / "v.avi", frames_of(3)).rename(odd)
    with VideoFile(odd) as video:
        assert len(list(video)) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"no video", "got text"),
        (b"no video\0", "no frame that can be decoded"),
        (None, "no such file"),
    ],
)
def test_what_is_no_video_says_why(tmp_path, content, words):
    path = tmp_path / "v.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=words):
        VideoFile(path)
    assert not begins_like_video(content or b"")


def test_a_file_that_is_cut_ended_early(tmp_path):
    path = record(tmp_path / "v.avi", frames_of(100))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoFile(path) as video:
        assert 10 < len(list(video)) < 90
        assert video.ended_early


@pytest.mark.parametrize(
    ("reported", "used"),
    [(25.0, 25.0), (0.0, 25.0), (float("nan"), 25.0), (90_000.0, 25.0), (1.0, 1.0), (240.0, 240.0)],
)
def test_only_a_believable_rate_is_used(reported, used):
    assert usable_fps(reported) == used
