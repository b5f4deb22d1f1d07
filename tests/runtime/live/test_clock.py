"""A ticker goes on whatever one of its ticks raises."""

import threading

from edgeclf.runtime.live.clock import Ticker


class Failing(Ticker):
    """Raises in its first ticks, the same error twice."""

    def __init__(self, errors):
        super().__init__("failing", 0.001)
        self.errors = errors
        self.went_on = threading.Event()

    def tick(self):
        if self.errors:
            raise self.errors.pop(0)
        self.went_on.set()


def test_a_ticker_goes_on_after_a_tick_that_raised_and_says_so_once(monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    with Failing([ValueError("model"), ValueError("model"), OSError("disk")]) as ticker:
        assert ticker.went_on.wait(60)
    assert [(item.exc_type, str(item.exc_value)) for item in seen] == [(ValueError, "model"), (OSError, "disk")]
    assert {item.thread.name for item in seen} == {"edgeclf-failing"}
    assert all(item.exc_traceback is not None for item in seen)
