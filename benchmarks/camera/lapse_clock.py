"""A clock that goes on only where something waits for it: hours of a camera in minutes, each second of them in its turn."""

import math
import threading
from collections.abc import Callable

from edgeclf.runtime.live.clock import Clock

# Real seconds: between two looks at what another thread does, and until that thread counts as stuck.
_POLL_S = 0.05
_STUCK_S = 120.0


class LapseClock(Clock):
    """Time that a camera's thread moves on by its pauses; the threads beside it are called at each of their times.

    Threads that wait for an event by turns (`Ticker`) move no time: whoever moves it waits until each of those that are
    due has done its work and waits again.

    Args:
        tickers: Names of these threads.
    """

    def __init__(self, tickers: frozenset[str]) -> None:
        self._names = tickers
        self._now_s = 0.0
        self._changed = threading.Condition()
        self._known: set[threading.Thread] = set()
        self._due_s: dict[threading.Thread, float] = {}

    def now_s(self) -> float:
        """Seconds since the beginning."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Moves the time on, and calls each ticker at its times in between."""
        end_s = self._now_s + seconds
        with self._changed:
            while True:
                if not self._changed.wait_for(self._all_wait, _STUCK_S):
                    raise RuntimeError(f"a thread beside the camera did not come back for {_STUCK_S:g} s")
                next_s = min(self._due_s.values(), default=math.inf)
                self._now_s = max(self._now_s, min(next_s, end_s))
                if next_s > end_s:
                    return
                self._changed.notify_all()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Waits for its turn, in a ticker's thread; in any other, moves the time on."""
        thread = threading.current_thread()
        if thread.name not in self._names:
            if not event.is_set():
                self.sleep(timeout_s)
            return event.is_set()
        with self._changed:
            self._known.add(thread)
            self._due_s[thread] = due_s = self._now_s + timeout_s
            self._changed.notify_all()
            while self._now_s < due_s and not event.is_set():
                self._changed.wait(_POLL_S)
            del self._due_s[thread]
            return event.is_set()

    def wait_for(self, condition: threading.Condition, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Waits while another thread moves the time."""
        end_s = self._now_s + timeout_s
        while not predicate():
            if self._now_s >= end_s:
                return False
            condition.wait(_POLL_S)
        return True

    def _all_wait(self) -> bool:
        self._known = {thread for thread in self._known if thread.is_alive()}
        return all(self._due_s.get(thread, self._now_s) > self._now_s for thread in self._known)
