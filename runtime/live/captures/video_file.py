"""A video file played at its own frame rate, as a camera would deliver it."""

from collections.abc import Callable
from pathlib import Path

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.video import announced_frames, grab_next, open_video, retrieved, usable_fps
from edgeclf.runtime.live.captures.capture import CaptureEndedError, colour_frame
from edgeclf.runtime.live.clock import Clock

# Longest time between two frames that is believed, in place of a constant frame rate.
_LONGEST_STEP_S = 60.0
# Where reading fell further behind than this, the schedule restarts at the present instead of rushing to catch up.
_FAR_BEHIND_S = 1.0
_NAP_S = 0.1


class FileCapture:
    """A `Capture` of a video file in real time: each frame at the time that the file says, else at a constant rate.

    Frames that cannot be decoded are passed over.

    Args:
        path: The file.
        is_stopped: Asked while waiting for the next frame's time; true ends the wait.
        is_looped: Whether the file begins again at its end.
        clock: Source of time, and of the pauses between frames.

    Raises:
        CaptureEndedError: The file does not open.
    """

    def __init__(self, path: Path, is_stopped: Callable[[], bool], *, is_looped: bool, clock: Clock) -> None:
        self._path = path
        self._is_stopped = is_stopped
        self._is_looped = is_looped
        self._clock = clock
        self._open()
        self.fps = usable_fps(self._capture.get(cv2.CAP_PROP_FPS))
        self._due_s = clock.now_s()
        self._is_begun = False

    def _open(self) -> None:
        try:
            self._capture, first, _lost = open_video(self._path)
        except SourceError as error:
            raise CaptureEndedError(error.got or "no video") from error
        self._first: UInt8Array | None = first
        self._left = announced_frames(self._capture) - 1
        self._position_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3

    @property
    def source_time_s(self) -> float | None:
        """See `Capture`."""
        return self._position_s

    @property
    def is_behind(self) -> bool:
        """See `Capture`."""
        return False

    def grab(self) -> float:
        """See `Capture`."""
        clock = self._clock
        if self._first is None:
            if (lost := grab_next(self._capture, self._left)) is not None:
                self._left -= lost + 1
                self._due_s += self._step_s()
            elif not self._is_looped:
                raise CaptureEndedError("the file ended", is_finished=True)
            else:
                self._capture.release()
                self._open()
                self._due_s += 1 / self.fps
        elif self._is_begun:
            # The first frame, which nobody took.
            self._due_s += 1 / self.fps
        self._is_begun = True
        while (pause_s := self._due_s - clock.now_s()) > 0 and not self._is_stopped():
            clock.sleep(min(pause_s, _NAP_S))
        now_s = clock.now_s()
        if now_s - self._due_s >= _FAR_BEHIND_S:
            self._due_s = now_s
        return now_s

    def _step_s(self) -> float:
        """Time from the frame before to the grabbed one."""
        before_s, self._position_s = self._position_s, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        step_s = self._position_s - before_s
        return step_s if 0 < step_s < _LONGEST_STEP_S else 1 / self.fps

    def retrieve(self) -> UInt8Array | None:
        """See `Capture`."""
        if self._first is not None:
            first, self._first = self._first, None
            return colour_frame(first)
        return colour_frame(retrieved(self._capture))

    def skip(self) -> bool:
        """See `Capture`."""
        self._first = None
        return True

    def close(self) -> None:
        """See `Capture`."""
        self._capture.release()
