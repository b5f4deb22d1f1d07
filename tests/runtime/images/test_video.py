"""Video files as they are read, whatever their names, suffixes and ends are."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.images.video import VideoFile, VideoGap, begins_like_video, usable_fps

from .videos import frames_of, jpeg, record, turned, write_matroska


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


def levels(video):
    """The grey levels of frames written by `frames_of`, by number; None for a gap."""
    return {
        number: None if isinstance(frame, VideoGap) else round(float(frame.mean()) / 8)
        for number, frame in video.numbered()
    }


@pytest.mark.parametrize("damage", [bytes, lambda count: b"\xff" * count, lambda count: b"\xff\xd8" + bytes(count)])
@pytest.mark.parametrize("lost", [{0}, {0, 1}, {5}, {5, 6, 7}, {3, 9, 10}, {18}])
def test_a_video_goes_on_behind_packets_that_cannot_be_decoded(tmp_path, damage, lost):
    packets = [(40 * n, damage(900) if n in lost else jpeg(frame)) for n, frame in enumerate(frames_of(20))]
    with VideoFile(write_matroska(tmp_path / "v.mkv", packets)) as video:
        found = levels(video)
        assert {number: level for number, level in found.items() if level is not None} == {
            number: number for number in range(20) if number not in lost
        }
        gaps = [number for number, level in found.items() if level is None]
        assert set(gaps) <= lost
        assert gaps[0] == min(lost)
        assert (video.frames_read, video.frames_lost, video.ended_early) == (20 - len(lost), len(lost), False)


def test_a_frame_that_there_is_no_memory_for_is_a_gap(tmp_path, monkeypatch):
    path = write_matroska(tmp_path / "v.mkv", [(40 * n, jpeg(frame)) for n, frame in enumerate(frames_of(6))])
    with VideoFile(path) as video:
        capture, taken = video._capture, []

        class Short:
            def grab(self):
                return capture.grab()

            def retrieve(self):
                taken.append(True)
                if len(taken) == 2:
                    raise cv2.error("Failed to allocate")
                return capture.retrieve()

        monkeypatch.setattr(video, "_capture", Short())
        found = levels(video)
        monkeypatch.undo()
    assert found == {0: 0, 1: 1, 2: None, 3: 3, 4: 4, 5: 5}


def test_a_gap_says_where_and_how_long(tmp_path):
    packets = [(40 * n, bytes(900) if n in {5, 6} else jpeg(frame)) for n, frame in enumerate(frames_of(9))]
    with VideoFile(write_matroska(tmp_path / "v.mkv", packets)) as video:
        assert len(list(video)) == 7
    error = VideoGap(5, 2).error(tmp_path / "v.mkv")
    assert "from frame 5 on: got 2 damaged packets" in str(error)


def test_a_video_goes_on_behind_five_thousand_packets_of_sound(tmp_path):
    frames = frames_of(6)
    packets = [(40 * n, jpeg(frame)) for n, frame in enumerate(frames[:3])]
    packets += [(120, None)] * 5000
    packets += [(120 + 40 * n, jpeg(frame)) for n, frame in enumerate(frames[3:])]
    with VideoFile(write_matroska(tmp_path / "v.mkv", packets, with_sound=True)) as video:
        assert levels(video) == {number: number for number in range(6)}
        assert video.frames_lost == 0


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_video_of_a_phone_is_upright(tmp_path, degrees):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = 255
    path = turned(record(tmp_path / "v.mp4", [image] * 5), degrees)
    with VideoFile(path) as video:
        frames = list(video)
    expected = np.rot90(image, -degrees // 90)
    assert len(frames) == 5
    assert frames[0].shape == expected.shape
    assert np.abs(frames[0].astype(int) - expected).mean() < 10


def test_a_video_without_a_number_of_frames_is_read_to_its_end(tmp_path):
    path = write_matroska(tmp_path / "v.mkv", [(40 * n, jpeg(frame)) for n, frame in enumerate(frames_of(12))])
    with VideoFile(path) as video:
        assert video.frames_announced == 0
        assert levels(video) == {number: number for number in range(12)}
        assert not video.ended_early


def test_frames_of_another_size_are_scaled_to_that_of_the_first(tmp_path):
    frames = [*frames_of(3), *frames_of(3, (96, 128)), *frames_of(3, (24, 32))]
    (tmp_path / "v.mjpeg").write_bytes(b"".join(map(jpeg, frames)))
    with VideoFile(tmp_path / "v.mjpeg") as video:
        found = list(video)
    assert {frame.shape for frame in found} == {(48, 64, 3)}
    assert [round(float(frame.mean()) / 8) for frame in found] == [0, 1, 2] * 3


@pytest.mark.parametrize("fourcc", ["VP80", "VP90"])
def test_webm_is_read(tmp_path, fourcc):
    path = tmp_path / "v.webm"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), 20, (64, 48))
    if not writer.isOpened():
        pytest.fail(f"this OpenCV writes no {fourcc}")
    for frame in frames_of(10):
        writer.write(frame)
    writer.release()
    assert begins_like_video(path.read_bytes()[:1024])
    with VideoFile(path) as video:
        assert [round(float(frame.mean()) / 8) for frame in video] == list(range(10))


def test_an_animated_gif_is_read_as_a_video_where_one_is_asked_for(tmp_path):
    images = [Image.fromarray(frame) for frame in frames_of(5)]
    images[0].save(tmp_path / "v.gif", save_all=True, append_images=images[1:], duration=80, loop=0)
    with VideoFile(tmp_path / "v.gif") as video:
        assert [round(float(frame.mean()) / 8) for frame in video] == list(range(5))
