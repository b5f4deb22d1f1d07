"""Notifications to systemd: that cameras run, that what they deliver is classified, that the run ends."""

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeclf.runtime.live.clock import MONOTONIC, Clock

if TYPE_CHECKING:
    from edgeclf.runtime import LiveClassifier


@dataclass(frozen=True)
class _Progress:
    """What has become of a camera's frames at a time."""

    arrived: int
    taken: int
    done: int
    at_s: float


class ServiceManager:
    """The service manager that started this process; without one, nothing is sent.

    A camera that is silent or away is waited for with limits of its own. One that goes on while none of its frames is classified,
    for half of the watchdog's time, hangs in a driver, a native library or a full pipe: then the watchdog is not told any
    more, and systemd starts the service anew.

    Args:
        environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, as of sd_notify(3) and sd_watchdog_enabled(3).
        clock: Source of time.
    """

    def __init__(self, environment: Mapping[str, str], clock: Clock = MONOTONIC) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        microseconds = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_s = int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else 0.0
        self._clock = clock
        self._told_s = -self._watchdog_s
        self._progress: dict[str, _Progress] = {}

    def ready(self) -> None:
        """Tells that the cameras run."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Tells that the run ends."""
        self._send("STOPPING=1")

    def watch(self, cameras: "Mapping[str, LiveClassifier]") -> None:
        """Tells the watchdog, four times within its time, that every camera is classified; called often.

        Args:
            cameras: Those that run, by name.
        """
        now_s = self._clock.now_s()
        if not self._watchdog_s or now_s - self._told_s < self._watchdog_s / 4:
            return
        # All are looked at: each of them has a time of its own.
        hanging = [name for name, live in cameras.items() if self._hangs(name, live, now_s)]
        if not hanging:
            self._told_s = now_s
            self._send("WATCHDOG=1")

    def _hangs(self, name: str, live: "LiveClassifier", now_s: float) -> bool:
        counts = live.statistics
        now = _Progress(counts.captured - counts.skipped, counts.taken, live.figures.done, now_s)
        before = self._progress.get(name)
        if before is None or (now.taken, now.done) != (before.taken, before.done):
            self._progress[name] = now
            return False
        has_work = now.arrived > before.arrived or now.taken > now.done
        return has_work and now_s - before.at_s >= self._watchdog_s / 2

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # An abstract name begins with a NUL, written as `@`.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # One that has gone away, or takes nothing now, costs no camera.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.settimeout(0)
            client.sendto(text.encode(), address)
