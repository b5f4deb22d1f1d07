"""The cameras of `edgeclf infer`: any number on one model, with records, events, recordings and windows."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime import EdgeclfError, Ended, LabelChanged, LiveEvent, ModelReloaded
from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.live.model_reload import ModelReload, ModelWatcher
from edgeclf.toolkit.events.appended_file import keep_earlier
from edgeclf.toolkit.events.event_record import event_record, event_sentence, make_record
from edgeclf.toolkit.events.file_sink import FileSink
from edgeclf.toolkit.infer.camera_thread import CameraSinks, CameraThread
from edgeclf.toolkit.infer.figures import summary_text
from edgeclf.toolkit.infer.log_lines import LogLines
from edgeclf.toolkit.infer.recording import LiveRecording
from edgeclf.toolkit.infer.records import (
    RecordWriter,
    SinkOptions,
    SmoothedLabel,
    appended_output,
    check_targets,
    make_writer,
)
from edgeclf.toolkit.infer.service_manager import ServiceManager
from edgeclf.toolkit.infer.status_line import StatusLine

if TYPE_CHECKING:
    from typing import Any

    from edgeclf.runtime import Classifier, LiveClassifier, LiveResult
    from edgeclf.runtime.arrays import UInt8Array
    from edgeclf.runtime.live.source import CameraSource
    from edgeclf.toolkit.events.appended_file import CountedLines
    from edgeclf.toolkit.events.background_sink import BackgroundSink
    from edgeclf.toolkit.events.sink import Sink
    from edgeclf.toolkit.infer.options import LiveOptions

# Longest wait at the end for the frames being classified, and for cameras being opened.
_ENDING_S = 5.0
_WINDOW_EVERY_S = 0.01


def infer_cameras(
    classifier: "Classifier",
    sources: "Sequence[CameraSource]",
    targets: SinkOptions,
    options: "LiveOptions",
    sinks: "Sequence[Sink]" = (),
) -> None:
    """Classifies cameras' newest frames until a limit, Ctrl-C, SIGTERM, or the loss of the last camera.

    Args:
        classifier: The model.
        sources: The cameras, see `parse_cameras`.
        targets: Targets of records and frames; the limits hold for each camera.
        options: Options of reading and watching the cameras.
        sinks: Further receivers of results and events, besides those that `options` names.

    Raises:
        SourceError: A camera is not there, or went away for good; what was recorded until then is kept.
        OutputError: An output cannot be written.
    """
    recordings = recording_paths(targets.save, len(sources))
    outputs = {"--out": targets.out, "--events": None if options.has_events_on_stdout else options.events}
    check_targets(
        outputs | {f"--save {n}": path for n, path in enumerate(recordings)},
        [classifier.session.path, *(source.opened for source in sources if isinstance(source.opened, Path))],
    )
    if targets.show:
        from edgeclf.toolkit.infer.windows import check_display

        check_display()
    line = StatusLine(enabled=sys.stderr.isatty() and (targets.fits_status_line or not targets.fills_terminal))
    with _event_sinks(options, line) as event_sinks:
        _Run(classifier, sources, targets, options, (*sinks, *event_sinks), line).run(recordings)


@contextlib.contextmanager
def _hangups() -> Iterator[None]:
    """Lets SIGHUP end a run in a terminal, which is gone then, as Ctrl-C does.

    A service goes on: whoever rotates its logs sends the signal, and files are opened again by themselves, see `AppendedFile`.
    """
    number = getattr(signal, "SIGHUP", None)
    # Not where it is ignored, as by `nohup`.
    if (
        number is None
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(number) is not signal.SIG_DFL
    ):
        yield
        return
    has_terminal = any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))

    def hang_up(*_: object) -> None:
        if has_terminal:
            raise KeyboardInterrupt

    signal.signal(number, hang_up)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)


def recording_paths(save: Path | None, count: int) -> list[Path]:
    """The video file of each camera: the one that was named, or with several cameras a numbered one each."""
    if save is None:
        return []
    return [save] if count == 1 else [save.with_name(f"{save.stem}-{n}{save.suffix}") for n in range(1, count + 1)]


@contextlib.contextmanager
def _event_sinks(options: "LiveOptions", line: StatusLine) -> Iterator["list[FileSink | BackgroundSink]"]:
    """Yields the sinks that the options name; reports in the end how many events were lost."""
    sinks: list[FileSink | BackgroundSink] = []
    try:
        if options.webhook is not None:
            from edgeclf.toolkit.events.webhook import webhook_sink

            sinks.append(webhook_sink(options.webhook, line.warn))
        if options.on_event is not None:
            from edgeclf.toolkit.events.command import command_sink

            sinks.append(command_sink(options.on_event, line.warn))
        if options.events is not None:
            sinks.append(FileSink(None if options.has_events_on_stdout else options.events, line.warn))
        yield sinks
    finally:
        for sink in sinks:
            sink.close()
            if sink.summary:
                line.note(sink.summary)


class _Run:
    """All cameras of a run, from the opening of the first to the summary of the last."""

    def __init__(
        self,
        classifier: "Classifier",
        sources: "Sequence[CameraSource]",
        targets: SinkOptions,
        options: "LiveOptions",
        sinks: "Sequence[Sink]",
        line: StatusLine,
    ) -> None:
        self._classifier = classifier
        self._targets = targets
        self._options = options
        self._sinks = sinks
        self._line = line
        self._failed = threading.Event()
        self._drawn_bgr: dict[str, UInt8Array] = {}
        self._record_lock = threading.Lock()
        self._writer: RecordWriter | None = None
        self._summarised: set[CameraThread] = set()
        self._lines: CountedLines | None = None
        self._reload = ModelReload(classifier) if options.watch else None
        self._service = ServiceManager(os.environ)
        self._sources = sources
        self._cameras: list[CameraThread] = []

    def run(self, recordings: Sequence[Path]) -> None:
        """Runs until the end; raises the error that ended it too early."""
        try:
            # Ctrl-C is the ordinary end of a camera that has no end of its own, also while it is opened.
            with contextlib.suppress(KeyboardInterrupt), _hangups():
                # Before the outputs: a camera that is not there must not cost the records of the last time.
                self._open_cameras()
                self._wait_for_cameras()
                self._run_cameras(recordings)
        finally:
            self._stop()
            self._line.end()
        self._summarise()
        self._raise_errors()
        if self._lines is not None:
            self._lines.raise_for_lost()

    def _open_cameras(self) -> None:
        for source in self._sources:
            is_only = len(self._sources) == 1
            self._cameras.append(
                CameraThread(source, self._classifier, self._targets, self._options, is_only_camera=is_only)
            )

    def _run_cameras(self, recordings: Sequence[Path]) -> None:
        with contextlib.ExitStack() as stack:
            self._open_outputs(stack)
            for number, camera in enumerate(self._cameras):
                camera.start(self._sinks_of(camera, recordings[number] if recordings else None))
            self._watch(stack)
            with contextlib.suppress(KeyboardInterrupt):
                self._service.ready()
                self._wait()
            self._service.stopping()
            self._stop()

    def _wait_for_cameras(self) -> None:
        for camera in self._cameras:
            while not camera.was_tried.wait(0.5):
                pass
            if camera.error is not None:
                raise camera.error
        errors = [camera.opening_error for camera in self._cameras if camera.opening_error is not None]
        if len(errors) == len(self._cameras):
            raise errors[0]
        for error in errors:
            self._line.warn(str(error))

    def _open_outputs(self, stack: contextlib.ExitStack) -> None:
        targets = self._targets
        if targets.fits_status_line or (self._options.has_events_on_stdout and targets.out is None):
            return
        self._lines = lines = stack.enter_context(appended_output(targets, self._line.warn))
        widest = max(len(camera.name) for camera in self._cameras) + len("#99999")
        has_smoothed = not self._options.smoothing.is_off
        self._writer = make_writer(targets, lines.write, widest, begin=lines.begin, has_smoothed=has_smoothed)

    def _sinks_of(self, camera: CameraThread, recording: Path | None) -> CameraSinks:
        def open_recording(path: Path, live: "LiveClassifier") -> LiveRecording:
            def stopped(reason: str) -> None:
                self._send(make_record("recording_stopped", camera.name, reason=reason))
                self._line.warn(reason)

            if (earlier := keep_earlier(path)) is not None:
                self._line.note(f"--save {path}: the recording that was there is {earlier} now")
            return LiveRecording(path, lambda: live.camera_fps, stopped)

        return CameraSinks(
            result=self._on_result,
            event=self._on_event,
            open_recording=None if recording is None else partial(open_recording, recording),
            show=partial(self._drawn_bgr.__setitem__, camera.name) if self._targets.show else None,
            failed=self._failed.set,
        )

    def _on_result(self, result: "LiveResult") -> None:
        self._record(result)
        for sink in self._sinks:
            sink.on_result(result)
        if result.label is not None and result.confidence is not None:
            smoothed = "" if result.smoothing.is_off else " smoothed"
            answer = f"{result.label} {result.confidence:.1%}{smoothed}"
            text = f"{answer}  {result.fps:.1f} frames/s  {result.age_ms:.0f} ms old"
            self._line.show(result.camera, text if len(self._cameras) == 1 else f"{result.camera}: {text}")

    def _record(self, result: "LiveResult") -> None:
        if self._writer is None:
            return
        smoothed = None
        has_prediction = result.outcome.prediction is not None
        if has_prediction and not self._options.smoothing.is_off and result.label is not None:
            smoothed = SmoothedLabel(result.label, result.confidence or 0.0, result.rejected)
        with self._record_lock:
            self._writer.write(result.outcome, smoothed)

    def _on_event(self, event: LiveEvent) -> None:
        self._send(event_record(event))
        match event:
            case Ended() | LabelChanged():
                pass
            case ModelReloaded():
                self._line.note(event_sentence(event))
            case _:
                self._line.warn(event_sentence(event))

    def _send(self, record: "dict[str, Any]") -> None:
        for sink in self._sinks:
            sink.on_event(record)

    def _watch(self, stack: contextlib.ExitStack) -> None:
        if self._options.log_every_s:
            stack.enter_context(LogLines(self._cameras, self._line, self._options.log_every_s))
        if self._reload is not None:
            stack.enter_context(ModelWatcher(self._reload, self._newest_bgr, self._on_event))

    def _newest_bgr(self) -> "UInt8Array | None":
        """A frame of one of the cameras, (H, W, 3) uint8 BGR; None before there is one."""
        for camera in self._cameras:
            if camera.live is not None and camera.live.newest is not None:
                return camera.live.newest.frame.image_bgr
        return None

    def _wait(self) -> None:
        """Until every camera has ended, or one failed in a way that ends all; shows windows meanwhile."""
        windows = None
        if self._targets.show:
            from edgeclf.toolkit.infer.windows import Windows

            windows = Windows()
        running = list(self._cameras)
        try:
            while running and not self._failed.wait(_WINDOW_EVERY_S if windows else 0.1):
                for camera in [camera for camera in running if not camera.is_alive]:
                    running.remove(camera)
                    if running:
                        self._summarise_camera(camera)
                    if isinstance(camera.error, SourceError) and len(self._cameras) > 1:
                        self._line.warn(str(camera.error))
                drawn_bgr = {name: self._drawn_bgr.pop(name) for name in list(self._drawn_bgr)}
                if windows is not None and not windows.show(drawn_bgr):
                    return
                self._service.watch({camera.name: camera.live for camera in running if camera.live is not None})
        finally:
            if windows is not None:
                windows.close()

    def _stop(self) -> None:
        for camera in self._cameras:
            camera.stop()
        deadline_s = time.monotonic() + _ENDING_S
        for camera in self._cameras:
            camera.join(max(0.0, deadline_s - time.monotonic()))

    def _summarise(self) -> None:
        for camera in self._cameras:
            self._summarise_camera(camera)
        model = self._reload
        if model is not None and (model.reloads or model.rejections):
            self._line.note(f"model replaced: {model.reloads} times reloaded, {model.rejections} times kept")

    def _summarise_camera(self, camera: CameraThread) -> None:
        """Says once how a camera ended, also while others go on."""
        if camera in self._summarised:
            return
        self._summarised.add(camera)
        record, text = self._end_of(camera)
        if camera.error is not None:
            record["error"] = str(camera.error)
        if camera.recording is not None and camera.recording.stop_reason is not None:
            lost, reason = camera.recording.lost, camera.recording.stop_reason
            record["frames_not_recorded"] = lost
            text += f", {lost} frames not recorded ({reason})"
        self._send(record)
        self._line.note(text if len(self._cameras) == 1 else f"camera {camera.name}: {text}")

    def _end_of(self, camera: CameraThread) -> "tuple[dict[str, Any], str]":
        """The record of a camera's end, and its summary in a line."""
        live = camera.live
        if live is None:
            return make_record("ended", camera.name), "never there"
        # A camera that was stopped before its first frame, or hangs, has not reported its end.
        ended = camera.ended or Ended(camera.name, live.figures, live.statistics, live.freezes, None)
        text = summary_text(ended.figures, ended.statistics, self._classifier.provider)
        if ended.freezes is not None:
            text += f", {ended.freezes} freezes"
        return event_record(ended), text

    def _raise_errors(self) -> None:
        errors = [camera.error for camera in self._cameras if camera.error is not None]
        # A bug before errors that users can fix; among these, one that ended all cameras before one that ended its own.
        for error in sorted(
            errors, key=lambda error: (isinstance(error, EdgeclfError), isinstance(error, SourceError))
        ):
            if len(self._cameras) > 1 and isinstance(error, SourceError):
                raise SourceError(
                    f"{len(errors)} of {len(self._cameras)} cameras were lost",
                    hint="see the warnings above for each of them",
                ) from error
            raise error
