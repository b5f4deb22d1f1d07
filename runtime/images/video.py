"""Video files, read frame by frame, also behind frames that cannot be decoded."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.files import STILL_BRANDS, content_kind, kind_of
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.jpeg_warnings import decoded_without_words

# Not .ts and .mts: a folder of these holds TypeScript more often than video. Named directly they are read all the same.
VIDEO_SUFFIXES = frozenset((
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mjpg",
    ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv",
))  # fmt: skip
_DEFAULT_FPS = 25.0
_TRANSPORT_PACKETS = (188, 192)
# Behind a packet that it cannot decode, OpenCV goes on at the next attempt; at the end of a file, each of these takes about
# a microsecond. Most attempts, where a container announces more frames than these.
_ATTEMPTS, _MOST_ATTEMPTS = 2_000, 100_000
# Packets of sound between two frames; OpenCV takes 4,096 for the end. It reads the variable at each frame.
_PACKETS_VARIABLE, _PACKETS = "OPENCV_FFMPEG_READ_ATTEMPTS", 1_000_000_000


def begins_like_video(head: bytes) -> bool:
    """Whether a file's first bytes (1,024 or more, where it has as many) are those of a video container.

    MP4 and QuickTime, Matroska and WebM, AVI, MPEG program and transport streams, Flash, Windows Media, Ogg.
    """
    if head[4:8] == b"ftyp":
        return head[8:12] not in STILL_BRANDS
    if head.startswith(b"RIFF"):
        return head[8:12] == b"AVI "
    if head.startswith((b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"FLV\1", b"0&\xb2u\x8ef\xcf\x11", b"OggS")):
        return True
    # A transport stream is packets that begin with G; with time stamps (.m2ts) each has four bytes before that.
    return any(
        len(head) > 4 * size and all(head[size - 188 + packet * size] == 0x47 for packet in range(4))
        for size in _TRANSPORT_PACKETS
    )


@dataclass(frozen=True)
class VideoGap:
    """Frames of a video that cannot be decoded, one after the other.

    Attributes:
        number: The first one's number in the video, from 0.
        count: How many packets there are.
    """

    number: int
    count: int

    def error(self, path: Path) -> SourceError:
        """The error that stands for them."""
        return SourceError(
            f"cannot decode {path} from frame {self.number} on",
            got=f"{self.count} damaged packet{'s' if self.count > 1 else ''}",
            expected="packets that FFmpeg can decode",
            hint="copy the file again",
        )


class VideoFile:
    """A video file, iterated once, in order, every frame.

    Frames are upright as the container says. All have the size of the first: where the size changes, OpenCV scales them.

    Args:
        path: The file.

    Attributes:
        fps: Frames per second as the file says; 25 where it says nothing usable.
        frames_announced: Number of frames as the container says; 0 where it does not.
        frames_read: Number of frames read so far.
        frames_lost: Number of packets so far that could not be decoded.

    Raises:
        SourceError: The file is not a video that OpenCV can decode, or has no frame.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._capture, self._first, self._lost_first = open_video(self._path)
        self.fps = usable_fps(self._capture.get(cv2.CAP_PROP_FPS))
        self.frames_announced = announced_frames(self._capture)
        self.frames_read = self.frames_lost = 0

    def __enter__(self) -> "VideoFile":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[UInt8Array]:
        """Yields (H, W, 3) uint8 BGR frames, each an array of its own."""
        for _number, frame_bgr in self.numbered():
            if not isinstance(frame_bgr, VideoGap):
                yield frame_bgr

    def numbered(self) -> "Iterator[tuple[int, UInt8Array | VideoGap]]":
        """Yields each frame with its number in the video, and a gap in the place of frames that cannot be decoded."""
        number = 0
        frame: UInt8Array | None = self._first
        lost: int | None = self._lost_first
        while lost is not None:
            if frame is None:
                # Grabbed, but nothing came of it.
                lost += 1
            if lost:
                self.frames_lost += lost
                yield number, VideoGap(number, lost)
                number += lost
            if frame is not None:
                self.frames_read += 1
                yield number, frame
                number += 1
            lost = grab_next(self._capture, self.frames_announced - number)
            frame = None if lost is None else retrieved(self._capture)

    @property
    def ended_early(self) -> bool:
        """Whether clearly fewer frames were found than the container announces; a few are often missing from whole files."""
        missing = self.frames_announced - self.frames_read - self.frames_lost
        return missing > max(2, self.frames_announced // 50)

    def close(self) -> None:
        """Releases the file."""
        self._capture.release()


def grab_next(capture: "cv2.VideoCapture", announced: int = 0) -> int | None:
    """Grabs the next frame that can be decoded; the packets before it that cannot be, None at the end of the video.

    Args:
        capture: The opened video.
        announced: Frames that are still to come, as far as the container says.
    """
    for lost in range(min(max(_ATTEMPTS, announced + 1), _MOST_ATTEMPTS)):
        if capture.grab():
            return lost
    return None


def retrieved(capture: "cv2.VideoCapture") -> UInt8Array | None:
    """The grabbed frame, (H, W, 3) uint8 BGR; None where it cannot be decoded, or there is no memory for it."""
    try:
        is_decoded, frame = decoded_without_words(capture.retrieve)
    except (cv2.error, MemoryError):
        return None
    return np.asarray(frame, np.uint8) if is_decoded and frame is not None else None


def announced_frames(capture: "cv2.VideoCapture") -> int:
    """Number of frames as the container says; 0 where it says nothing."""
    return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))


def open_video(path: Path) -> tuple["cv2.VideoCapture", UInt8Array, int]:
    """Opens a video and reads its first frame, (H, W, 3) uint8 BGR.

    Returns:
        The opened video, the first frame that can be decoded, and the number of packets before it that cannot be.

    Raises:
        SourceError: The file is not a video that OpenCV can decode, or has no frame.
    """
    os.environ.setdefault(_PACKETS_VARIABLE, str(_PACKETS))
    # A pipe's content would be gone once it is looked at.
    kind = content_kind(path) if kind_of(path) == "file" else "a video"
    got = "no frame that can be decoded" if kind in {"a video", "binary data"} else kind
    try:
        with path.open("rb") as file:
            # FFmpeg would take the part before a colon for a protocol, unless the path begins with a slash.
            name = os.path.abspath(path)  # noqa: PTH100 - links stay as they are
            if not is_utf8(name):
                # OpenCV crashes on names that are not UTF-8; the open file has another name while it is open.
                name = f"/proc/self/fd/{file.fileno()}"
            # FFmpeg first, by name: other backends read a percent sign as a series of numbered images.
            for backend in (cv2.CAP_FFMPEG, cv2.CAP_ANY):
                capture = cv2.VideoCapture(name, backend)
                lost = grab_next(capture, announced_frames(capture)) if capture.isOpened() else None
                first = None if lost is None else retrieved(capture)
                if lost is not None and first is not None:
                    return capture, first, lost
                capture.release()
    except OSError as error:
        got = (error.strerror or type(error).__name__).lower() if kind_of(path) == "file" else content_kind(path)
    raise SourceError(
        f"cannot read video {path}",
        got=got,
        expected="a video file that OpenCV can read",
        hint="check the file, or convert it to MP4",
    )


def is_utf8(name: str) -> bool:
    """Whether a file name is valid UTF-8, which OpenCV asks for."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def usable_fps(reported: float) -> float:
    """A frame rate that a video can be written with, from what a source reports (which may be 0, NaN or 90,000)."""
    return reported if 1.0 <= reported <= 240.0 else _DEFAULT_FPS
