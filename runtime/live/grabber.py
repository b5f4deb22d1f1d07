"""The grabbing thread of a camera: opens a capture, reads frames, keeps only the newest.

Networks and drivers may block opening and reading for any time, so both happen in this thread, and whoever waits for a
frame keeps the timeout. The capture's own timeouts are set as well, so that the thread of a silent camera ends.
"""

import atexit
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.live.captures.capture import Capture, CaptureEndedError
from edgeclf.runtime.live.clock import MONOTONIC, Clock

# The capture gives up this much sooner than the camera, so that its thread has ended before the source is reopened.
_MARGIN_S = 0.5

# Called with the longest wait in seconds, and a function whose true result ends all waiting.
OpenCapture: TypeAlias = Callable[[float, Callable[[], bool]], Capture]


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """One frame of a camera.

    Attributes:
        number: Number of the frame among all that arrived, from 0; gaps are dropped or skipped frames.
        image_bgr: (H, W, 3) uint8, BGR.
        captured_at_s: Monotonic time of its arrival in seconds, before it was decoded.
        clock: The clock of that time.
        source_time_s: The frame's time stamp in an encoded stream, in seconds; None where the source has none.
    """

    number: int
    image_bgr: UInt8Array
    captured_at_s: float
    clock: Clock = field(default=MONOTONIC, repr=False)
    source_time_s: float | None = None

    @property
    def age_ms(self) -> float:
        """Milliseconds since its arrival."""
        return (self.clock.now_s() - self.captured_at_s) * 1e3


@dataclass
class GrabCounts:
    """Counts of a camera, handed from one grabber to the next; changed by the grabbing thread only.

    Attributes:
        captured: Frames that arrived whole.
        skipped: Those of them that were not wanted.
        unreadable: Damaged frames.
        size_changes: Times that the image had another size than before.
        last_s: Monotonic time at which the last frame arrived, in seconds; None before the first.
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
        open_capture: Opens the capture.
        timeout_s: Longest wait for the capture to open, and for a frame.
        counts: Counts of the camera so far, which this grabber continues.
        clock: Source of time for the waits and the ages of frames.

    Attributes:
        timeout_s: As given.
        counts: As given.
        fps: Frames per second as the capture reports them, once it is open; 0 where it reports none.
        failure: The reason for the thread's end, as a phrase; None while it runs.
        is_finished: Whether the source came to its regular end.
    """

    def __init__(
        self, open_capture: OpenCapture, timeout_s: float, counts: GrabCounts, clock: Clock = MONOTONIC
    ) -> None:
        self.timeout_s = timeout_s
        self.counts = counts
        self.fps = 0.0
        self.failure: str | None = None
        self.is_finished = False
        self._newest: CameraFrame | None = None
        self._wanted_number = 0
        self._wanted_s = 0.0
        self._clock = clock
        self._condition = threading.Condition()
        self._stopped = False
        # A daemon: a driver call that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._run, args=(open_capture,), name="edgeclf-camera", daemon=True)
        _GRABBERS.add(self)
        self._thread.start()

    def take(self, timeout_s: float) -> CameraFrame | None:
        """The newest frame not taken yet; None when none comes in time, the source ended, or `stop` was called."""
        with self._condition:
            self._wait_for_frame(timeout_s)
            newest, self._newest = self._newest, None
            return newest

    def has_frame(self, timeout_s: float) -> bool:
        """Whether a frame not taken yet is there, after waiting for one as `take` does; leaves it there."""
        with self._condition:
            self._wait_for_frame(timeout_s)
            return self._newest is not None

    def _wait_for_frame(self, timeout_s: float) -> None:
        self._clock.wait_for(
            self._condition,
            lambda: self._newest is not None or self.failure is not None or self._stopped,
            timeout_s,
        )

    def want(self, number: int, at_s: float) -> None:
        """Sets which frames are wanted from now on: none before that number, and that monotonic time in seconds."""
        with self._condition:
            self._wanted_number, self._wanted_s = number, at_s
            if self._newest is not None and not self._is_wanted(self._newest.number, self._newest.captured_at_s):
                self._newest = None
                self.counts.skipped += 1

    def stop(self, wait_s: float = 0.0) -> None:
        """Ends the thread after its present frame, and waits up to `wait_s` for the end; `take` returns at once."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if wait_s:
            # One that another thread is about to start sees that it was stopped.
            with contextlib.suppress(RuntimeError):
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
        """Reads frames until `stop` is called or the source ends."""
        patience_s = max(self.timeout_s / 2, self.timeout_s - _MARGIN_S)
        capture = open_capture(patience_s, lambda: self._stopped)
        try:
            self.fps = capture.fps
            while True:
                self._pass_on(capture, capture.grab())
        finally:
            capture.close()

    def _pass_on(self, capture: Capture, came_s: float) -> None:
        """Decodes the grabbed frame and makes it the newest, or counts it where it is damaged or not wanted."""
        counts = self.counts
        with self._condition:
            if self._stopped:
                raise CaptureEndedError("closed")
            is_skipped = not self._is_wanted(counts.captured, came_s)
        # Of several frames that have arrived, only the newest is decoded.
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
                self._newest = CameraFrame(counts.captured, image_bgr, came_s, self._clock, capture.source_time_s)
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
