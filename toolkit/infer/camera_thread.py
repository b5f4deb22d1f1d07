"""One camera of `edgeclf infer`, from its opening to its end, in a thread of its own."""

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeclf.runtime import Connected, Ended, LiveClassifier, LiveEvent
from edgeclf.runtime.errors import OutputError, SourceError
from edgeclf.runtime.live.annotate import annotate

if TYPE_CHECKING:
    from edgeclf.runtime import Classifier, LiveResult
    from edgeclf.runtime.arrays import UInt8Array
    from edgeclf.runtime.live.source import CameraSource
    from edgeclf.toolkit.infer.options import LiveOptions
    from edgeclf.toolkit.infer.recording import LiveRecording
    from edgeclf.toolkit.infer.records import SinkOptions

# Before each further attempt of a camera that was not there when others began; the last one before all later attempts.
_OPEN_PAUSES_S = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class CameraSinks:
    """Receivers of a camera's results, events and frames; each is called from the threads of all cameras at once.

    Attributes:
        result: Receives every result.
        event: Receives every event.
        open_recording: Opens the recording, once the camera is there; None where nothing is recorded.
        show: Receives an annotated frame, (H, W, 3) uint8 BGR, for a window; None where there are no windows.
        failed: Called at once on a failure that must end all cameras.
    """

    result: "Callable[[LiveResult], None]"
    event: Callable[[LiveEvent], None]
    open_recording: "Callable[[LiveClassifier], LiveRecording] | None"
    show: "Callable[[UInt8Array], None] | None"
    failed: Callable[[], None]


class CameraThread:
    """A camera's thread, and the result of its run.

    Args:
        source: The camera.
        classifier: The model, shared with other cameras.
        limits: Limits of the run.
        options: Options of reading and watching the camera.
        is_only_camera: Whether no other camera runs; then a camera that does not open is not tried again.

    Attributes:
        name: Name of the camera, see `CameraSource.name`.
        live: The live classifier, once the camera is open.
        was_tried: Set once the camera is open, or did not open.
        opening_error: The error of the last attempt to open the camera that failed; None where none did.
        error: The exception that ended the run too early.
        ended: The last event; None where the run did not begin, or did not end.
        recording: The recording, None where nothing is recorded.
    """

    def __init__(
        self,
        source: "CameraSource",
        classifier: "Classifier",
        limits: "SinkOptions",
        options: "LiveOptions",
        *,
        is_only_camera: bool,
    ) -> None:
        self.name = source.name
        self.live: LiveClassifier | None = None
        self.opening_error: SourceError | None = None
        self.error: BaseException | None = None
        self.ended: Ended | None = None
        self.recording: LiveRecording | None = None
        self._source = source
        self._classifier = classifier
        self._limits = limits
        self._options = options
        self._is_only_camera = is_only_camera
        self._is_late = False
        self._stopped = threading.Event()
        self._sinks: CameraSinks | None = None
        self._may_start = threading.Event()
        self.was_tried = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"edgeclf-run-{self.name}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def start(self, sinks: CameraSinks) -> None:
        """Lets classification begin; the camera is opened without it."""
        self._sinks = sinks
        self._may_start.set()

    def stop(self) -> None:
        """Ends the run after its present frame, from any thread."""
        self._stopped.set()
        self._may_start.set()
        if self.live is not None:
            # Without waiting: of several cameras that hang, each waits for itself, in its own thread.
            self.live.close(wait_s=0.0)

    def join(self, timeout_s: float) -> None:
        """Waits for the end of the thread."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._open()
            self._may_start.wait()
            sinks = self._sinks
            if sinks is None:
                return
            if self.live is None:
                self._open_later()
            if self.live is not None and not self._stopped.is_set():
                self._classify_all(self.live, sinks)
        except SourceError as error:
            self.error = error
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self.error = error
            if self._sinks is not None:
                self._sinks.failed()
        finally:
            self.was_tried.set()
            if self.live is not None:
                self.live.close()

    def _open(self) -> None:
        options = self._options
        try:
            self.live = LiveClassifier(
                self._classifier,
                self._source,
                smoothing=options.smoothing,
                freeze_after_s=options.freeze_after_s,
                reconnects=options.reconnects,
                max_fps=options.max_fps,
                every=options.every,
                loop=options.loop,
                on_event=self._on_event,
            )
        except SourceError as error:
            self.opening_error = error
        self.was_tried.set()

    def _open_later(self) -> None:
        """Tries a camera that was not there at first as often as one that goes away later."""
        for attempt in range(0 if self._is_only_camera else self._options.reconnects):
            if self._stopped.wait(_OPEN_PAUSES_S[min(attempt, len(_OPEN_PAUSES_S) - 1)]):
                return
            self._open()
            if self.live is not None:
                self._is_late = True
                return
        error = self.opening_error
        if error is not None and not self._is_only_camera:
            raise SourceError(
                f"camera {self.name} was never there",
                got=f"{error.got}, and {self._options.reconnects} more attempts",
                expected=error.expected,
                hint=error.hint,
            ) from error

    def _on_event(self, event: LiveEvent) -> None:
        if isinstance(event, Ended):
            # Reported with the summary, when the recording is complete as well.
            self.ended = event
        elif self._sinks is not None and (self._is_late or not isinstance(event, Connected)):
            self._sinks.event(event)

    def _classify_all(self, live: LiveClassifier, sinks: CameraSinks) -> None:
        if sinks.open_recording is not None:
            self.recording = sinks.open_recording(live)
        failure: BaseException | None = None
        try:
            with closing(live.results(self._limits.duration_s)) as results:
                for result in results:
                    sinks.result(result)
                    self._draw(result, sinks)
                    if live.figures.done == self._limits.max_frames or self._stopped.is_set():
                        break
        except BaseException as error:
            failure = error
            raise
        finally:
            if self.recording is not None:
                try:
                    self.recording.close()
                except OutputError:
                    # Where the run failed before its first frame, that failure is the one to report.
                    if failure is None:
                        raise

    def _draw(self, result: "LiveResult", sinks: CameraSinks) -> None:
        prediction = result.outcome.prediction
        if prediction is None or result.label is None or result.confidence is None:
            return
        if self.recording is None and sinks.show is None:
            return
        shown = replace(prediction, label=result.label, confidence=result.confidence, rejected=result.rejected)
        notes = []
        if not result.smoothing.is_off:
            notes.append(f"smoothed (this frame: {prediction.label} {prediction.confidence:.0%})")
        if result.fps:
            notes.append(f"{result.fps:.1f} fps")
        drawn_bgr = annotate(result.frame.image_bgr, shown, "  ".join(notes))
        if self.recording is not None:
            self.recording.add(drawn_bgr)
        if sinks.show is not None:
            sinks.show(drawn_bgr)
