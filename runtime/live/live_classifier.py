"""The live loop: a camera's newest frames, classified, smoothed and watched, as an iterator that applications embed."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.batch.jobs import Job, Outcome, classify_job
from edgeclf.runtime.classifier import Classifier
from edgeclf.runtime.live.camera import Camera
from edgeclf.runtime.live.clock import MONOTONIC, Clock, Ticker
from edgeclf.runtime.live.events import Connected, Ended, Frozen, LabelChanged, LiveEvent, Recovered
from edgeclf.runtime.live.freeze import FreezeDetector
from edgeclf.runtime.live.grabber import CameraFrame
from edgeclf.runtime.live.model_reload import ModelReload, ModelWatcher
from edgeclf.runtime.live.results import CameraStatistics, LiveFigures, LiveResult
from edgeclf.runtime.live.smoothing import LabelState, Smoothing, smooth
from edgeclf.runtime.live.source import CameraSource

_FREEZE_CHECK_S = 0.1


class LiveClassifier:
    """A camera through a model: iterated for one result after the other, always of the newest frame.

    Opens model and camera at once and begins with the frame that is newest when the iteration does. One iteration; its
    end, however it comes about, closes the camera.

    Args:
        model: The `.onnx` file, or a `Classifier`, which any number of cameras may share.
        camera: As for `Camera`.
        smoothing: Conditions for a change of the label; None takes each frame's own label.
        freeze_after_s: Seconds without a new image that count as frozen; None for no detection. An image that is repeated
            while the time stamps of its stream go on is a still scene.
        watch_model: Whether a replaced model file is taken while the camera runs. Of several live classifiers that
            share a `Classifier`, one watches for all.
        timeout_s: As for `Camera`.
        reconnects: As for `Camera`.
        max_fps: As for `Camera`.
        every: As for `Camera`.
        loop: As for `Camera`.
        on_event: Called with each event. Most come from the iterating thread, `Frozen`, `Recovered` and those of the
            model from threads beside it, so that they come in time; it may call `close`. An exception from it ends the
            iteration; one in a thread beside it goes to `threading.excepthook`, and that thread goes on.
        clock: Source of time.

    Attributes:
        classifier: The model.
        figures: Frames classified, their rate and ages, since the iteration began.
        newest: The last result; None before there is one.

    Raises:
        ModelFileError: The model's file is missing or corrupt.
        SourceError: There is no such camera, or it delivers no frame in time.
        UsageError: The source names no camera, or a number is out of its range.

    Example:
        >>> for result in LiveClassifier("model.onnx", "rtsp://192.168.0.20/live", smoothing=Smoothing(1.0)):
        ...     print(result.label, result.confidence)
    """

    def __init__(
        self,
        model: Classifier | Path | str,
        camera: int | str | Path | CameraSource,
        *,
        smoothing: Smoothing | None = None,
        freeze_after_s: float | None = None,
        watch_model: bool = False,
        timeout_s: float = 4.0,
        reconnects: int = 5,
        max_fps: float | None = None,
        every: int = 1,
        loop: bool = False,
        on_event: Callable[[LiveEvent], None] | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        self.classifier = model if isinstance(model, Classifier) else Classifier(model)
        self.newest: LiveResult | None = None
        self._on_event = on_event or (lambda _event: None)
        self._clock = clock
        self._smoothing = smoothing or Smoothing()
        self._freeze_after_s = freeze_after_s
        self._freeze: FreezeDetector | None = None
        self._reload = ModelReload(self.classifier) if watch_model else None
        self._state: LabelState | None = None
        self._label: str | None = None
        self._labels: tuple[str, ...] = ()
        self._begun = threading.Lock()
        self._camera = Camera(
            camera,
            timeout_s=timeout_s,
            reconnects=reconnects,
            max_fps=max_fps,
            every=every,
            loop=loop,
            on_event=self._on_event,
            clock=clock,
        )
        self.figures = LiveFigures(clock)

    @property
    def camera(self) -> str:
        """The camera's name, see `CameraSource.name`."""
        return self._camera.name

    @property
    def camera_fps(self) -> float:
        """Frames per second as the camera reports them; 0 where it reports none."""
        return self._camera.fps

    @property
    def statistics(self) -> CameraStatistics:
        """Counts since the camera was opened."""
        return self._camera.statistics

    @property
    def freezes(self) -> int | None:
        """Times that the camera froze; None without freeze detection."""
        return None if self._freeze is None else self._freeze.freezes

    def __enter__(self) -> "LiveClassifier":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[LiveResult]:
        """Yields a result a frame, see `results`."""
        return self.results()

    def close(self, *, wait_s: float = 0.5) -> None:
        """Ends the iteration and closes the camera, from any thread; nothing is opened again.

        Args:
            wait_s: As for `Camera.close`.
        """
        self._camera.close(wait_s=wait_s)

    def results(self, duration_s: float | None = None) -> Generator[LiveResult, None, None]:
        """Yields a result a frame, until a video file ends, the camera is gone for good, or after `close`.

        Args:
            duration_s: Seconds after which to end, also while waiting for a frame; None for no limit.

        Raises:
            SourceError: The camera went away and could not be reopened.
        """
        if not self._begun.acquire(blocking=False):
            return
        self.figures = LiveFigures(self._clock)
        error: Exception | None = None
        try:
            with ExitStack() as stack:
                self._on_event(Connected(self.camera))
                self._watch(stack)
                for frame in self._camera.frames(duration_s):
                    yield self._classify(frame)
        except Exception as failure:
            error = failure
            raise
        finally:
            self.figures.end()
            self.close()
            self._on_event(Ended(self.camera, self.figures, self.statistics, self.freezes, error))

    def _watch(self, stack: ExitStack) -> None:
        """Starts the threads beside the iteration."""
        if self._freeze_after_s is not None:
            self._freeze = FreezeDetector(self.camera, self._freeze_after_s, self._clock.now_s())
            stack.enter_context(_FreezeWatcher(self._freeze, self._camera, self._on_event, self._clock))
        if self._reload is not None:
            stack.enter_context(ModelWatcher(self._reload, self._newest_bgr, self._on_event, self._clock))

    def _newest_bgr(self) -> UInt8Array | None:
        return None if self.newest is None else self.newest.frame.image_bgr

    def _classify(self, frame: CameraFrame) -> LiveResult:
        # One session for the frame: another may take its place at any time.
        session = self.classifier.session
        outcome = classify_job(session, Job.of_pixels(self.camera, frame.image_bgr, frame.number))
        age_ms = frame.age_ms
        self.figures.add(age_ms, is_error=outcome.error is not None)
        if self._freeze is not None:
            self._freeze.add(frame.image_bgr, frame.captured_at_s, frame.source_time_s)
        self._smooth(outcome, frame, session.spec.rejection_threshold)
        self.newest = LiveResult(
            self.camera,
            frame,
            outcome,
            self._label,
            None if self._state is None else self._state.confidence,
            age_ms,
            self.figures.fps,
            self.statistics,
            self._smoothing,
            rejected=self._state is not None and self._state.rejected,
        )
        return self.newest

    def _smooth(self, outcome: Outcome, frame: CameraFrame, threshold: float | None) -> None:
        """Brings the label up to date; a label that changes is an event."""
        prediction = outcome.prediction
        if prediction is None:
            return
        if prediction.labels != self._labels:
            # A reloaded model with other classes: their probabilities cannot be averaged with the old ones.
            self._labels, self._state = prediction.labels, None
        was_rejected = self._state is not None and self._state.rejected
        self._state = state = smooth(
            self._state, prediction.probabilities, frame.captured_at_s, self._smoothing, threshold
        )
        previous, self._label = self._label, state.label(self._labels)
        if self._label != previous or state.rejected != was_rejected:
            self._on_event(
                LabelChanged(
                    self.camera, self._label, previous, state.confidence, frame.number, frame.age_ms, state.rejected
                )
            )


class _FreezeWatcher(Ticker):
    """A thread that checks for freezes, which the iterating thread cannot while it waits for a frame."""

    def __init__(
        self,
        detector: FreezeDetector,
        camera: Camera,
        on_event: Callable[[Frozen | Recovered], None],
        clock: Clock,
    ) -> None:
        super().__init__("freeze", _FREEZE_CHECK_S, clock)
        self._detector = detector
        self._camera = camera
        self._on_event = on_event

    def tick(self) -> None:
        """See `Ticker`."""
        event = self._detector.check(self._clock.now_s(), self._camera.last_frame_s)
        if event is not None:
            self._on_event(event)
