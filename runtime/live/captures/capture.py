"""The interface of a frame source: grab waits for a frame and stamps it, retrieve decodes it."""

from typing import Protocol

from edgeclf.runtime.arrays import UInt8Array


class CaptureEndedError(Exception):
    """The source gives no more frames.

    Args:
        reason: The cause, as a phrase.
        is_finished: Whether this is the regular end of the source (of a file), and not a loss.
    """

    def __init__(self, reason: str, *, is_finished: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_finished = is_finished


class Capture(Protocol):
    """An opened source of frames, used by one thread.

    A frame that nobody wants is skipped after `grab` and not decoded.

    Attributes:
        fps: Frames per second as the source reports them; 0 where it reports none.
    """

    fps: float

    @property
    def is_behind(self) -> bool:
        """Whether a newer frame than the grabbed one has arrived already."""

    @property
    def source_time_s(self) -> float | None:
        """Time stamp of the grabbed frame in an encoded stream, in seconds; None where a source has none of its own."""

    def grab(self) -> float:
        """Waits for the next frame; returns the monotonic time of its arrival in seconds, before it is decoded.

        Raises:
            CaptureEndedError: No frame follows.
        """

    def retrieve(self) -> UInt8Array | None:
        """The grabbed frame, (H, W, 3) uint8 BGR; None when it cannot be decoded."""

    def skip(self) -> bool:
        """Leaves the grabbed frame undecoded; returns whether its bytes look complete."""

    def close(self) -> None:
        """Releases the source."""


def colour_frame(image_bgr: UInt8Array | None) -> UInt8Array | None:
    """The frame if it has the shape (H, W, 3) and is not empty, otherwise None."""
    if image_bgr is None or image_bgr.size == 0 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3:
        return None
    return image_bgr
