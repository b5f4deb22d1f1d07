"""Recording: frames are written to a video file."""

from pathlib import Path
from typing import Any

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.files import output_error
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.video import is_utf8

_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}


class VideoRecorder:
    """A video file that frames are appended to.

    Use the path that `replacing` yields, so that a recording that fails leaves nothing behind.

    Args:
        path: Where to write; the suffix chooses the codec.
        shown_as: The path the user asked for, for errors.

    Raises:
        OutputError: There is no codec for the suffix, or the path is not UTF-8.
    """

    def __init__(self, path: Path, shown_as: Path) -> None:
        if path.suffix.lower() not in _CODECS:
            raise OutputError(
                f"cannot write video {shown_as}",
                got=f"the suffix {path.suffix!r}",
                expected=" or ".join(sorted(_CODECS)),
                hint="choose another file name",
            )
        if not is_utf8(str(path)):
            raise OutputError(
                f"cannot write video {shown_as}",
                got="a path that is not UTF-8",
                expected="one that OpenCV can open",
                hint="choose another path",
            )
        self._path = path
        self._shown_as = shown_as
        self._size_wh: tuple[int, int] | None = None
        self._writer: Any = None
        self.frames_written = 0

    def write(self, frame_bgr: UInt8Array, fps: float) -> None:
        """Appends a frame.

        Args:
            frame_bgr: (H, W, 3) uint8, BGR; one of another size than the first is scaled to it.
            fps: Frames per second of the recording; the first frame's counts.

        Raises:
            OutputError: The file cannot be opened for writing.
        """
        if self._writer is None:
            self._size_wh = (frame_bgr.shape[1], frame_bgr.shape[0])
            codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._path), codec, fps, self._size_wh)
        if not self._writer.isOpened():
            raise OutputError(
                f"cannot write video {self._shown_as}",
                got="an encoder that does not open",
                expected="a writable place and a frame size the codec takes",
                hint="choose another path, or .avi",
            )
        if (frame_bgr.shape[1], frame_bgr.shape[0]) != self._size_wh:
            frame_bgr = cv2.resize(frame_bgr, self._size_wh, interpolation=cv2.INTER_AREA)
        self._writer.write(frame_bgr)
        self.frames_written += 1

    def close(self) -> None:
        """Completes the file.

        Raises:
            OutputError: No frame was written, or fewer arrived in the file than were written - OpenCV does not say
                when a disk is full.
        """
        if self._writer is None:
            raise OutputError(f"cannot write video {self._shown_as}", got="no frame", expected="at least one")
        self._writer.release()
        capture = cv2.VideoCapture(str(self._path))
        arrived = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if arrived < self.frames_written:
            cause = OSError(28, f"{arrived} of {self.frames_written} frames arrived in the file")
            raise output_error(self._shown_as, cause)
