"""What frames come from: a device or stream that OpenCV opens, an MJPEG stream over HTTP, a video file at its own pace.

Each kind is a `Capture`, read by the one thread of a `Grabber`. To grab is to wait for a frame and to know when it came;
to retrieve is to decode it, which a frame that nobody wants is spared.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.video import open_video, usable_fps

URL_SCHEMES = ("http://", "https://", "rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://")
# A file's clock starts anew where reading fell further behind than this, so that it does not rush to catch up.
_FAR_BEHIND_S = 1.0
_NAP_S = 0.1


class CaptureEndedError(Exception):
    """There are no more frames.

    Args:
        reason: Why, as a phrase.
        is_finished: Whether it is the end that the source was meant to have, and not a loss.
    """

    def __init__(self, reason: str, *, is_finished: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_finished = is_finished


class Capture(Protocol):
    """An opened source of frames.

    Attributes:
        fps: Frames per second as the source reports it; 0 where it does not.
    """

    fps: float

    @property
    def is_behind(self) -> bool:
        """Whether a newer frame than the grabbed one has arrived already."""

    def grab(self) -> float:
        """Waits for the next frame; gives `time.monotonic()` when it came, before it is decoded.

        Raises:
            CaptureEndedError: There is none.
        """

    def retrieve(self) -> UInt8Array | None:
        """The grabbed frame, (H, W, 3) uint8 BGR; None when it cannot be decoded."""

    def skip(self) -> bool:
        """Leaves the grabbed frame undecoded; gives whether it looks whole."""

    def close(self) -> None:
        """Releases the source."""


def open_capture(
    source: int | str | Path, patience_s: float, is_stopped: Callable[[], bool], *, is_looped: bool
) -> Capture:
    """Opens a source.

    Args:
        source: What `parse_camera` gives.
        patience_s: Longest wait for it to open, and for a frame, where the source's own code can limit it.
        is_stopped: Asked now and then while waiting; when true, `grab` ends soon.
        is_looped: Whether a file begins again at its end.

    Raises:
        CaptureEndedError: It does not open.
    """
    if isinstance(source, Path):
        return FileCapture(source, is_stopped, is_looped=is_looped)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        from edgeclf.runtime.live.mjpeg import open_mjpeg

        mjpeg = open_mjpeg(source, patience_s, is_stopped)
        if mjpeg is not None:
            return mjpeg
    return OpenCvCapture(source, patience_s)


class OpenCvCapture:
    """A device or a stream that OpenCV opens: V4L2, RTSP, HLS and what else FFmpeg reads."""

    def __init__(self, source: int | str, patience_s: float) -> None:
        self._patience_s = patience_s
        self._capture = _open(source, patience_s)
        if not self._capture.isOpened():
            self._capture.release()
            raise CaptureEndedError("nothing that opens")
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))

    @property
    def is_behind(self) -> bool:
        """See `Capture`."""
        return False

    def grab(self) -> float:
        """See `Capture`."""
        started_s = time.monotonic()
        is_there = self._capture.grab()
        now_s = time.monotonic()
        if not is_there:
            waited_s = now_s - started_s
            raise CaptureEndedError(
                f"no new frame for {waited_s:.1f} s" if waited_s >= self._patience_s else "the stream ended"
            )
        return now_s

    def retrieve(self) -> UInt8Array | None:
        """See `Capture`."""
        try:
            ok, image_bgr = self._capture.retrieve()
        except cv2.error:
            # What a driver hands over may be anything: here, bytes that are no picture.
            return None
        return _usable(image_bgr) if ok else None

    def skip(self) -> bool:
        """See `Capture`."""
        return True

    def close(self) -> None:
        """See `Capture`."""
        self._capture.release()


class FileCapture:
    """A video file that plays at its own frame rate, as a camera would deliver it.

    Args:
        path: The file.
        is_stopped: See `open_capture`.
        is_looped: Whether it begins again at its end.
    """

    def __init__(self, path: Path, is_stopped: Callable[[], bool], *, is_looped: bool) -> None:
        self._path = path
        self._is_stopped = is_stopped
        self._is_looped = is_looped
        self._open()
        self.fps = usable_fps(self._capture.get(cv2.CAP_PROP_FPS))
        self._due_s = time.monotonic()

    def _open(self) -> None:
        try:
            self._capture, first = open_video(self._path)
        except SourceError as error:
            raise CaptureEndedError(error.got or "no video") from error
        self._first: UInt8Array | None = first

    @property
    def is_behind(self) -> bool:
        """See `Capture`."""
        return False

    def grab(self) -> float:
        """See `Capture`."""
        if self._first is None and not self._capture.grab():
            if not self._is_looped:
                raise CaptureEndedError("the file ended", is_finished=True)
            self._capture.release()
            self._open()
        while (pause_s := self._due_s - time.monotonic()) > 0 and not self._is_stopped():
            time.sleep(min(pause_s, _NAP_S))
        now_s = time.monotonic()
        self._due_s = (self._due_s if now_s - self._due_s < _FAR_BEHIND_S else now_s) + 1 / self.fps
        return now_s

    def retrieve(self) -> UInt8Array | None:
        """See `Capture`."""
        if self._first is not None:
            first, self._first = self._first, None
            return _usable(first)
        ok, image_bgr = self._capture.retrieve()
        return _usable(image_bgr) if ok else None

    def skip(self) -> bool:
        """See `Capture`."""
        self._first = None
        return True

    def close(self) -> None:
        """See `Capture`."""
        self._capture.release()


def _usable(image_bgr: UInt8Array | None) -> UInt8Array | None:
    """The frame if it is a picture in colour, else None."""
    if image_bgr is None or image_bgr.size == 0 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3:
        return None
    return image_bgr


def _open(source: int | str, timeout_s: float) -> "cv2.VideoCapture":
    if isinstance(source, str) and source.startswith(URL_SCHEMES):
        timeout_ms = int(timeout_s * 1e3)
        parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, parameters)
    # Left to choose, OpenCV would give a device path to FFmpeg, as if it were a file.
    capture = cv2.VideoCapture(source, cv2.CAP_V4L2 if isinstance(source, str) else cv2.CAP_ANY)
    # Drivers queue several frames by default, each of them older than the one that is wanted.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture
