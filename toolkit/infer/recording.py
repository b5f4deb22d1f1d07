"""Real-time recording of a camera's annotated frames; the file stays playable when the disk fills up."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.files import file_to_write, output_error
from edgeclf.runtime.images.video import usable_fps
from edgeclf.runtime.live.clock import MONOTONIC, Clock
from edgeclf.runtime.live.recorder import VideoRecorder

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import UInt8Array

# Free space that is kept to complete the file: its index, and what is written between two checks.
_RESERVE_BYTES = 16 << 20
_INDEX_BYTES_PER_FRAME = 32
_CHECK_EVERY_S = 0.25
# A longer gap in the stream is not filled with repeated frames: they could be hours of one image.
_LONGEST_REPEAT_S = 2.0


class LiveRecording:
    """A video file of annotated frames, as long as the camera ran.

    A recording that cannot go on is completed and kept, and takes no more frames; classification goes on.

    Args:
        path: The video file; its suffix chooses the codec.
        fps: Returns the frame rate of the source, 0 where it is not known; called when the first frame has come.
        stopped: Called with a sentence when the recording stops before its end.
        clock: Source of time.

    Attributes:
        written: Frames written, repeated ones included.
        lost: Frames that came after the recording stopped.
        stop_reason: Why it stopped before its end, as a phrase; None while it did not.

    Raises:
        OutputError: There is no codec for the file, or its folder cannot be made.
    """

    def __init__(
        self, path: Path, fps: Callable[[], float], stopped: Callable[[str], None], clock: Clock = MONOTONIC
    ) -> None:
        self._path = path
        self._fps = fps
        self._stopped = stopped
        self._clock = clock
        self._recorder: VideoRecorder | None = VideoRecorder(path, path)
        self._rate = 0.0
        self._started_s = 0.0
        self._checked_s: float | None = None
        self.written = self.lost = 0
        self.stop_reason: str | None = None
        file_to_write(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(path, error) from error

    def add(self, drawn_bgr: "UInt8Array") -> None:
        """Writes a frame, (H, W, 3) uint8 BGR; repeats it where frames came slower than the recording's rate.

        Raises:
            OutputError: The file cannot be opened for writing.
        """
        if self._recorder is None:
            self.lost += 1
            return
        now_s = self._clock.now_s()
        if self._checked_s is None or now_s - self._checked_s >= _CHECK_EVERY_S:
            self._checked_s = now_s
            if self._free_bytes() < _RESERVE_BYTES + _INDEX_BYTES_PER_FRAME * self.written:
                self._complete(f"the disk is nearly full, recording ends after {self.written} frames")
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
            self._complete(None)

    def _complete(self, stop_reason: str | None) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None and self.written:
            try:
                recorder.close()
            except OutputError as error:
                stop_reason = str(error).removesuffix(".")
        if stop_reason is not None:
            self.stop_reason = stop_reason
            self._stopped(f"--save {self._path}: {stop_reason}")

    def _free_bytes(self) -> float:
        """Bytes that may still be written, as far as the system reports them."""
        free = float("inf")
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self._path.parent).free
            limit = _file_size_limit()
            if limit is not None:
                size = self._path.stat().st_size if self._path.exists() else 0
                free = min(free, limit - size)
        return free


def _file_size_limit() -> int | None:
    """The largest file that this process may write, in bytes; None for no limit."""
    try:
        import resource
    except ImportError:  # Unix only
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit
