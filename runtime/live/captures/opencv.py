"""Devices and streams opened by OpenCV: V4L2, RTSP, HLS and whatever else FFmpeg reads."""

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.jpeg_warnings import decoded_without_words
from edgeclf.runtime.live.captures.capture import CaptureEndedError, colour_frame
from edgeclf.runtime.live.clock import Clock
from edgeclf.runtime.live.source import URL_SCHEMES


class OpenCvCapture:
    """A `Capture` of a device index, a device path or a URL.

    Args:
        source: Device index, device path, or URL.
        patience_s: Longest wait for the source to open, and for a frame; of devices, the driver decides.
        clock: Source of time.

    Raises:
        CaptureEndedError: The source does not open.
    """

    def __init__(self, source: int | str, patience_s: float, clock: Clock) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._capture = _open(source, patience_s)
        if not self._capture.isOpened():
            self._capture.release()
            raise CaptureEndedError("nothing that opens")
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        # A driver stamps each buffer, also one that holds the same image for ever; its images have the noise of a sensor.
        self._has_time_stamps = isinstance(source, str) and source.startswith(URL_SCHEMES)

    @property
    def source_time_s(self) -> float | None:
        """See `Capture`."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3 if self._has_time_stamps else None

    @property
    def is_behind(self) -> bool:
        """See `Capture`."""
        return False

    def grab(self) -> float:
        """See `Capture`."""
        started_s = self._clock.now_s()
        is_there = self._capture.grab()
        now_s = self._clock.now_s()
        if not is_there:
            waited_s = now_s - started_s
            raise CaptureEndedError(
                f"no new frame for {waited_s:.1f} s" if waited_s >= self._patience_s else "the stream ended"
            )
        return now_s

    def retrieve(self) -> UInt8Array | None:
        """See `Capture`."""
        try:
            # Cameras at USB send JPEG, and libjpeg says of each damaged one that it is.
            ok, image_bgr = decoded_without_words(self._capture.retrieve)
        except cv2.error:
            # Drivers hand over any bytes, also such as are no image.
            return None
        return colour_frame(image_bgr) if ok else None

    def skip(self) -> bool:
        """See `Capture`."""
        return True

    def close(self) -> None:
        """See `Capture`."""
        self._capture.release()


def _open(source: int | str, timeout_s: float) -> "cv2.VideoCapture":
    if isinstance(source, str) and source.startswith(URL_SCHEMES):
        timeout_ms = int(timeout_s * 1e3)
        parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, parameters)
    # Left to choose, OpenCV would give a device path to FFmpeg, as if it were a file.
    capture = cv2.VideoCapture(source, cv2.CAP_V4L2 if isinstance(source, str) else cv2.CAP_ANY)
    # Drivers queue several frames by default, each of them older than the newest one.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture
