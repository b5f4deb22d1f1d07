"""Freeze detection: a camera that sends no more frames, or repeats one image.

A still scene is no freeze. The noise of a sensor tells the two apart where images are compressed one by one. H.264 and its like
repeat blocks that did not change, and of a denoised scene whole images: there the time stamps of the stream do, which go on.
"""

import threading

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.live.events import Frozen, Recovered

# Images are compared at every sixteenth pixel of every sixteenth row: the noise of a sensor changes some of them.
_STEP = 16


class FreezeDetector:
    """Detector of the two kinds of freeze of one camera, a pure function of the times it is given.

    Thread-safe: one thread adds frames, another checks.

    Args:
        camera: Name of the camera, for the events.
        after_s: Seconds without a new image that count as frozen.
        started_s: Monotonic time of the beginning, in seconds.

    Attributes:
        freezes: Number of freezes so far.
    """

    def __init__(self, camera: str, after_s: float, started_s: float) -> None:
        self._camera = camera
        self._after_s = after_s
        self._changed_s = self._added_s = started_s
        self._pixels = b""
        self._source_time_s: float | None = None
        self._is_frozen = False
        self._lock = threading.Lock()
        self.freezes = 0

    def add(self, image_bgr: UInt8Array, captured_at_s: float, source_time_s: float | None = None) -> None:
        """Takes a frame.

        Args:
            image_bgr: (H, W, 3) uint8 BGR.
            captured_at_s: Monotonic time of its arrival, in seconds.
            source_time_s: Its time stamp in an encoded stream, in seconds; None where the source has none.
        """
        pixels = image_bgr[::_STEP, ::_STEP].tobytes()
        with self._lock:
            self._added_s = captured_at_s
            has_gone_on = source_time_s is not None and source_time_s != self._source_time_s
            self._source_time_s = source_time_s
            if pixels != self._pixels or has_gone_on:
                self._pixels = pixels
                self._changed_s = captured_at_s

    def check(self, now_s: float, last_frame_s: float) -> Frozen | Recovered | None:
        """The change since the last check; None where there is none.

        Args:
            now_s: Monotonic time, in seconds.
            last_frame_s: The time at which the last frame arrived, whether or not it was added.
        """
        with self._lock:
            # Until the last added frame and not until now: where few frames are added, no change means nothing.
            still_s, silent_s = self._added_s - self._changed_s, now_s - last_frame_s
            if (max(still_s, silent_s) >= self._after_s) == self._is_frozen:
                return None
            self._is_frozen = not self._is_frozen
            if not self._is_frozen:
                return Recovered(self._camera)
            self.freezes += 1
            if silent_s >= self._after_s:
                return Frozen(self._camera, "silent", silent_s)
            return Frozen(self._camera, "still", still_s)
