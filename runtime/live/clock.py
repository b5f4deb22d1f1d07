"""Time and waiting for cameras: one object, so that tests advance time instead of spending it."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable


class Clock:
    """The monotonic clock of the system, and waits that end when their time is over.

    A subclass that overrides all four methods makes cameras, recordings and freeze detection run on another time.
    """

    def now_s(self) -> float:
        """Seconds on a clock that never goes back; its zero means nothing."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Pauses the calling thread."""
        time.sleep(seconds)

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Waits until the event is set; False when `timeout_s` was over first."""
        return event.wait(timeout_s)

    def wait_for(self, condition: threading.Condition, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Waits, with the condition held, until the predicate is true; False when `timeout_s` was over first."""
        return condition.wait_for(predicate, timeout_s)


MONOTONIC = Clock()


class Ticker(ABC):
    """A thread that calls `tick` periodically until it is closed, also after one that raised.

    What `tick` raises goes to `threading.excepthook`, as that of any thread does, the same error once.

    Args:
        name: Name of the thread, after `edgeclf-`.
        every_s: Seconds between two calls.
        clock: Source of time.
    """

    def __init__(self, name: str, every_s: float, clock: Clock = MONOTONIC) -> None:
        self._every_s = every_s
        self._clock = clock
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"edgeclf-{name}", daemon=True)

    def start(self) -> None:
        """Starts the thread; not in the constructor, where a subclass may not be complete yet."""
        self._thread.start()

    @abstractmethod
    def tick(self) -> None:
        """One call, in the ticker's thread."""

    def close(self) -> None:
        """Ends the thread. Waits a second at most: a model that is being opened is not waited for."""
        self._closed.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(1.0)

    def __enter__(self) -> "Ticker":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        reported: set[str] = set()
        while not self._clock.wait(self._closed, self._every_s):
            try:
                self.tick()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next tick may go well
                if repr(error) not in reported:
                    reported.add(repr(error))
                    threading.excepthook(
                        threading.ExceptHookArgs((type(error), error, error.__traceback__, self._thread))
                    )
