"""Cameras whose frames come when the test sends them, on a clock that the test advances."""

import queue

import pytest

from edgeclf.runtime.live.captures.capture import CaptureEndedError

from ...clocks import FakeClock, wait_until


class ScriptedCamera:
    """Takes the place of `open_capture`; every capture that it opens reads the same queue.

    Attributes:
        opened: How often it was opened.
    """

    def __init__(self, clock):
        self._clock = clock
        self._queue = queue.Queue()
        self._numbers = 0
        self.opened = 0
        self.url = "http://scripted/"

    def send(self, *items):
        """Sends images, (H, W, 3) uint8 BGR, or reasons, texts for which the stream ends."""
        for item in items:
            self._queue.put(item)

    def wait_until_read(self):
        """Returns once the last item that was sent is the newest frame."""
        wait_until(lambda: self._queue.unfinished_tasks == 0)

    def open(self, source, patience_s, is_stopped, *, is_looped, poll_s, clock):
        assert source == self.url
        assert clock is self._clock
        self.opened += 1
        return _ScriptedCapture(self._queue, is_stopped, clock)


class _ScriptedCapture:
    fps = 0.0
    source_time_s = None
    is_behind = False

    def __init__(self, items, is_stopped, clock):
        self._items = items
        self._is_stopped = is_stopped
        self._clock = clock
        self._has_item = False
        self._item = None

    def grab(self):
        # The frame before has been passed on now.
        self._done()
        while not self._is_stopped():
            try:
                self._item = self._items.get(timeout=0.005)
            except queue.Empty:
                continue
            self._has_item = True
            if isinstance(self._item, str):
                raise CaptureEndedError(self._item)
            return self._clock.now_s()
        raise CaptureEndedError("closed")

    def retrieve(self):
        return self._item

    def skip(self):
        return True

    def close(self):
        self._done()

    def _done(self):
        if self._has_item:
            self._has_item = False
            self._items.task_done()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def scripted(clock, monkeypatch):
    camera = ScriptedCamera(clock)
    monkeypatch.setattr("edgeclf.runtime.live.camera.open_capture", camera.open)
    return camera
