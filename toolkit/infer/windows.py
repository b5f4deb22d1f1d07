"""Annotated frames in windows and video files."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime.errors import UnavailableError
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.video import usable_fps
from edgeclf.runtime.live.annotate import annotate
from edgeclf.runtime.live.recorder import VideoRecorder

if TYPE_CHECKING:
    from edgeclf.runtime import Prediction
    from edgeclf.runtime.arrays import UInt8Array

_WINDOW = "edgeclf (q closes)"
_ESCAPE = 27
# For a window that opens in less than one: a display over a network may not answer at all.
_TRIAL_S = 30


class FrameView:
    """Shows and records the annotated frames of video files, either, both or neither.

    Args:
        show: Whether to open a window.
        record_to: Path that is written, None for no recording.
        record_as: Path for messages: the one that the recording gets once it is complete.
        fps: Returns the frame rate of the source, 0 where it is not known; called with the first frame.

    Raises:
        UnavailableError: A window is asked for and there is no display, or this OpenCV has no windows.
        OutputError: There is no codec for the file.
    """

    def __init__(self, *, show: bool, record_to: Path | None, record_as: Path | None, fps: Callable[[], float]) -> None:
        if show:
            check_display()
        self._windows = Windows() if show else None
        self._fps = fps
        self._recorder = (
            VideoRecorder(record_to, record_as) if record_to is not None and record_as is not None else None
        )

    def add(self, frame_bgr: "UInt8Array", prediction: "Prediction") -> bool:
        """Shows and records a frame, (H, W, 3) uint8 BGR; False when the user closed the window."""
        if self._recorder is None and self._windows is None:
            return True
        drawn = annotate(frame_bgr, prediction)
        if self._recorder is not None:
            self._recorder.write(drawn, usable_fps(self._fps()))
        return self._windows is None or self._windows.show({"": drawn})

    def close(self, *, complete: bool) -> None:
        """Closes window and, when the recording is to be kept, the file.

        Raises:
            OutputError: The recording is empty or incomplete.
        """
        if self._windows is not None:
            self._windows.close()
        if self._recorder is not None and complete:
            self._recorder.close()


class Windows:
    """A window for each source. All calls come from the main thread, as window systems demand."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def show(self, images_bgr: "Mapping[str, UInt8Array]") -> bool:
        """Shows an image for each source, (H, W, 3) uint8 BGR; False when the user closed a window."""
        for source, image_bgr in images_bgr.items():
            name = f"{source} - {_WINDOW}" if source else _WINDOW
            cv2.imshow(name, image_bgr)
            self._names.add(name)
        key = cv2.waitKey(1) & 0xFF
        # OpenCV would open a closed window again for the next image.
        return key not in {ord("q"), _ESCAPE} and all(
            cv2.getWindowProperty(name, cv2.WND_PROP_VISIBLE) > 0 for name in self._names
        )

    def close(self) -> None:
        """Closes all windows."""
        cv2.destroyAllWindows()


def check_display() -> None:
    """Checks that a window can be opened here.

    Raises:
        UnavailableError: There is no display, or this OpenCV has no windows.
    """
    if "GUI:                           NONE" in cv2.getBuildInformation():
        raise UnavailableError(
            "cannot show a window",
            got="an OpenCV without windows (opencv-python-headless)",
            expected="opencv-python and a display",
            hint='use --save VIDEO, or install "edgeclf[cpu]" in a fresh environment',
        )
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        got = "no display"
    else:
        # In a process of its own: OpenCV ends its process where the display does not answer.
        trial = f"import cv2; cv2.namedWindow({_WINDOW!r}); cv2.destroyAllWindows()"
        command = [sys.executable, "-c", trial]
        try:
            if subprocess.run(command, capture_output=True, check=False, timeout=_TRIAL_S).returncode == 0:
                return
            opens = "opens no window"
        except subprocess.TimeoutExpired:
            opens = f"opened no window within {_TRIAL_S} s"
        got = f"a display ({os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')}) that {opens}"
    raise UnavailableError(
        "cannot show a window", got=got, expected="a desktop session", hint="use --save VIDEO instead of --show"
    )
