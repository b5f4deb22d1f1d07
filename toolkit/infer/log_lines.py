"""Periodic figures of every camera on stderr, for the log of a service."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeclf.runtime.live.clock import MONOTONIC, Clock, Ticker
from edgeclf.toolkit.infer.figures import log_text

if TYPE_CHECKING:
    from edgeclf.toolkit.infer.camera_thread import CameraThread
    from edgeclf.toolkit.infer.status_line import StatusLine


class LogLines(Ticker):
    """A thread that writes a line of figures for every running camera.

    Args:
        cameras: The cameras.
        line: Where lines are written.
        every_s: Seconds between two lines of a camera.
        clock: Source of time.
    """

    def __init__(
        self, cameras: Sequence["CameraThread"], line: "StatusLine", every_s: float, clock: Clock = MONOTONIC
    ) -> None:
        super().__init__("log", every_s, clock)
        self._cameras = cameras
        self._line = line
        self._logged_s = clock.now_s()
        self._logged_frames = dict.fromkeys(cameras, 0)

    def tick(self) -> None:
        """See `Ticker`."""
        now_s = self._clock.now_s()
        seconds, self._logged_s = now_s - self._logged_s, now_s
        for camera in self._cameras:
            live = camera.live
            if live is None or not camera.is_alive:
                continue
            figures = live.figures
            frames, self._logged_frames[camera] = figures.done - self._logged_frames[camera], figures.done
            self._line.note(f"camera {camera.name}: {log_text(figures, live.statistics, frames, seconds)}")
