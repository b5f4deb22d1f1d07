"""Delivery of events in the background: a bounded queue, threads, and counts of what was delivered, failed or dropped."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeclf.runtime import LiveResult

_WAITING = 100
_CLOSING_S = 3.0


class SinkError(Exception):
    """An event was not delivered; the message is the cause, as a phrase."""


class BackgroundSink:
    """A sink that delivers events from threads of its own, so that a slow receiver cannot hold up classification.

    At most 100 events wait; one that finds the queue full is dropped and counted.

    Args:
        name: Name in warnings and the summary.
        deliver: Delivers one event, and raises SinkError where that fails; any other exception is one more event that
            failed. Its second argument is set when the run ends and further attempts should stop.
        threads: Events delivered at once.
        warn: Called with a phrase for the first event that failed or was dropped, and again after a success.

    Attributes:
        delivered: Events delivered.
        failed: Events given up.
        dropped: Events that found the queue full, or were still waiting or under way in the end.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Mapping[str, Any], threading.Event], None],
        threads: int,
        warn: Callable[[str], None],
    ) -> None:
        self.name = name
        self._deliver = deliver
        self._warn = warn
        self.delivered = self.failed = self.dropped = 0
        self._is_failing = self._is_closed = False
        self._under_way = 0
        self._lock = threading.Lock()
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_WAITING)
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"edgeclf-{name}", daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def on_result(self, result: "LiveResult") -> None:
        """Ignores results."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Queues an event; never waits."""
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            with self._lock:
                self.dropped += 1
            self._report(f"{self.name}: {_WAITING} events wait already; further ones are dropped")

    def close(self) -> None:
        """Gives queued events a few seconds, then counts the rest as dropped."""
        deadline_s = time.monotonic() + _CLOSING_S
        for _ in self._threads:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=max(0.0, deadline_s - time.monotonic()))
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        self._closing.set()
        for thread in self._threads:
            thread.join(0.5)
        with contextlib.suppress(queue.Empty):
            while True:
                if self._queue.get_nowait() is not None:
                    self.dropped += 1
        with self._lock:
            # Of a delivery that does not end nobody will know what became of it.
            self._is_closed = True
            self.dropped += self._under_way

    @property
    def summary(self) -> str:
        """Counts as a phrase; empty where there was no event."""
        if not (self.delivered or self.failed or self.dropped):
            return ""
        return f"{self.name}: {self.delivered} delivered, {self.failed} failed, {self.dropped} dropped"

    def _run(self) -> None:
        while not self._closing.is_set():
            event = self._queue.get()
            if event is None:
                return
            with self._lock:
                self._under_way += 1
            failure = self._failure_of(event)
            with self._lock:
                if self._is_closed:
                    return
                self._under_way -= 1
                self.delivered += failure is None
                self.failed += failure is not None
                self._is_failing = self._is_failing and failure is not None
            if failure is not None:
                self._report(f"{self.name}: {failure}")

    def _failure_of(self, event: Mapping[str, Any]) -> str | None:
        """Why an event was not delivered, as a phrase; None for one that was."""
        try:
            self._deliver(event, self._closing)
        except SinkError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - a thread that ended would deliver nothing for the rest of the run
            return repr(error)
        return None

    def _report(self, text: str) -> None:
        with self._lock:
            is_new, self._is_failing = not self._is_failing, True
        if is_new:
            self._warn(text)
