"""Results of a live camera: one per frame, counts of the camera, and figures of the run."""

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from edgeclf.runtime.batch.jobs import Outcome
from edgeclf.runtime.live.clock import MONOTONIC, Clock
from edgeclf.runtime.live.grabber import CameraFrame
from edgeclf.runtime.live.smoothing import Smoothing

# Percentiles are those of the newest frames: a camera may run for months.
_REMEMBERED_AGES = 10_000
_FPS_FRAMES = 30


@dataclass(frozen=True)
class CameraStatistics:
    """Counts since the camera was opened.

    Attributes:
        captured: Frames that arrived whole.
        taken: Frames that were handed out.
        reconnects: Times that the source went away and delivered again after it was reopened.
        skipped: Frames that were not wanted, because of `max_fps` or `every`.
        unreadable: Damaged frames.
        size_changes: Times that the image had another size than before.
    """

    captured: int
    taken: int
    reconnects: int
    skipped: int = 0
    unreadable: int = 0
    size_changes: int = 0

    @property
    def dropped(self) -> int:
        """Frames that a newer one replaced before they were taken."""
        return self.captured - self.taken - self.skipped


@dataclass(frozen=True, eq=False)
class LiveResult:
    """One classified frame of a live camera.

    Attributes:
        camera: Name of the camera, see `CameraSource.name`.
        frame: The frame, (H, W, 3) uint8 BGR, with its number and time of arrival.
        outcome: The model's prediction for this frame alone, or the error in its place.
        label: The camera's label now, smoothed over frames; None before there is one.
        confidence: Probability of the label, 0..1, smoothed as well; None without a label.
        age_ms: Age of the frame, in milliseconds, when its result was there.
        fps: Frames classified per second, over the last 30 frames.
        statistics: Counts since the camera was opened.
        smoothing: Conditions for a change of the label; off where label and confidence are those of this frame alone.
        rejected: Whether the label is `unknown` because the confidence is below the model's threshold.
    """

    camera: str
    frame: CameraFrame
    outcome: Outcome
    label: str | None
    confidence: float | None
    age_ms: float
    fps: float
    statistics: CameraStatistics
    smoothing: Smoothing = field(default_factory=Smoothing)
    rejected: bool = False


class LiveFigures:
    """Figures of one camera's run: counts, frame rate and ages. Written by one thread, read by any.

    Args:
        clock: Source of time.

    Attributes:
        done: Frames classified.
        errors: Those of them without a prediction.
    """

    def __init__(self, clock: Clock = MONOTONIC) -> None:
        self.done = self.errors = 0
        self._clock = clock
        self._started_s = clock.now_s()
        self._seconds: float | None = None
        self._times_s: deque[float] = deque(maxlen=_FPS_FRAMES)
        self._ages_ms: deque[float] = deque(maxlen=_REMEMBERED_AGES)
        self._lock = threading.Lock()

    def add(self, age_ms: float, *, is_error: bool) -> None:
        """Counts a frame of that age, in milliseconds, when its result was there."""
        with self._lock:
            self.done += 1
            self.errors += is_error
            self._times_s.append(self._clock.now_s())
            self._ages_ms.append(age_ms)

    def end(self) -> None:
        """Stops the clock."""
        self._seconds = self.seconds

    @property
    def seconds(self) -> float:
        """Duration of the run, so far or until its end."""
        return self._clock.now_s() - self._started_s if self._seconds is None else self._seconds

    @property
    def fps(self) -> float:
        """Frames classified per second over the last 30 frames; 0 before there are two."""
        with self._lock:
            if len(self._times_s) < 2:
                return 0.0
            return (len(self._times_s) - 1) / max(self._times_s[-1] - self._times_s[0], 1e-9)

    def age_percentiles_ms(self) -> tuple[float, float] | None:
        """p50 and p95 of the age over the last 10,000 frames, in milliseconds; None before there is a frame."""
        with self._lock:
            ages_ms = np.array(self._ages_ms)
        if not ages_ms.size:
            return None
        p50, p95 = np.percentile(ages_ms, (50, 95))
        return float(p50), float(p95)
