"""Cameras: the newest frame, what is counted, what becomes of damage, cuts, limits and files that play as cameras."""

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.live.camera import Camera
from edgeclf.runtime.live.events import Disconnected, Reconnected

from ...randomness import fresh_rng


def picture(number=0, size_hw=(48, 64)):
    """A JPEG whose grey value tells its number, 8 apart so that compression does not blur it."""
    return cv2.imencode(".jpg", np.full((*size_hw, 3), number * 8 % 256, np.uint8))[1].tobytes()


def number_in(frame):
    return round(float(frame.image_bgr.mean()) / 8)


def paced(items, seconds):
    for item in items:
        yield item
        yield seconds


def write_video(path: Path, frames: int, fps: float = 20) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), number * 8 % 256, np.uint8))
    writer.release()
    return path


def take_all(camera, frames):
    """Adds frames as they come, so that those before an exception are there."""
    frames.extend(camera)


def edgeclf_threads():
    return [thread for thread in threading.enumerate() if thread.name == "edgeclf-camera"]


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"reconnects": -1}, {"every": 0}, {"max_fps": 0.0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(UsageError, match="bad camera options"):
        Camera("http://127.0.0.1:9/", **options)


def test_every_frame_of_a_slow_stream_comes_in_order(stream_server):
    with (
        stream_server(lambda _: paced(map(picture, range(20)), 0.03)) as server,
        Camera(server.url, reconnects=0) as camera,
    ):
        frames = []
        with pytest.raises(SourceError, match="the stream ended"):
            take_all(camera, frames)
        counts = camera.statistics
    assert counts.captured == 20
    assert counts.unreadable == counts.reconnects == counts.size_changes == counts.skipped == 0


def test_a_slow_reader_gets_the_newest_frame_and_the_rest_is_counted(stream_server):
    with stream_server(lambda _: paced(map(picture, range(31)), 0.02)) as server, Camera(server.url) as camera:
        numbers = []
        for frame in camera.frames(duration_s=0.5):
            assert number_in(frame) == frame.number
            time.sleep(0.1)
            assert 100 <= frame.age_ms < 1000
            numbers.append(frame.number)
        counts = camera.statistics
    assert numbers == sorted(set(numbers))
    assert 3 <= len(numbers) == counts.taken <= 6
    assert counts.dropped == counts.captured - counts.taken > 5


def test_random_bytes_between_pictures_are_counted_exactly(stream_server):
    rng = fresh_rng()
    kinds = rng.permutation([True] * 150 + [False] * 150).tolist()
    whole = picture(3)

    def parts(_):
        for good in kinds:
            yield whole if good else rng.choice([rng.bytes(rng.integers(0, 5000)), whole[: len(whole) // 2]])
        yield 5.0

    with stream_server(parts) as server, Camera(server.url) as camera:
        first = next(iter(camera))
        wait_until(lambda: camera.statistics.captured + camera.statistics.unreadable == 300)
        counts = camera.statistics
    assert number_in(first) == 3
    assert (counts.captured, counts.unreadable, counts.reconnects) == (150, 150, 0), kinds


def test_a_stream_of_nothing_but_damage_is_no_camera(stream_server):
    damage = fresh_rng().bytes(2000)
    with stream_server(lambda _: paced([damage] * 1000, 0.01)) as server:
        with pytest.raises(SourceError, match=r"cannot open camera .*no frame for 0\.6 s"):
            Camera(server.url, timeout_s=0.6)
        wait_until(lambda: not edgeclf_threads())


def test_pictures_of_changing_size_are_taken_as_they_come(stream_server):
    sizes = [(48, 64), (48, 64), (120, 160), (16, 16), (48, 64)]
    with stream_server(lambda _: paced((picture(1, size) for size in sizes), 0.05)) as server:
        camera = Camera(server.url, reconnects=0)
        frames = []
        with camera, pytest.raises(SourceError):
            take_all(camera, frames)
        assert camera.statistics.size_changes == 3
    assert {frame.image_bgr.shape[:2] for frame in frames} <= set(sizes)


def test_cuts_are_mended_and_counted_and_leave_no_thread(stream_server):
    events = []
    with (
        stream_server(lambda connection: paced([picture(connection)] * 3, 0.01)) as server,
        Camera(server.url, reconnects=3, on_event=events.append) as camera,
    ):
        frames = []
        with pytest.raises(SourceError, match="went away: got the stream ended, and 3 attempts"):
            take_all(camera, frames)
    assert camera.statistics.reconnects == 3
    assert camera.statistics.captured == 12
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))
    name = server.url
    assert events == [
        event
        for attempt in (1, 2, 3)
        for event in (Disconnected(name, "the stream ended", attempt, 3), Reconnected(name))
    ]
    wait_until(lambda: not edgeclf_threads())


def test_a_server_that_refuses_says_so_in_the_end(stream_server):
    with stream_server(lambda connection: [[picture()] * 2][connection]) as server:
        camera = Camera(server.url, reconnects=1)
        with camera, pytest.raises(SourceError, match=r"HTTP 503"):
            list(camera)


@pytest.mark.parametrize("options", [{"every": 3}, {"max_fps": 12.5}])
def test_fewer_frames_are_handed_out_where_fewer_are_wanted(stream_server, options):
    with stream_server(lambda _: paced(map(picture, range(30)), 0.02)) as server:
        camera = Camera(server.url, reconnects=0, **options)
        frames = []
        with camera, pytest.raises(SourceError):
            take_all(camera, frames)
    counts = camera.statistics
    assert counts.captured == 30
    assert counts.taken == len(frames)
    assert counts.skipped >= 30 - len(frames) - counts.dropped > 0
    if "every" in options:
        assert min(np.diff([frame.number for frame in frames])) >= 3
        assert len(frames) <= 10
    else:
        # 30 frames in 0.6 s, or more where the machine is busy.
        seconds = frames[-1].captured_at_s - frames[0].captured_at_s
        assert 2 <= len(frames) <= 12.5 * seconds + 2


def test_close_ends_the_iteration_from_another_thread(stream_server):
    with stream_server(lambda _: [picture(), picture(), 30.0]) as server, Camera(server.url, timeout_s=20) as camera:
        threading.Timer(0.2, camera.close).start()
        started = time.monotonic()
        assert len(list(camera)) <= 2
        assert time.monotonic() - started < 5


def test_a_duration_ends_also_while_waiting(stream_server):
    with stream_server(lambda _: [picture(), picture(), 30.0]) as server, Camera(server.url) as camera:
        started = time.monotonic()
        list(camera.frames(duration_s=0.3))
        assert time.monotonic() - started < 3


def test_a_video_file_plays_at_its_own_pace_and_ends(tmp_path):
    started = time.monotonic()
    with Camera(write_video(tmp_path / "v.avi", 20)) as camera:
        numbers = [(frame.number, number_in(frame)) for frame in camera]
        assert camera.fps == 20
    assert numbers == [(number, number) for number in range(20)]
    # 20 frames at 20 frames/s: the last is due after 0.95 s. Only a lower bound can be held on a busy machine.
    assert time.monotonic() - started >= 0.95
    assert camera.statistics.reconnects == 0


def test_a_looped_file_begins_again(tmp_path):
    with Camera(write_video(tmp_path / "v.avi", 5, fps=100), loop=True) as camera:
        numbers = []
        for frame in camera.frames(duration_s=10):
            numbers.append((frame.number, number_in(frame)))
            if frame.number >= 12:
                break
    assert all(shown == number % 5 for number, shown in numbers)
    assert numbers[-1][0] >= 12


def test_a_file_that_is_no_video_does_not_open(tmp_path):
    (tmp_path / "v.avi").write_text("no video")
    with pytest.raises(SourceError, match="cannot open camera"):
        Camera(tmp_path / "v.avi")
