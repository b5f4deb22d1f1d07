"""The camera side of `edgeclf infer`: a live line, a summary, and a clean end."""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from edgeclf.runtime.camera import Camera, CameraFrame
from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.live import LiveResult
from edgeclf.runtime.pipeline import Job, Outcome, classify_job
from edgeclf.toolkit.console import note, warn
from edgeclf.toolkit.infer_output import Delivery, check_targets, frame_view, make_writer, printable, record_output

if TYPE_CHECKING:
    from edgeclf.runtime.prediction import Prediction
    from edgeclf.runtime.preprocess import UInt8Array
    from edgeclf.runtime.session import ModelSession
    from edgeclf.toolkit.serve.feeds import PreviewFeeds

# A summary's percentiles look at the newest frames only: a camera may run for months.
_REMEMBERED_AGES = 10_000
_LINE_EVERY_S = 0.1


def infer_camera(
    session: "ModelSession",
    source: str,
    delivery: Delivery,
    reconnects: int,
    preview: "PreviewFeeds | None" = None,
) -> None:
    """Classifies a camera's newest frames until a limit, Ctrl-C, SIGTERM, or the loss of the camera.

    Args:
        session: The model.
        source: The camera.
        delivery: What the user wants to get.
        reconnects: How often a lost camera is opened anew.
        preview: Told about every result, and when the camera drops and delivers again.

    Raises:
        SourceError: The camera is not there, or went away for good; what was recorded until then is kept.
        OutputError: An output cannot be written.
    """
    check_targets({"--out": delivery.out, "--save": delivery.save}, [session.path])
    # In a terminal the live line shows the results of the table already.
    is_quiet = delivery.fills_terminal and delivery.output_format == "table"
    line = LiveLine(enabled=sys.stderr.isatty() and (is_quiet or not delivery.fills_terminal))
    lost: SourceError | None = None

    def say(phrase: str) -> None:
        line.warn(phrase)
        if preview is not None:
            preview.on_event({"event": "camera", "camera": camera.name, "message": phrase})

    with (
        # Before the outputs: a camera that is not there must not cost the records of the last time.
        Camera(source, reconnects=reconnects, on_event=say) as camera,
        record_output(delivery, grows=True) as emit,
        frame_view(delivery, lambda: camera.fps, real_time=True) as view,
    ):
        write = _ignore if is_quiet else make_writer(delivery, emit, len(camera.name) + len("#99999")).write
        try:
            _CameraRun(session, camera, write, view, line, preview).run(delivery.max_frames, delivery.duration_s)
        except SourceError as error:
            lost = error
    if lost is not None:
        raise lost


class LiveLine:
    """One line on stderr that changes in place, and warnings that do not run into it.

    Args:
        enabled: False shows nothing but the warnings.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._shown_at_s = 0.0

    def show(self, text: str) -> None:
        """Replaces the line; leaves it as it is when it was replaced a moment ago."""
        now = time.monotonic()
        if not self._enabled or now - self._shown_at_s < _LINE_EVERY_S:
            return
        self._shown_at_s = now
        from rich.cells import cell_len, set_cell_size

        # A line that wraps could not be replaced. Not the last column either: some terminals wrap there.
        columns = max(1, os.get_terminal_size(sys.stderr.fileno()).columns - 1)
        text = printable(text)
        text = set_cell_size(text, columns) if cell_len(text) > columns else text
        # Carriage return, and erase to the end of the line.
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()

    def warn(self, text: str) -> None:
        """Writes a warning above the line."""
        if self._shown_at_s:
            sys.stderr.write("\r\x1b[K")
        warn(text)

    def end(self) -> None:
        """Leaves the line as it is; what comes next begins below it."""
        if self._shown_at_s:
            sys.stderr.write("\n")
            self._shown_at_s = 0.0


@dataclass
class _CameraRun:
    """What to do with a camera, and what came of it.

    Attributes:
        session: The model.
        camera: The opened camera.
        on_outcome: Takes each frame's outcome.
        on_frame: Takes each frame, its prediction and the frame rate, to show or record it; False ends the run.
        line: Shows the newest result.
        preview: Told about every result; None for nobody.
    """

    session: "ModelSession"
    camera: Camera
    on_outcome: Callable[[Outcome], None]
    on_frame: Callable[["UInt8Array", "Prediction", float], bool]
    line: LiveLine
    preview: "PreviewFeeds | None" = None
    _times_s: deque[float] = field(default_factory=lambda: deque(maxlen=30))
    _ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_AGES))
    _done: int = 0

    def run(self, max_frames: int | None, duration_s: float | None) -> None:
        """Classifies newest frames until a limit, an interrupt or the loss of the camera; then says what happened."""
        started = time.monotonic()
        try:
            # Ctrl-C is how one ends a camera that has no end of its own.
            with contextlib.suppress(KeyboardInterrupt):
                for frame in self.camera.frames(duration_s):
                    if not self._classify(frame) or self._done == max_frames:
                        break
        finally:
            self.line.end()
            self._summarise(time.monotonic() - started)

    def _classify(self, frame: CameraFrame) -> bool:
        outcome = classify_job(self.session, Job(self.camera.name, partial(_image_of, frame), frame.number))
        age_ms = frame.age_ms
        self._done += 1
        self._times_s.append(time.monotonic())
        self._ages_ms.append(age_ms)
        self.on_outcome(outcome)
        prediction = outcome.prediction
        if self.preview is not None:
            label, confidence = (prediction.label, prediction.confidence) if prediction else (None, None)
            counts = self.camera.statistics
            name = self.camera.name
            self.preview.on_result(LiveResult(name, frame, outcome, label, confidence, age_ms, self.fps, counts))
        if prediction is None:
            return True
        self.line.show(f"{prediction.label} {prediction.confidence:.1%}  {self.fps:.1f} frames/s  {age_ms:.0f} ms old")
        return self.on_frame(frame.image_bgr, prediction, self.fps)

    @property
    def fps(self) -> float:
        """Frames per second over the last 30 frames."""
        if len(self._times_s) < 2:
            return 0.0
        return (len(self._times_s) - 1) / max(self._times_s[-1] - self._times_s[0], 1e-9)

    def _summarise(self, seconds: float) -> None:
        counts = self.camera.statistics
        text = (
            f"{self._done} frames in {seconds:.1f} s ({self._done / max(seconds, 1e-9):.1f} frames/s) "
            f"on {self.session.provider}, {counts.dropped} dropped, {counts.reconnects} reconnects"
        )
        if self._ages_ms:
            import numpy as np

            p50, p95 = np.percentile(np.array(self._ages_ms), (50, 95))
            text += f", frame age p50 {p50:.0f} ms, p95 {p95:.0f} ms"
        note(text)


def _ignore(_outcome: Outcome) -> None:
    pass


def _image_of(frame: CameraFrame) -> "UInt8Array":
    return frame.image_bgr
