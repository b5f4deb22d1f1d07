"""A camera that freezes: it sends nothing any more, or the same picture again and again."""

import threading

from edgeclf.runtime.arrays import UInt8Array

# Two pictures that agree to the bit at every sixteenth pixel of every sixteenth row are one: a sensor has noise.
_STEP = 16


class FreezeDetector:
    """Says when a source freezes and when it moves again.

    Thread-safe: one thread shows it frames, another asks.

    Args:
        after_s: Seconds without a new picture that count as frozen.
        started_s: `time.monotonic()` at the beginning.

    Attributes:
        freezes: How often it froze.
    """

    def __init__(self, after_s: float, started_s: float) -> None:
        self._after_s = after_s
        self._moved_s = self._seen_s = started_s
        self._pixels = b""
        self._is_frozen = False
        self._lock = threading.Lock()
        self.freezes = 0

    def see(self, image_bgr: UInt8Array, captured_at_s: float) -> None:
        """Takes a frame, (H, W, 3) uint8 BGR, and `time.monotonic()` when it was captured."""
        pixels = image_bgr[::_STEP, ::_STEP].tobytes()
        with self._lock:
            self._seen_s = captured_at_s
            if pixels != self._pixels:
                self._pixels = pixels
                self._moved_s = captured_at_s

    def ask(self, now_s: float, last_frame_s: float) -> str | None:
        """What changed since the last question: why it is frozen, as a phrase; empty when it moves again; else None.

        Args:
            now_s: `time.monotonic()`.
            last_frame_s: The same when the last frame arrived, whether or not it was shown to `see`.
        """
        with self._lock:
            # Not up to now: where few frames are looked at, one picture for long says nothing.
            same_s, silent_s = self._seen_s - self._moved_s, now_s - last_frame_s
            if (max(same_s, silent_s) >= self._after_s) == self._is_frozen:
                return None
            self._is_frozen = not self._is_frozen
            if not self._is_frozen:
                return ""
            self.freezes += 1
            is_silent = silent_s >= self._after_s
            return f"no new frame for {silent_s:.1f} s" if is_silent else f"the same picture for {same_s:.1f} s"
