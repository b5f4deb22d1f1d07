"""Cameras: the newest frame, what is counted, what becomes of damage, cuts, limits and files that play as cameras."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.live.camera import Camera
from edgeclf.runtime.live.events import Disconnected, Reconnected
from edgeclf.runtime.live.grabber import _GRABBERS, Grabber, GrabCounts, _stop_grabbers

from ...clocks import wait_until
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


def image(number=0):
    return np.full((48, 64, 3), number * 8 % 256, np.uint8)


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


def test_a_slow_reader_gets_the_newest_frame_and_the_rest_is_counted(scripted, clock):
    scripted.send(image(0))
    with Camera(scripted.url, clock=clock) as camera:
        frames = iter(camera)
        for last in (0, 5, 6, 20):
            scripted.send(*map(image, range(camera.statistics.captured, last + 1)))
            scripted.wait_until_read()
            clock.advance(0.25)
            frame = next(frames)
            assert number_in(frame) == frame.number == last
            assert frame.age_ms == 250
        counts = camera.statistics
    assert (counts.captured, counts.taken, counts.dropped) == (21, 4, 17)


def test_the_first_frame_is_the_newest_one_however_late_the_iteration_begins(scripted, clock):
    scripted.send(image(0))
    with Camera(scripted.url, clock=clock) as camera:
        clock.advance(30)  # a model is opened meanwhile
        scripted.send(image(1), image(2))
        scripted.wait_until_read()
        frame = next(iter(camera))
        assert (frame.number, number_in(frame), frame.age_ms) == (2, 2, 0)
        assert camera.statistics.dropped == 2


def test_a_silent_camera_is_said_to_be_and_given_up_after_the_limits(scripted, clock):
    events = []
    scripted.send(image())
    with Camera(
        scripted.url, clock=clock, reconnects=2, on_event=lambda e: events.append((clock.now_s(), e))
    ) as camera:
        frames = iter(camera)
        next(frames)
        started_s, clock.skips = clock.now_s(), True
        with pytest.raises(SourceError, match="went away: got no frame for 4 s, and 2 attempts"):
            next(frames)
    assert events == [
        (started_s + 4, Disconnected(camera.name, "no new frame for 4 s", 1, 2)),
        (started_s + 4 + 0.2 + 4, Disconnected(camera.name, "no frame for 4 s", 2, 2)),
    ]
    assert clock.now_s() == started_s + 4 + 0.2 + 4 + 0.5 + 4
    assert scripted.opened == 3


def test_a_camera_that_never_answers_is_given_up_after_the_timeout(scripted, clock):
    started_s, clock.skips = clock.now_s(), True
    with pytest.raises(SourceError, match=r"cannot open camera .*no frame for 2\.5 s"):
        Camera(scripted.url, timeout_s=2.5, clock=clock)
    assert clock.now_s() == started_s + 2.5
    wait_until(lambda: not edgeclf_threads())


def test_random_bytes_between_pictures_are_counted_exactly(stream_server):
    rng = fresh_rng()
    # The last is whole: of pictures that come faster than they are decoded, the newest alone may be.
    kinds = [*rng.permutation([True] * 149 + [False] * 150).tolist(), True]
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


def test_close_ends_the_iteration_from_another_thread_and_nothing_reopens(scripted, clock):
    events, frames = [], []
    scripted.send(image())
    camera = Camera(scripted.url, clock=clock, on_event=events.append)
    reader = threading.Thread(target=take_all, args=(camera, frames))
    reader.start()
    wait_until(lambda: camera.statistics.taken == 1)
    camera.close()
    reader.join(60)
    assert not reader.is_alive()
    assert (len(frames), list(camera), events, scripted.opened) == (1, [], [], 1)
    wait_until(lambda: not edgeclf_threads())


def test_close_while_iterating_ends_the_iteration(scripted, clock):
    scripted.send(image(0))
    camera = Camera(scripted.url, clock=clock)
    numbers = []
    for frame in camera:
        numbers.append(frame.number)
        scripted.send(image(1))
        camera.close()
    assert (numbers, scripted.opened) == ([0], 1)


def test_close_ends_the_pause_before_a_camera_is_opened_again(scripted, clock):
    scripted.send(image(0), "the stream ended")
    events = []

    def close_on(event):
        events.append(event)
        camera.close()

    camera = Camera(scripted.url, clock=clock, on_event=close_on)
    assert [frame.number for frame in camera] == [0]
    assert (events, scripted.opened) == ([Disconnected(camera.name, "the stream ended", 1, 5)], 1)


def test_close_waits_for_a_grab_that_hangs_as_long_as_asked(clock, monkeypatch):
    hangs, released = threading.Event(), threading.Event()

    class HungCapture:
        fps, is_behind, source_time_s = 0.0, False, None
        grabs = 0

        def grab(self):
            self.grabs += 1
            if self.grabs > 1:
                hangs.set()
                released.wait()
            return clock.now_s()

        def retrieve(self):
            return image()

        def close(self):
            pass

    monkeypatch.setattr("edgeclf.runtime.live.camera.open_capture", lambda *_, **__: HungCapture())
    camera = Camera("http://hung/", clock=clock)
    assert hangs.wait(60)
    camera.close(wait_s=0)
    assert edgeclf_threads()
    closer = threading.Thread(target=camera.close, kwargs={"wait_s": 60})
    closer.start()
    released.set()
    closer.join(60)
    assert not edgeclf_threads()


def test_a_duration_ends_also_while_waiting(scripted, clock):
    scripted.send(image())
    with Camera(scripted.url, clock=clock) as camera:
        frames = camera.frames(duration_s=0.3)
        next(frames)
        started_s, clock.skips = clock.now_s(), True
        assert list(frames) == []
        assert clock.now_s() - started_s == pytest.approx(0.3)


def test_a_video_file_plays_at_its_own_pace_and_ends(tmp_path):
    with Camera(write_video(tmp_path / "v.avi", 20)) as camera:
        frames = [(frame.number, number_in(frame)) for frame in camera]
        assert camera.fps == 20
    # A busy machine may miss frames, and never sees the past.
    assert all(number == shown for number, shown in frames)
    assert frames[-1] == (19, 19)
    assert camera.statistics.captured == 20
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


def test_the_end_of_the_program_waits_for_no_thread_that_has_not_started(monkeypatch):
    # As where another thread opens a camera while the program ends.
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", lambda _: None)
        grabber = Grabber(lambda *_: None, 1.0, GrabCounts())
    _stop_grabbers()
    assert not grabber.is_alive
    _GRABBERS.discard(grabber)
