"""What a live source gives for one frame, for those who watch it: a window, a recording, a web page, an event log."""

from dataclasses import dataclass

from edgeclf.runtime.batch.jobs import Outcome
from edgeclf.runtime.live.camera import CameraStatistics
from edgeclf.runtime.live.grabber import CameraFrame


@dataclass(frozen=True, eq=False)
class LiveResult:
    """One classified frame of a live source.

    Attributes:
        camera: Name of the source, passwords masked.
        frame: The frame, (H, W, 3) uint8 BGR, with its number and time of capture.
        outcome: What the model said about this frame alone, or why it said nothing.
        label: The source's label now, after smoothing over frames; None before there is one.
        confidence: How sure that is, 0..1, after the same smoothing; None without a label.
        age_ms: Age of the frame when its result was there.
        fps: Frames classified per second, over the last frames.
        statistics: Counts since the source was opened.
    """

    camera: str
    frame: CameraFrame
    outcome: Outcome
    label: str | None
    confidence: float | None
    age_ms: float
    fps: float
    statistics: CameraStatistics
