"""The camera side of `edgeclf infer`: any number of cameras on one model, watched, and ended cleanly."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.runtime.errors import EdgeclfError, SourceError, UsageError
from edgeclf.runtime.live.camera import Camera, parse_camera
from edgeclf.runtime.prediction import LabelConfidence
from edgeclf.toolkit.events.event_log import BackgroundDelivery, EventFile, make_event
from edgeclf.toolkit.infer.camera_thread import CameraRun, FixedModel, Sinks
from edgeclf.toolkit.infer.observers import CameraWatch, ModelWatch
from edgeclf.toolkit.infer.recording import LiveRecording
from edgeclf.toolkit.infer.records import Delivery, RecordWriter, check_targets, make_writer, record_output
from edgeclf.toolkit.infer.status_line import LiveLine

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import UInt8Array
    from edgeclf.runtime.batch.jobs import Outcome
    from edgeclf.runtime.live.results import LiveResult
    from edgeclf.runtime.live.smoothing import LabelState
    from edgeclf.runtime.session.session import ModelSession
    from edgeclf.toolkit.events.observer import Observer
    from edgeclf.toolkit.infer.options import LiveOptions

# How long the frame at hand, or a camera that is just being opened, may take in the end.
_ENDING_S = 5.0
_WINDOW_EVERY_S = 0.01


def infer_camera(
    session: "ModelSession",
    load: "Callable[[], ModelSession]",
    sources: Sequence[str],
    delivery: Delivery,
    options: "LiveOptions",
    observers: "Sequence[Observer]" = (),
) -> None:
    """Classifies cameras' newest frames until a limit, Ctrl-C, SIGTERM, or the loss of the last camera.

    Args:
        session: The model.
        load: Opens the model's file again when it was replaced.
        sources: What names the cameras.
        delivery: Where records and frames go; its limits hold for each camera.
        options: How cameras are read and watched.
        observers: Those who are told of results and events, besides the receivers that `options` names.

    Raises:
        SourceError: A camera is not there, or went away for good; what was recorded until then is kept.
        OutputError: An output cannot be written.
    """
    if len(set(sources)) < len(sources):
        raise UsageError("a camera is named twice", got=", ".join(sources), expected="different ones")
    for source in sources:
        parse_camera(source)
    recordings = recording_paths(delivery.save, len(sources))
    outputs = {"--out": delivery.out, "--events": None if options.has_events_on_stdout else options.events}
    check_targets(
        outputs | {f"--save {n}": path for n, path in enumerate(recordings)},
        [session.path, *(path for path in map(parse_camera, sources) if isinstance(path, Path))],
    )
    if delivery.show:
        from edgeclf.toolkit.infer.windows import check_display

        check_display()
    # In a terminal the live line shows the results of the table already.
    is_quiet = delivery.fills_terminal and delivery.output_format == "table"
    line = LiveLine(enabled=sys.stderr.isatty() and (is_quiet or not delivery.fills_terminal))
    with _receivers(options, line) as receivers:
        _Live(load, session, sources, delivery, options, (*observers, *receivers), line).run(recordings)


def recording_paths(save: Path | None, count: int) -> list[Path]:
    """The video file of each camera: the one that was named, or with several cameras a numbered one each."""
    if save is None:
        return []
    return [save] if count == 1 else [save.with_name(f"{save.stem}-{n}{save.suffix}") for n in range(1, count + 1)]


@contextlib.contextmanager
def _receivers(options: "LiveOptions", line: LiveLine) -> Iterator["list[EventFile | BackgroundDelivery]"]:
    """Yields what the options name; says in the end what became of the events."""
    receivers: list[EventFile | BackgroundDelivery] = []
    try:
        if options.webhook is not None or options.on_event is not None:
            from edgeclf.toolkit.events.receivers import command, webhook

            if options.webhook is not None:
                receivers.append(webhook(options.webhook, line.warn))
            if options.on_event is not None:
                receivers.append(command(options.on_event, line.warn))
        if options.events is not None:
            receivers.append(EventFile(None if options.has_events_on_stdout else options.events, line.warn))
        yield receivers
    finally:
        for receiver in receivers:
            receiver.close()
            if receiver.summary:
                line.note(receiver.summary)


class _Live:
    """All cameras of a run, from the opening of the first to the summary of the last."""

    def __init__(
        self,
        load: "Callable[[], ModelSession]",
        session: "ModelSession",
        sources: Sequence[str],
        delivery: Delivery,
        options: "LiveOptions",
        observers: "Sequence[Observer]",
        line: LiveLine,
    ) -> None:
        self._delivery = delivery
        self._options = options
        self._observers = observers
        self._line = line
        self._ended = threading.Event()
        self._pictures: dict[str, UInt8Array] = {}
        self._record_lock = threading.Lock()
        self._writer: RecordWriter | None = None
        if options.watch:
            from edgeclf.runtime.live.model_reload import WatchedModel

            self._watched: WatchedModel | None = WatchedModel(session, load)
        else:
            self._watched = None
        self._model = self._watched or FixedModel(session)
        is_alone = len(sources) == 1
        self._runs = [
            CameraRun(source, self._model, delivery, options, line.warn, is_alone=is_alone) for source in sources
        ]

    def run(self, recordings: Sequence[Path]) -> None:
        """Runs until the end; raises what ended it too early."""
        try:
            # Before the outputs: a camera that is not there must not cost the records of the last time.
            self._wait_for_cameras()
            with contextlib.ExitStack() as stack:
                self._open_outputs(stack)
                for number, run in enumerate(self._runs):
                    run.start(self._sinks(run, recordings[number] if recordings else None))
                self._watch(stack)
                # Ctrl-C is how one ends a camera that has no end of its own.
                with contextlib.suppress(KeyboardInterrupt):
                    self._wait()
                self._stop()
        finally:
            self._stop()
            self._line.end()
        self._summarise()
        self._raise_errors()

    def _wait_for_cameras(self) -> None:
        for run in self._runs:
            while not run.was_tried.wait(0.5):
                pass
            if run.error is not None:
                raise run.error
        errors = [run.opening_error for run in self._runs if run.opening_error is not None]
        if len(errors) == len(self._runs):
            raise errors[0]
        for error in errors:
            self._line.warn(str(error))

    def _open_outputs(self, stack: contextlib.ExitStack) -> None:
        delivery = self._delivery
        is_quiet = delivery.fills_terminal and delivery.output_format == "table"
        if is_quiet or (self._options.has_events_on_stdout and delivery.out is None):
            return
        emit = stack.enter_context(record_output(delivery, grows=True))
        widest = max(len(run.name) for run in self._runs) + len("#99999")
        self._writer = make_writer(delivery, emit, widest, has_smoothed=not self._options.smoothing.is_off)

    def _sinks(self, run: CameraRun, recording: Path | None) -> Sinks:
        def record_video(path: Path, camera: Camera) -> LiveRecording:
            def trouble(phrase: str) -> None:
                self._event("recording_stopped", run.name, reason=phrase)
                self._line.warn(phrase)

            return LiveRecording(path, lambda: camera.fps, trouble)

        return Sinks(
            record=self._record,
            result=self._result,
            event=self._event,
            record_video=None if recording is None else partial(record_video, recording),
            show=self._pictures.__setitem__ if self._delivery.show else None,
            line=self._show_line,
            failed=self._ended.set,
        )

    def _record(self, outcome: "Outcome", state: "LabelState | None") -> None:
        if self._writer is None:
            return
        smoothed = None
        if state is not None and outcome.prediction is not None:
            smoothed = LabelConfidence(state.label(outcome.prediction.labels), state.confidence)
        with self._record_lock:
            self._writer.write(outcome, smoothed)

    def _result(self, result: "LiveResult") -> None:
        for observer in self._observers:
            observer.on_result(result)

    def _event(self, kind: str, source: str, **details: Any) -> None:  # noqa: ANN401 - plain JSON values
        event = make_event(kind, source, **details)
        for observer in self._observers:
            observer.on_event(event)

    def _show_line(self, source: str, text: str) -> None:
        self._line.show(source, text if len(self._runs) == 1 else f"{source}: {text}")

    def _watch(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(CameraWatch(self._runs, self._event, self._line, self._options.log_every_s))
        if self._watched is not None:
            stack.enter_context(ModelWatch(self._watched, self._runs, self._event, self._line))

    def _wait(self) -> None:
        """Until every camera has ended, or one failed in a way that ends all; shows windows meanwhile."""
        windows = None
        if self._delivery.show:
            from edgeclf.toolkit.infer.windows import Windows

            windows = Windows()
        ended: set[str] = set()
        try:
            while len(ended) < len(self._runs) and not self._ended.wait(_WINDOW_EVERY_S if windows else 0.1):
                for run in self._runs:
                    if not run.thread.is_alive() and run.name not in ended:
                        ended.add(run.name)
                        self._tell_end(run)
                pictures = {name: self._pictures.pop(name) for name in list(self._pictures)}
                if windows is not None and not windows.show(pictures):
                    return
        finally:
            if windows is not None:
                windows.close()

    def _tell_end(self, run: CameraRun) -> None:
        if isinstance(run.error, SourceError) and len(self._runs) > 1:
            self._line.warn(str(run.error))

    def _stop(self) -> None:
        for run in self._runs:
            run.stop()
        deadline_s = time.monotonic() + _ENDING_S
        for run in self._runs:
            run.thread.join(max(0.0, deadline_s - time.monotonic()))

    def _summarise(self) -> None:
        provider = self._model.session.provider
        for run in self._runs:
            statistics = None if run.camera is None else run.camera.statistics
            details = {} if statistics is None else run.figures.to_json(statistics)
            if run.error is not None:
                details["error"] = str(run.error)
            text = "never there" if statistics is None else run.figures.summary(provider, statistics)
            if run.freeze is not None:
                details["freezes"] = run.freeze.freezes
                text += f", {run.freeze.freezes} freezes"
            if run.recording is not None and run.recording.trouble is not None:
                details["frames_not_recorded"] = run.recording.lost
                text += f", {run.recording.lost} frames not recorded ({run.recording.trouble})"
            self._event("ended", run.name, **details)
            self._line.note(text if len(self._runs) == 1 else f"camera {run.name}: {text}")
        if self._watched is not None and (self._watched.reloads or self._watched.rejections):
            self._line.note(
                f"model replaced: {self._watched.reloads} times reloaded, {self._watched.rejections} times kept"
            )

    def _raise_errors(self) -> None:
        errors = [run.error for run in self._runs if run.error is not None]
        # A bug before what users can mend; among these, one that ended all cameras before a camera's own.
        for error in sorted(
            errors, key=lambda error: (isinstance(error, EdgeclfError), isinstance(error, SourceError))
        ):
            if len(self._runs) > 1 and isinstance(error, SourceError):
                raise SourceError(
                    f"{len(errors)} of {len(self._runs)} cameras were lost",
                    do="see the warnings above for each of them",
                ) from error
            raise error
