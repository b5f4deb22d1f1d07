"""The choice of the capture that opens a source."""

from collections.abc import Callable
from pathlib import Path

from edgeclf.runtime.live.captures.capture import Capture
from edgeclf.runtime.live.captures.opencv import OpenCvCapture
from edgeclf.runtime.live.captures.video_file import FileCapture
from edgeclf.runtime.live.clock import Clock


def open_capture(
    source: int | str | Path,
    patience_s: float,
    is_stopped: Callable[[], bool],
    *,
    is_looped: bool,
    poll_s: float,
    clock: Clock,
) -> Capture:
    """Opens a frame source.

    Args:
        source: Device index, device path or URL, or the path of a file, as in `CameraSource.opened`.
        patience_s: Longest wait for the source to open, and for a frame, where the source's own code can limit it.
        is_stopped: Asked now and then while waiting; once true, `grab` ends soon.
        is_looped: Whether a file begins again at its end.
        poll_s: Pause between two images of a URL that answers with one.
        clock: Source of time for the frames.

    Raises:
        CaptureEndedError: The source does not open.
    """
    if isinstance(source, Path):
        return FileCapture(source, is_stopped, is_looped=is_looped, clock=clock)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        # Imported here: only HTTP cameras need urllib and ssl.
        from edgeclf.runtime.live.captures.mjpeg import open_http

        images = open_http(source, patience_s, is_stopped, clock, poll_s=poll_s)
        if images is not None:
            return images
    return OpenCvCapture(source, patience_s, clock)
