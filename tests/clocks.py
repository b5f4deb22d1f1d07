"""A clock that tests advance, for what waits: cameras, freeze detection, recordings."""

import threading
import time

from edgeclf.runtime.live.clock import Clock

# Real seconds between two looks at the fake time; how long a test takes, never what it finds.
_POLL_S = 0.001


def wait_until(condition, seconds=60):
    """Waits for a condition; the limit only ends a test that hangs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class FakeClock(Clock):
    """Time that stands still until the test advances it.

    Attributes:
        skips: Whether a wait for something that has not happened yet takes its time from the clock at once.
    """

    def __init__(self) -> None:
        self.skips = False
        self._now_s = 1000.0
        self._lock = threading.Lock()

    def now_s(self):
        return self._now_s

    def advance(self, seconds):
        with self._lock:
            self._now_s += seconds

    def sleep(self, seconds):
        self._until(seconds, lambda: False, lambda: threading.Event().wait(_POLL_S))

    def wait(self, event, timeout_s):
        return self._until(timeout_s, event.is_set, lambda: event.wait(_POLL_S))

    def wait_for(self, condition, predicate, timeout_s):
        return self._until(timeout_s, predicate, lambda: condition.wait(_POLL_S))

    def _until(self, timeout_s, has_happened, pause):
        end_s = self._now_s + timeout_s
        while not has_happened():
            if self._now_s >= end_s:
                return False
            if self.skips:
                self.advance(end_s - self._now_s)
            else:
                pause()
        return True
