"""Video files, read frame by frame and written with the classification drawn in."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeclf.runtime._opencv import cv2
from edgeclf.runtime.errors import OutputError, SourceError
from edgeclf.runtime.files import output_error
from edgeclf.runtime.preprocess import UInt8Array

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".mjpg", ".mjpeg")
)
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
_DEFAULT_FPS = 25.0


class VideoFile:
    """A video file, iterated once, in order, every frame.

    Args:
        path: The file.

    Attributes:
        fps: Frames per second as the file says; 25 where it says nothing usable.
        frames_announced: Number of frames as the container says; 0 where it does not.
        frames_read: Number of frames read so far.

    Raises:
        SourceError: The file is not a video that OpenCV can decode, or has no frame.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._capture = cv2.VideoCapture(str(path))
        ok, first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not ok:
            self._capture.release()
            raise SourceError(
                f"cannot read video {path}",
                got="no frame that can be decoded",
                expected="a video file that OpenCV can read",
                do="check the file, or convert it to MP4",
            )
        self._first: UInt8Array | None = first
        self.fps = usable_fps(self._capture.get(cv2.CAP_PROP_FPS))
        self.frames_announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.frames_read = 0

    def __enter__(self) -> "VideoFile":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[UInt8Array]:
        """Yields (H, W, 3) uint8 BGR frames, each an array of its own."""
        frame, self._first = self._first, None
        while frame is not None:
            self.frames_read += 1
            yield frame
            ok, frame = self._capture.read()
            if not ok:
                return

    @property
    def ended_early(self) -> bool:
        """Whether clearly fewer frames came than the container announces; a few are often missing from whole files."""
        return self.frames_announced - self.frames_read > max(2, self.frames_announced // 50)

    def close(self) -> None:
        """Releases the file."""
        self._capture.release()


class VideoRecorder:
    """Writes frames to a video file.

    Use the path that `replacing` yields, so that a recording that fails leaves nothing behind.

    Args:
        path: Where to write; the suffix chooses the codec.
        shown_as: The path the user asked for, for errors.

    Raises:
        OutputError: There is no codec for the suffix.
    """

    def __init__(self, path: Path, shown_as: Path) -> None:
        if path.suffix.lower() not in _CODECS:
            raise OutputError(
                f"cannot write video {shown_as}",
                got=f"the suffix {path.suffix!r}",
                expected=" or ".join(sorted(_CODECS)),
                do="choose another file name",
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
                do="choose another path, or .avi",
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


def usable_fps(reported: float) -> float:
    """A frame rate that a video can be written with, from what a source reports (which may be 0, NaN or 90,000)."""
    return reported if 1.0 <= reported <= 240.0 else _DEFAULT_FPS
