"""The thread behind a camera: it opens, reads, and keeps nothing but the newest frame.

Opening and reading may block for as long as a network or a driver cares to, so they happen here, and timeouts are kept
outside. The source's own timeouts are set as well, so that the thread of a silent network camera ends.
"""

import atexit
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.live.captures import Capture, CaptureEndedError

# The source gives up so much sooner than whoever waits for it: a thread that has ended cannot be in the way of what follows.
_MARGIN_S = 0.5

# Called with the longest wait and a function that says whether to stop waiting.
OpenCapture: TypeAlias = Callable[[float, Callable[[], bool]], Capture]


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """One frame.

    Attributes:
        number: Position in what the camera delivered, from 0; gaps are dropped or skipped frames.
        image_bgr: (H, W, 3) uint8, BGR.
        captured_at_s: `time.monotonic()` when it arrived, before it was decoded.
    """

    number: int
    image_bgr: UInt8Array
    captured_at_s: float

    @property
    def age_ms(self) -> float:
        """How old it is now."""
        return (time.monotonic() - self.captured_at_s) * 1e3


@dataclass
class GrabCounts:
    """What a camera's grabbers saw, from one to the next; changed by the grabbing thread only.

    Attributes:
        captured: Frames that arrived whole.
        skipped: Those of them that nobody wanted.
        unreadable: What arrived in a frame's place and could not be decoded.
        size_changes: Times that the picture's size was another than before.
        last_s: `time.monotonic()` when the last frame arrived.
        last_size_hw: Size of the last decoded frame.
    """

    captured: int = 0
    skipped: int = 0
    unreadable: int = 0
    size_changes: int = 0
    last_s: float | None = None
    last_size_hw: tuple[int, int] | None = None


class Grabber:
    """One opened capture and the thread that reads it.

    Args:
        open_capture: Opens the source.
        timeout_s: What may be waited for the source to open, and for a frame from it.
        counts: What the grabbers before counted; goes on.

    Attributes:
        timeout_s: As given.
        counts: As given.
        fps: Frames per second as the source reports it, once it is open; 0 where it does not.
        failure: Why the thread ended, as a phrase; None while it runs.
        is_finished: Whether it ended because the source came to its regular end.
    """

    def __init__(self, open_capture: OpenCapture, timeout_s: float, counts: GrabCounts) -> None:
        self.timeout_s = timeout_s
        self.counts = counts
        self.fps = 0.0
        self.failure: str | None = None
        self.is_finished = False
        self._newest: CameraFrame | None = None
        self._wanted_number = 0
        self._wanted_s = 0.0
        self._condition = threading.Condition()
        self._stopped = False
        # A daemon: a driver call that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._run, args=(open_capture,), name="edgeclf-camera", daemon=True)
        _GRABBERS.add(self)
        self._thread.start()

    def take(self, timeout_s: float) -> CameraFrame | None:
        """The newest frame not taken yet; None when none comes in time, the source ended, or `stop` was called."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._newest is not None or self.failure is not None or self._stopped, timeout_s
            )
            newest, self._newest = self._newest, None
            return newest

    def want(self, number: int, at_s: float) -> None:
        """Says which frames are of use from now on: none before that number and that `time.monotonic()`."""
        with self._condition:
            self._wanted_number, self._wanted_s = number, at_s
            if self._newest is not None and not self._is_wanted(self._newest.number, self._newest.captured_at_s):
                self._newest = None
                self.counts.skipped += 1

    def stop(self, wait_s: float = 0.0) -> None:
        """Ends the thread after the frame it is at, and waits so long for that; `take` returns at once."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if wait_s:
            self._thread.join(wait_s)

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def _is_wanted(self, number: int, at_s: float) -> bool:
        return number >= self._wanted_number and at_s >= self._wanted_s

    def _run(self, open_capture: OpenCapture) -> None:
        reason = "a driver that failed"
        try:
            self._grab(open_capture)
        except CaptureEndedError as ended:
            reason, self.is_finished = ended.reason, ended.is_finished
        except cv2.error as error:
            reason = str(error.err or error).strip()
        finally:
            with self._condition:
                self.failure = reason
                self._condition.notify_all()
            _GRABBERS.discard(self)

    def _grab(self, open_capture: OpenCapture) -> None:
        """Reads frames until told to stop or the source ends."""
        patience_s = max(self.timeout_s / 2, self.timeout_s - _MARGIN_S)
        capture = open_capture(patience_s, lambda: self._stopped)
        try:
            self.fps = capture.fps
            while True:
                self._pass_on(capture, capture.grab())
        finally:
            capture.close()

    def _pass_on(self, capture: Capture, came_s: float) -> None:
        """Decodes the grabbed frame and makes it the newest, or counts it where it is of no use."""
        counts = self.counts
        with self._condition:
            if self._stopped:
                raise CaptureEndedError("closed")
            is_skipped = not self._is_wanted(counts.captured, came_s)
        # Of frames that wait already, only the newest is worth the time to decode it.
        image_bgr = None if (is_undecoded := is_skipped or capture.is_behind) else capture.retrieve()
        is_whole = capture.skip() if is_undecoded else image_bgr is not None
        with self._condition:
            if self._stopped:
                raise CaptureEndedError("closed")
            if not is_whole:
                counts.unreadable += 1
                return
            if image_bgr is not None:
                size_hw = (image_bgr.shape[0], image_bgr.shape[1])
                counts.size_changes += counts.last_size_hw not in {None, size_hw}
                counts.last_size_hw = size_hw
                self._newest = CameraFrame(counts.captured, image_bgr, came_s)
            counts.skipped += is_skipped
            counts.captured += 1
            counts.last_s = came_s
            self._condition.notify_all()


_GRABBERS: set[Grabber] = set()


@atexit.register
def _stop_grabbers() -> None:
    # A thread that comes back from OpenCV while the interpreter is being taken down ends the process with SIGABRT.
    for grabber in list(_GRABBERS):
        grabber.stop(grabber.timeout_s)
