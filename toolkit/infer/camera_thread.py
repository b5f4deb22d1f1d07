"""One camera from its opening to its end, in a thread of its own."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from edgeclf.runtime.batch.jobs import Job, Outcome, classify_job
from edgeclf.runtime.errors import OutputError, SourceError
from edgeclf.runtime.live.annotate import annotate
from edgeclf.runtime.live.camera import Camera, CameraFrame, masked
from edgeclf.runtime.live.freeze import FreezeDetector
from edgeclf.runtime.live.results import LiveResult
from edgeclf.runtime.live.smoothing import LabelState, smooth
from edgeclf.toolkit.infer.figures import LiveFigures

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import UInt8Array
    from edgeclf.runtime.session.session import ModelSession
    from edgeclf.toolkit.infer.options import LiveOptions
    from edgeclf.toolkit.infer.recording import LiveRecording
    from edgeclf.toolkit.infer.records import Delivery

# Before each further attempt of a camera that was not there when others began; the last one again and again.
_OPEN_PAUSES_S = (1.0, 2.0, 4.0)


class HasSession(Protocol):
    """Holds the model to use now: a `WatchedModel`, or a `FixedModel`."""

    session: "ModelSession"


@dataclass
class FixedModel:
    """A model that stays."""

    session: "ModelSession"


class Events(Protocol):
    """Takes events, see `make_event`."""

    def __call__(self, kind: str, source: str, **details: Any) -> None:  # noqa: ANN401 - plain JSON values
        """Takes one event."""


@dataclass
class Sinks:
    """Where the results of all cameras go; each may be called from several threads at once.

    Attributes:
        record: Takes each outcome, and the label after smoothing where it is on.
        result: Takes each frame's result, for those who watch.
        event: Takes events.
        record_video: Makes the recording for a camera; None where nothing is recorded.
        show: Takes a camera's name and an annotated frame for its window; None where there are none.
        line: Takes a camera's name and its newest result in a few words.
        failed: Told at once of a failure that must end all cameras.
    """

    record: Callable[[Outcome, LabelState | None], None]
    result: Callable[[LiveResult], None]
    event: Events
    record_video: "Callable[[Camera], LiveRecording] | None"
    show: "Callable[[str, UInt8Array], None] | None"
    line: Callable[[str, str], None]
    failed: Callable[[], None]


class CameraRun:
    """A camera and what came of it.

    Args:
        source: What the user named.
        model: The model, shared with other cameras.
        delivery: Limits of the run.
        options: How the camera is read and watched.
        is_alone: Whether it is the only camera: it then need not be there later if it is not there now.
        on_event: Told, in a phrase, what happens to the camera.

    Attributes:
        name: The source's name, its password masked.
        camera: Once it is open.
        opening_error: Why it did not open at once.
        error: What ended the run too early.
        figures: What it came to.
        freeze: Finds out whether it is frozen; None where nobody asks, and before it is open.
        recording: What records it, None where nothing does.
        newest_bgr: The newest frame, None before there is one.
    """

    def __init__(
        self,
        source: str,
        model: HasSession,
        delivery: "Delivery",
        options: "LiveOptions",
        on_event: Callable[[str], None],
        *,
        is_alone: bool,
    ) -> None:
        self.source = source
        self.name = masked(source)
        self.camera: Camera | None = None
        self.opening_error: SourceError | None = None
        self.error: BaseException | None = None
        self.figures = LiveFigures()
        self.freeze: FreezeDetector | None = None
        self.recording: LiveRecording | None = None
        self.newest_bgr: UInt8Array | None = None
        self._model = model
        self._delivery = delivery
        self._options = options
        self._is_alone = is_alone
        self._on_event = on_event
        self._label_state: LabelState | None = None
        self._label: str | None = None
        self._labels: tuple[str, ...] = ()
        self._stopped = threading.Event()
        self._sinks: Sinks | None = None
        self._may_start = threading.Event()
        self.was_tried = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"edgeclf-run-{self.name}", daemon=True)
        self.thread.start()

    def start(self, sinks: Sinks) -> None:
        """Lets classification begin; opening the camera needs no leave."""
        self._sinks = sinks
        self._may_start.set()

    def stop(self) -> None:
        """Ends the run after the frame it is at, from any thread."""
        self._stopped.set()
        self._may_start.set()
        if self.camera is not None:
            self.camera.stop()

    def _run(self) -> None:
        try:
            self._open()
            self._may_start.wait()
            sinks = self._sinks
            if sinks is None:
                return
            if self.camera is None:
                self._open_later(sinks)
            if self.camera is not None and not self._stopped.is_set():
                self._classify_all(self.camera, sinks)
        except SourceError as error:
            self.error = error
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self.error = error
            if self._sinks is not None:
                self._sinks.failed()
        finally:
            self.was_tried.set()
            if self.camera is not None:
                self.camera.close()

    def _open(self) -> None:
        options = self._options
        try:
            self.camera = Camera(
                self.source,
                reconnects=options.reconnects,
                max_fps=options.max_fps,
                every=options.every,
                loop=options.loop,
                on_event=self._on_camera,
            )
        except SourceError as error:
            self.opening_error = error
        self.was_tried.set()

    def _open_later(self, sinks: Sinks) -> None:
        """Tries a camera that was not there at first as often as one that goes away later."""
        error = self.opening_error
        for attempt in range(0 if self._is_alone else self._options.reconnects):
            if self._stopped.wait(_OPEN_PAUSES_S[min(attempt, len(_OPEN_PAUSES_S) - 1)]):
                return
            self.opening_error = None
            self._open()
            if self.camera is not None:
                sinks.event("reconnected", self.name)
                self._on_event(f"camera {self.name}: delivers now")
                return
            error = self.opening_error or error
        if error is not None and not self._is_alone:
            raise SourceError(
                f"camera {self.name} was never there",
                got=f"{error.got}, and {self._options.reconnects} more attempts",
                expected=error.expected,
                do=error.do,
            ) from error

    def _on_camera(self, phrase: str) -> None:
        self._on_event(phrase)
        if self._sinks is not None:
            kind = "reconnected" if phrase.endswith("delivers again") else "disconnected"
            self._sinks.event(kind, self.name, reason=phrase.removeprefix(f"camera {self.name}: "))

    def _classify_all(self, camera: Camera, sinks: Sinks) -> None:
        self.figures = LiveFigures()
        if self._options.freeze_after_s is not None:
            self.freeze = FreezeDetector(self._options.freeze_after_s, time.monotonic())
        if sinks.record_video is not None:
            self.recording = sinks.record_video(camera)
        failure: BaseException | None = None
        try:
            for frame in camera.frames(self._delivery.duration_s):
                self._classify(frame, camera, sinks)
                if self.figures.done == self._delivery.max_frames or self._stopped.is_set():
                    break
        except BaseException as error:
            failure = error
            raise
        finally:
            self.figures.end()
            if self.recording is not None:
                try:
                    self.recording.close()
                except OutputError:
                    # Where the run failed before its first frame, that is what the user must hear of.
                    if failure is None:
                        raise

    def _classify(self, frame: CameraFrame, camera: Camera, sinks: Sinks) -> None:
        session = self._model.session
        image_bgr = self.newest_bgr = frame.image_bgr
        outcome = classify_job(session, Job.of_pixels(self.name, image_bgr, frame.number))
        age_ms = frame.age_ms
        self.figures.add(age_ms, is_error=outcome.error is not None)
        if self.freeze is not None:
            self.freeze.see(image_bgr, frame.captured_at_s)
        self._smooth(outcome, frame, session, sinks)
        state = self._label_state
        sinks.record(outcome, None if self._options.smoothing.is_off else state)
        fps = self.figures.fps
        confidence = None if state is None else state.confidence
        sinks.result(LiveResult(self.name, frame, outcome, self._label, confidence, age_ms, fps, camera.statistics))
        if self._label is None or confidence is None:
            return
        sinks.line(self.name, f"{self._label} {confidence:.1%}  {fps:.1f} frames/s  {age_ms:.0f} ms old")
        if outcome.prediction is not None and (self.recording is not None or sinks.show is not None):
            shown = replace(outcome.prediction, label=self._label, confidence=confidence)
            drawn_bgr = annotate(image_bgr, shown, f"{fps:.1f} fps" if fps else "")
            if self.recording is not None:
                self.recording.add(drawn_bgr)
            if sinks.show is not None:
                sinks.show(self.name, drawn_bgr)

    def _smooth(self, outcome: Outcome, frame: CameraFrame, session: "ModelSession", sinks: Sinks) -> None:
        """Brings the label up to date, and says so when it changes."""
        prediction = outcome.prediction
        if prediction is None:
            return
        if prediction.labels != self._labels:
            # A model that was exchanged for one with other classes.
            self._labels, self._label_state = prediction.labels, None
        self._label_state = state = smooth(
            self._label_state,
            prediction.probabilities,
            frame.captured_at_s,
            self._options.smoothing,
            session.spec.rejection_threshold,
        )
        label, before = state.label(self._labels), self._label
        self._label = label
        if label != before:
            sinks.event(
                "label",
                self.name,
                label=label,
                previous=before,
                confidence=round(state.confidence, 6),
                frame=frame.number,
                age_ms=round(frame.age_ms, 1),
            )
