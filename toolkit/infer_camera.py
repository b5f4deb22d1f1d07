"""The camera side of `edgeclf infer`: a live line, a summary, and a clean end."""

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from edgeclf.toolkit.console import note

if TYPE_CHECKING:
    from edgeclf.runtime.camera import Camera, CameraFrame
    from edgeclf.runtime.pipeline import Outcome
    from edgeclf.runtime.prediction import Prediction
    from edgeclf.runtime.preprocess import UInt8Array
    from edgeclf.runtime.session import ModelSession

# A summary's percentiles look at the newest frames only: a camera may run for months.
_REMEMBERED_AGES = 10_000


@dataclass
class CameraRun:
    """What to do with a camera, and what came of it.

    Attributes:
        session: The model.
        camera: The opened camera.
        on_outcome: Takes each frame's outcome.
        on_frame: Takes each frame, its prediction and the frame rate, to show or record it; False ends the run.
        max_frames: Frames after which to end, None for no limit.
        duration_s: Seconds after which to end, None for no limit.
    """

    session: "ModelSession"
    camera: "Camera"
    on_outcome: Callable[["Outcome"], None]
    on_frame: Callable[["UInt8Array", "Prediction", float], bool]
    max_frames: int | None
    duration_s: float | None
    _times_s: deque[float] = field(default_factory=lambda: deque(maxlen=30))
    _ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_AGES))

    def run(self) -> None:
        """Classifies newest frames until a limit, Ctrl-C, SIGTERM, or the loss of the camera; then says what happened."""
        started = time.monotonic()
        done = 0
        try:
            for frame in self.camera:
                if not self._classify(frame):
                    break
                done += 1
                if self.max_frames is not None and done >= self.max_frames:
                    break
                if self.duration_s is not None and time.monotonic() - started >= self.duration_s:
                    break
        except KeyboardInterrupt:
            # Ctrl-C is how one ends a camera that has no end of its own.
            pass
        finally:
            self._summarise(done, time.monotonic() - started)

    def _classify(self, frame: "CameraFrame") -> bool:
        from edgeclf.runtime.pipeline import Job, classify_job

        job = Job(str(self.camera.source), partial(_image_of, frame), frame.number)
        outcome = classify_job(self.session, job)
        self._times_s.append(time.monotonic())
        self._ages_ms.append(frame.age_ms)
        self.on_outcome(outcome)
        if outcome.prediction is None:
            return True
        self._show_line(outcome.prediction, frame.age_ms)
        return self.on_frame(frame.image_bgr, outcome.prediction, self.fps)

    @property
    def fps(self) -> float:
        """Frames per second over the last 30 frames."""
        if len(self._times_s) < 2:
            return 0.0
        return (len(self._times_s) - 1) / max(self._times_s[-1] - self._times_s[0], 1e-9)

    def _show_line(self, prediction: "Prediction", age_ms: float) -> None:
        if sys.stderr.isatty():
            text = f"{prediction.label} {prediction.confidence:.1%}  {self.fps:.1f} frames/s  {age_ms:.0f} ms old"
            # Carriage return and erase-to-end-of-line: one line that changes in place.
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()

    def _summarise(self, done: int, seconds: float) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        counts = self.camera.statistics
        text = (
            f"{done} frames in {seconds:.1f} s ({done / max(seconds, 1e-9):.1f} frames/s), "
            f"{counts.dropped} dropped, {counts.reconnects} reconnects"
        )
        if self._ages_ms:
            import numpy as np

            p50, p95 = np.percentile(np.array(self._ages_ms), (50, 95))
            text += f", frame age p50 {p50:.0f} ms, p95 {p95:.0f} ms"
        note(text)


def _image_of(frame: "CameraFrame") -> "UInt8Array":
    return frame.image_bgr
