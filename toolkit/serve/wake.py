"""How the thread that classifies wakes those who wait in the server's thread: cheap, and nothing where nobody waits."""

import asyncio
from collections.abc import Callable


class Wake:
    """Wakes all waiting coroutines of one event loop, from any thread.

    A result comes hundreds of times a second on a fast machine. `notify` therefore looks first whether anybody waits,
    and asks the loop once however many results come before it has answered.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None
        self._waiting = 0
        self._asked = False

    def attach(self) -> None:
        """Takes the running loop as the one to wake; called in its thread."""
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wakes who waits. What they look at must have been changed before."""
        loop = self._loop
        if loop is None or not self._waiting or self._asked:
            return
        self._asked = True
        try:
            loop.call_soon_threadsafe(self._fire)
        except RuntimeError:  # the loop was closed in between: nobody waits any more
            self._loop = None

    async def wait(self, happened: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until something has happened; False when it has not in time."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        # Counted before it is looked at: a change after the look finds somebody waiting.
        self._waiting += 1
        try:
            while not happened():
                event = self._event
                left_s = deadline_s - loop.time()
                if event is None or left_s <= 0:
                    return False
                try:
                    await asyncio.wait_for(event.wait(), left_s)
                except asyncio.TimeoutError:  # in Python 3.10 not yet the same class as TimeoutError
                    return happened()
            return True
        finally:
            self._waiting -= 1

    def _fire(self) -> None:
        self._asked = False
        if self._event is not None:
            self._event.set()
            self._event = asyncio.Event()
