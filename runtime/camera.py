"""Live cameras: always the newest frame, its age known, drops said and mended.

A camera delivers at its own pace. Frames that wait in a queue only get older, so one thread grabs and keeps nothing but
the newest; whoever asks gets that one, and the rest are counted as dropped. OpenCV's calls may block for as long as a
network cares to, so they happen in that thread, and timeouts are kept outside it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from edgeclf.runtime._opencv import cv2
from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.preprocess import UInt8Array

_URL_SCHEMES = ("http://", "https://", "rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://")
_RETRY_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)


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


@dataclass(frozen=True)
class CameraStatistics:
    """Counts since the camera was opened.

    Attributes:
        captured: Frames that arrived.
        taken: Frames that were handed out.
        reconnects: Times the source was opened anew.
    """

    captured: int
    taken: int
    reconnects: int

    @property
    def dropped(self) -> int:
        """Frames that were replaced by a newer one before anybody asked."""
        return self.captured - self.taken


class Camera:
    """A camera that is iterated for its newest frames until it is closed or gone for good.

    Args:
        source: Device index such as `0`, device path such as `/dev/video0`, or an http, rtsp, rtmp, udp or tcp URL.
        timeout_s: Longest wait for the first frame, and for any later one, before the source counts as gone.
        reconnects: How often in a row a source that went away is opened anew before giving up; 0 for never.
        on_event: Told, in a phrase, when the source drops, is opened anew, or delivers again.

    Raises:
        SourceError: There is no such camera, or it delivers no frame in time.
        UsageError: The source or a number makes no sense.
    """

    def __init__(
        self,
        source: int | str,
        *,
        timeout_s: float = 4.0,
        reconnects: int = 5,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        if timeout_s <= 0 or reconnects < 0:
            raise UsageError(
                "bad camera options",
                got=f"timeout {timeout_s:g} s, {reconnects} reconnects",
                expected="positive numbers",
            )
        self.source = parse_camera(source)
        self._timeout_s = timeout_s
        self._reconnects = reconnects
        self._on_event = on_event or (lambda _phrase: None)
        self._captured = self._taken = self._reopened = 0
        self._grabber = _Grabber(self.source, timeout_s)
        first = self._grabber.take(timeout_s)
        if first is None:
            reason = self._grabber.failure or f"no frame within {timeout_s:g} s"
            self._grabber.stop()
            raise SourceError(
                f"cannot open camera {source}",
                got=reason,
                expected="a camera that delivers frames",
                do="check that it is connected, free and permitted",
            )
        self._waiting: CameraFrame | None = first

    @property
    def fps(self) -> float:
        """Frames per second as the camera reports it; 0 where it does not."""
        return self._grabber.fps

    @property
    def statistics(self) -> CameraStatistics:
        """What has happened so far."""
        return CameraStatistics(self._captured + self._grabber.captured, self._taken, self._reopened)

    def __enter__(self) -> "Camera":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[CameraFrame]:
        """Yields the newest frame each time, waiting for one that has not been yielded.

        Raises:
            SourceError: The camera went away and could not be opened anew within the limit.
        """
        while True:
            frame, self._waiting = self._waiting or self._grabber.take(self._timeout_s), None
            if frame is None:
                frame = self._reopen()
            self._taken += 1
            yield CameraFrame(self._captured + frame.number, frame.image_bgr, frame.captured_at_s)

    def close(self) -> None:
        """Stops grabbing. A grab that blocks in the driver is left to end by itself."""
        self._grabber.stop()

    def _reopen(self) -> CameraFrame:
        reason = self._grabber.failure or f"no new frame for {self._timeout_s:g} s"
        for attempt in range(self._reconnects):
            self._on_event(f"camera {self.source}: {reason}; opening it anew ({attempt + 1} of {self._reconnects})")
            self._retire_grabber()
            time.sleep(_RETRY_PAUSES_S[min(attempt, len(_RETRY_PAUSES_S) - 1)])
            self._grabber = _Grabber(self.source, self._timeout_s)
            self._reopened += 1
            frame = self._grabber.take(self._timeout_s)
            if frame is not None:
                self._on_event(f"camera {self.source}: delivers again")
                return frame
            reason = self._grabber.failure or f"no frame within {self._timeout_s:g} s"
        self._grabber.stop()
        raise SourceError(
            f"camera {self.source} went away",
            got=f"{reason} after {self._reconnects} attempts to open it anew",
            expected="a camera that keeps delivering",
            do="check its cable, power and network",
        )

    def _retire_grabber(self) -> None:
        self._grabber.stop()
        self._captured += self._grabber.captured


class _Grabber:
    """One opened capture and the thread that reads it."""

    def __init__(self, source: int | str, timeout_s: float) -> None:
        self.captured = 0
        self.fps = 0.0
        self.failure: str | None = None
        self._newest: CameraFrame | None = None
        self._condition = threading.Condition()
        self._stopped = False
        # A daemon: a driver call that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._grab, args=(source, timeout_s), name="edgeclf-camera", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> CameraFrame | None:
        """The newest frame not taken yet; None when none comes in time or the source ended."""
        with self._condition:
            self._condition.wait_for(lambda: self._newest is not None or self.failure is not None, timeout_s)
            newest, self._newest = self._newest, None
            return newest

    def stop(self) -> None:
        with self._condition:
            self._stopped = True
        # Long enough for a working camera to finish its frame, too short to notice for one that hangs.
        self._thread.join(timeout=0.5)

    def _grab(self, source: int | str, timeout_s: float) -> None:
        capture = _open_capture(source, timeout_s)
        try:
            if not capture.isOpened():
                self._fail("nothing that opens")
                return
            self.fps = float(capture.get(cv2.CAP_PROP_FPS))
            while not self._stopped:
                ok, image_bgr = capture.read()
                if not ok or image_bgr is None or image_bgr.size == 0:
                    self._fail("the stream ended")
                    return
                with self._condition:
                    self._newest = CameraFrame(self.captured, image_bgr, time.monotonic())
                    self.captured += 1
                    self._condition.notify_all()
        finally:
            capture.release()

    def _fail(self, reason: str) -> None:
        with self._condition:
            self.failure = reason
            self._condition.notify_all()


def _open_capture(source: int | str, timeout_s: float) -> "cv2.VideoCapture":
    if isinstance(source, str) and source.startswith(_URL_SCHEMES):
        timeout_ms = int(timeout_s * 1e3)
        parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, parameters)
    capture = cv2.VideoCapture(source)
    # Drivers queue several frames by default, each of them older than the one that is wanted.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def parse_camera(source: int | str) -> int | str:
    """A camera as OpenCV opens it: an index for digits, else a device path or a URL.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(source, int) or source.isdecimal():
        index = int(source)
        if index >= 0:
            return index
    elif source.startswith(("/dev/", *_URL_SCHEMES)):
        return source
    raise UsageError(
        f"cannot use {source!r} as a camera",
        expected="a number such as 0, a device such as /dev/video0, or an http:// or rtsp:// URL",
        do="pass a video file as a source instead",
    )
