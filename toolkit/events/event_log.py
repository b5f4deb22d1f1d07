"""Events of live sources - a label that changed, a camera that froze - and how they go out without holding up anything."""

import contextlib
import datetime as dt
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgeclf.runtime.files import output_error

if TYPE_CHECKING:
    from edgeclf.runtime.live.results import LiveResult

_WAITING = 100
_CLOSING_S = 3.0


def make_event(kind: str, source: str, **details: Any) -> dict[str, Any]:  # noqa: ANN401 - plain JSON values
    """An event as it is written: `event`, `time` (UTC, ISO 8601, milliseconds), `source`, and details of its kind."""
    now = dt.datetime.now(dt.timezone.utc).isoformat(timespec="milliseconds")
    return {"event": kind, "time": now.replace("+00:00", "Z"), "source": source, **details}


class EventFile:
    """Appends events to a file, one JSON line each; a disk that is full costs events, never the run.

    Args:
        path: The file; None for stdout.
        on_trouble: Told, in a phrase, when an event cannot be written for the first time.

    Attributes:
        written: Events written.
        failed: Events that could not be.

    Raises:
        OutputError: The file cannot be opened.
    """

    name = "events"

    def __init__(self, path: Path | None, on_trouble: Callable[[str], None]) -> None:
        self._path = path
        self._on_trouble = on_trouble
        self._lock = threading.Lock()
        self.written = self.failed = 0
        self._file: IO[bytes] | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Unbuffered, so that a line that does not fit fails here and now and leaves none half-written later.
                self._file = path.open("ab", buffering=0)
            except OSError as error:
                raise output_error(path, error) from error

    def on_result(self, result: "LiveResult") -> None:
        """Nothing: a result is no event."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Writes one line."""
        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        with self._lock:
            if self._file is None:
                sys.stdout.write(line)
                sys.stdout.flush()
                self.written += 1
                return
            data = line.encode("utf-8", "backslashreplace")
            failure: OSError | None = None
            try:
                if self._file.write(data) < len(data):
                    failure = OSError(28, "no space left for a whole line")
            except OSError as error:
                failure = error
            self.written += failure is None
            self.failed += failure is not None
            if failure is not None and self.failed == 1:
                self._on_trouble(f"{output_error(self._path or Path('-'), failure)} Events are lost until it can be.")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    @property
    def summary(self) -> str:
        """What became of the events, as a phrase; empty where all is well."""
        return f"{self.failed} events not written" if self.failed else ""


class BackgroundDelivery:
    """Delivers events from threads of its own, so that no receiver can hold up classification.

    At most 100 events wait; one that finds the queue full is dropped and counted.

    Args:
        name: What the receiver is called in warnings and the summary.
        deliver: Delivers one event, and raises DeliveryError where that fails. Its second argument is set when
            the run ends and it should not try any longer.
        threads: Events delivered at once.
        on_trouble: Told, in a phrase, of the first event that failed or was dropped, and again after a success.

    Attributes:
        delivered: Events delivered.
        failed: Events given up.
        dropped: Events that found the queue full, or were still waiting in the end.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Mapping[str, Any], threading.Event], None],
        threads: int,
        on_trouble: Callable[[str], None],
    ) -> None:
        self.name = name
        self._deliver = deliver
        self._on_trouble = on_trouble
        self.delivered = self.failed = self.dropped = 0
        self._is_in_trouble = False
        self._lock = threading.Lock()
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_WAITING)
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"edgeclf-{name}", daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def on_result(self, result: "LiveResult") -> None:
        """Nothing: a result is no event."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Queues an event; never waits."""
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            with self._lock:
                self.dropped += 1
            self._trouble(f"{self.name}: {_WAITING} events wait already; further ones are dropped")

    def close(self) -> None:
        """Gives what is queued a few seconds, then counts the rest as dropped."""
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

    @property
    def summary(self) -> str:
        """What became of the events, as a phrase; empty where there was none."""
        if not (self.delivered or self.failed or self.dropped):
            return ""
        return f"{self.name}: {self.delivered} delivered, {self.failed} failed, {self.dropped} dropped"

    def _run(self) -> None:
        while not self._closing.is_set():
            event = self._queue.get()
            if event is None:
                return
            try:
                self._deliver(event, self._closing)
            except DeliveryError as error:
                with self._lock:
                    self.failed += 1
                self._trouble(f"{self.name}: {error}")
            else:
                with self._lock:
                    self.delivered += 1
                    self._is_in_trouble = False

    def _trouble(self, text: str) -> None:
        with self._lock:
            is_new, self._is_in_trouble = not self._is_in_trouble, True
        if is_new:
            self._on_trouble(text)


class DeliveryError(Exception):
    """An event did not arrive; the message says why, as a phrase."""
