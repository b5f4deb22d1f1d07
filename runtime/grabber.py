"""The thread behind a camera: it opens, reads, and keeps nothing but the newest frame.

OpenCV's calls may block for as long as a network or a driver cares to, so they happen here, and timeouts are kept
outside. FFmpeg's own timeouts are set as well, so that the thread of a silent network camera ends.
"""

import atexit
import threading
import time
from dataclasses import dataclass

from edgeclf.runtime._opencv import cv2
from edgeclf.runtime.preprocess import UInt8Array

URL_SCHEMES = ("http://", "https://", "rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://")
# FFmpeg gives up so much sooner than whoever waits for it: a thread that has ended cannot be in the way of what follows.
_MARGIN_S = 0.5


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """One frame.

    Attributes:
        number: Position in what the camera delivered, from 0; gaps are dropped frames.
        image_bgr: (H, W, 3) uint8, BGR.
        captured_at_s: `time.monotonic()` when it arrived.
    """

    number: int
    image_bgr: UInt8Array
    captured_at_s: float

    @property
    def age_ms(self) -> float:
        """How old it is now."""
        return (time.monotonic() - self.captured_at_s) * 1e3


class Grabber:
    """One opened capture and the thread that reads it.

    Args:
        source: What `parse_camera` gives.
        timeout_s: What may be waited for the source to open, and for a frame from it.
        captured: Frames that came before from the same camera: the first frame's number.

    Attributes:
        timeout_s: As given.
        captured: Frames that came, those before included.
        fps: Frames per second as the source reports it, once it is open; 0 where it does not.
        failure: Why the thread ended, as a phrase; None while it runs.
    """

    def __init__(self, source: int | str, timeout_s: float, captured: int) -> None:
        self.timeout_s = timeout_s
        self.captured = captured
        self.fps = 0.0
        self.failure: str | None = None
        self._newest: CameraFrame | None = None
        self._condition = threading.Condition()
        self._stopped = False
        # A daemon: a driver call that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._run, args=(source,), name="edgeclf-camera", daemon=True)
        _GRABBERS.add(self)
        self._thread.start()

    def take(self, timeout_s: float) -> CameraFrame | None:
        """The newest frame not taken yet; None when none comes in time or the source ended."""
        with self._condition:
            self._condition.wait_for(lambda: self._newest is not None or self.failure is not None, timeout_s)
            newest, self._newest = self._newest, None
            return newest

    def stop(self, wait_s: float) -> None:
        """Ends the thread after the frame it is at, and waits so long for that."""
        with self._condition:
            self._stopped = True
        self._thread.join(wait_s)

    def _run(self, source: int | str) -> None:
        reason = "a driver that failed"
        try:
            reason = self._grab(source)
        except cv2.error as error:
            reason = str(error.err or error).strip()
        finally:
            with self._condition:
                self.failure = reason
                self._condition.notify_all()
            _GRABBERS.discard(self)

    def _grab(self, source: int | str) -> str:
        """Reads frames until told to stop; says in a phrase why it ended."""
        patience_s = max(self.timeout_s / 2, self.timeout_s - _MARGIN_S)
        capture = _open_capture(source, patience_s)
        try:
            if not capture.isOpened():
                return "nothing that opens"
            self.fps = float(capture.get(cv2.CAP_PROP_FPS))
            while True:
                started_s = time.monotonic()
                ok, image_bgr = capture.read()
                if not ok or image_bgr is None or image_bgr.size == 0:
                    waited_s = time.monotonic() - started_s
                    return f"no new frame for {waited_s:.1f} s" if waited_s >= patience_s else "the stream ended"
                with self._condition:
                    if self._stopped:
                        return "closed"
                    self._newest = CameraFrame(self.captured, image_bgr, time.monotonic())
                    self.captured += 1
                    self._condition.notify_all()
        finally:
            capture.release()


_GRABBERS: set[Grabber] = set()


@atexit.register
def _stop_grabbers() -> None:
    # A thread that comes back from OpenCV while the interpreter is being taken down ends the process with SIGABRT.
    for grabber in list(_GRABBERS):
        grabber.stop(grabber.timeout_s)


def _open_capture(source: int | str, timeout_s: float) -> "cv2.VideoCapture":
    if isinstance(source, str) and source.startswith(URL_SCHEMES):
        timeout_ms = int(timeout_s * 1e3)
        parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, parameters)
    # Left to choose, OpenCV would give a device path to FFmpeg, as if it were a file.
    capture = cv2.VideoCapture(source, cv2.CAP_V4L2 if isinstance(source, str) else cv2.CAP_ANY)
    # Drivers queue several frames by default, each of them older than the one that is wanted.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture
