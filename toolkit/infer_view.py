"""Annotated frames on a screen or into a video file."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime._opencv import cv2
from edgeclf.runtime.annotate import annotate
from edgeclf.runtime.errors import UnavailableError
from edgeclf.runtime.video import VideoRecorder, usable_fps

if TYPE_CHECKING:
    from edgeclf.runtime.prediction import Prediction
    from edgeclf.runtime.preprocess import UInt8Array

_WINDOW = "edgeclf (q closes)"
_ESCAPE = 27


class FrameView:
    """Shows and records annotated frames, either, both or neither.

    Args:
        show: Whether to open a window.
        record_to: Where to write the video now, None for not at all.
        record_as: The path the user asked for.
        fps: Gives the frame rate of the source, 0 where it is not known; asked when the first frame has come.
        real_time: Whether frames come at their own pace (a camera): the recording then repeats frames where
            classification was slower than `fps`, so that it plays at the speed of life.

    Raises:
        UnavailableError: A window is asked for and there is no display, or this OpenCV has no windows.
        OutputError: There is no codec for the file.
    """

    def __init__(
        self, *, show: bool, record_to: Path | None, record_as: Path | None, fps: Callable[[], float], real_time: bool
    ) -> None:
        if show:
            check_display()
        self._show = show
        self._fps = fps
        self._real_time = real_time
        self._started: float | None = None
        self._recorder = (
            VideoRecorder(record_to, record_as) if record_to is not None and record_as is not None else None
        )

    def add(self, frame_bgr: "UInt8Array", prediction: "Prediction", rate: float) -> bool:
        """Takes a frame, (H, W, 3) uint8 BGR; False when the user closed the window."""
        if self._recorder is None and not self._show:
            return True
        drawn = annotate(frame_bgr, prediction, f"{rate:.1f} fps" if rate else "")
        if self._recorder is not None:
            for _ in range(self._due(self._recorder.frames_written)):
                self._recorder.write(drawn, usable_fps(self._fps()))
        if not self._show:
            return True
        cv2.imshow(_WINDOW, drawn)
        key = cv2.waitKey(1) & 0xFF
        return key not in {ord("q"), _ESCAPE}

    def _due(self, written: int) -> int:
        """How many times to write the frame at hand."""
        if not self._real_time:
            return 1
        now = time.monotonic()
        if self._started is None:
            self._started = now
        return max(0, int((now - self._started) * usable_fps(self._fps())) + 1 - written)

    def close(self, *, complete: bool) -> None:
        """Closes window and, when the recording is to be kept, the file.

        Raises:
            OutputError: The recording is empty or incomplete.
        """
        if self._show:
            cv2.destroyAllWindows()
        if self._recorder is not None and complete:
            self._recorder.close()


def check_display() -> None:
    """Raises UnavailableError unless a window can be opened here."""
    # Asked before OpenCV is: its window code ends the whole process where there is no display.
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UnavailableError(
            "cannot show a window",
            got="no display",
            expected="a desktop session",
            do="use --save VIDEO instead of --show",
        )
    try:
        cv2.namedWindow(_WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error as error:
        raise UnavailableError(
            "cannot show a window",
            got="an OpenCV without windows (opencv-python-headless)",
            expected="opencv-python",
            do='use --save VIDEO, or install "edgeclf[cpu]" in a fresh environment',
        ) from error
