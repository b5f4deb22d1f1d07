"""A camera's recording: at the speed of life, under its own name from the first frame on, and kept when the disk is full."""

import contextlib
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.files import output_error
from edgeclf.runtime.images.video import VideoRecorder, usable_fps

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import UInt8Array

# What must be left on the disk, so that the file can be completed: its index, and what is written between two looks.
_RESERVE_BYTES = 16 << 20
_INDEX_BYTES_PER_FRAME = 32
_LOOK_EVERY_S = 0.25
# A gap in the stream is not filled up with repeated frames beyond this: they would be hours of one picture.
_LONGEST_REPEAT_S = 2.0


class LiveRecording:
    """Records annotated frames of a camera.

    A recording that cannot go on is completed and kept, said and counted, and takes no more frames; classification
    goes on.

    Args:
        path: The video file; its suffix chooses the codec.
        fps: Gives the frame rate of the source, 0 where it is not known; asked when the first frame has come.
        on_trouble: Told, in a phrase, why the recording stopped.

    Attributes:
        lost: Frames that came after the recording stopped.
        trouble: Why it stopped, as a phrase; None while it did not.

    Raises:
        OutputError: There is no codec for the file, or its folder cannot be made.
    """

    def __init__(self, path: Path, fps: Callable[[], float], on_trouble: Callable[[str], None]) -> None:
        self._path = path
        self._fps = fps
        self._on_trouble = on_trouble
        self._recorder: VideoRecorder | None = VideoRecorder(path, path)
        self._rate = 0.0
        self._started_s = self._looked_s = 0.0
        self.written = self.lost = 0
        self.trouble: str | None = None
        if path.is_dir():
            raise output_error(path, OSError(21, "an existing folder"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(path, error) from error

    def add(self, drawn_bgr: "UInt8Array") -> None:
        """Takes a frame, (H, W, 3) uint8 BGR; repeats it where frames came slower than the recording's rate.

        Raises:
            OutputError: The file cannot be opened for writing.
        """
        if self._recorder is None:
            self.lost += 1
            return
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now_s
            if self._room() < _RESERVE_BYTES + _INDEX_BYTES_PER_FRAME * self.written:
                self._stop(f"the disk is nearly full, recording ends after {self.written} frames")
                self.lost += 1
                return
        if self.written == 0:
            self._rate, self._started_s = usable_fps(self._fps()), now_s
        due = int((now_s - self._started_s) * self._rate) + 1 - self.written
        longest = int(_LONGEST_REPEAT_S * self._rate) + 1
        if due > longest:
            self._started_s += (due - longest) / self._rate
            due = longest
        for _ in range(due):
            self._recorder.write(drawn_bgr, self._rate)
            self.written += 1

    def close(self) -> None:
        """Completes the file.

        Raises:
            OutputError: No frame was ever written.
        """
        if self._recorder is not None:
            if self.written == 0:
                self._recorder.close()
            self._stop(None)

    def _stop(self, trouble: str | None) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None and self.written:
            try:
                recorder.close()
            except OutputError as error:
                trouble = str(error).removesuffix(".")
        if trouble is not None:
            self.trouble = trouble
            self._on_trouble(f"--save {self._path}: {trouble}")

    def _room(self) -> float:
        """Bytes that may still be written, as far as the system tells."""
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        room = float("inf")
        with contextlib.suppress(OSError):
            room = shutil.disk_usage(self._path.parent).free
            if limit != resource.RLIM_INFINITY:
                size = self._path.stat().st_size if self._path.exists() else 0
                room = min(room, limit - size)
        return room
