"""Records of `edgeclf infer` as a table, JSON Lines or CSV, and the options that say where records and frames go."""

import contextlib
import csv
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.files import kind_of, output_error, replacing
from edgeclf.runtime.spec.json_documents import json_line
from edgeclf.toolkit.console import printable

if TYPE_CHECKING:
    from edgeclf.runtime.batch.jobs import Outcome
    from edgeclf.toolkit.events.appended_file import CountedLines

OutputFormat = Literal["table", "jsonl", "csv"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
_MAX_SOURCE_COLUMNS = 60
_MOVING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_SEPARATORS = re.compile(r"[\\;=]")


@dataclass(frozen=True)
class SinkOptions:
    """Targets of records and frames, and the limits of a run.

    Attributes:
        output_format: Format of the records.
        top_k: Classes in a record.
        out: The file for the records, None for stdout.
        show: Whether frames go to a window.
        save: The video file for annotated frames, None for none.
        max_frames: Images or frames after which to end, None for no limit.
        duration_s: Seconds after which to end, None for no limit.
    """

    output_format: OutputFormat
    top_k: int
    out: Path | None
    show: bool
    save: Path | None
    max_frames: int | None
    duration_s: float | None

    @property
    def wants_frames(self) -> bool:
        """Whether frames are shown or saved."""
        return self.show or self.save is not None

    @property
    def fills_terminal(self) -> bool:
        """Whether records go to a terminal, where a progress bar or a status line would overwrite them."""
        return self.out is None and sys.stdout.isatty()

    @property
    def fits_status_line(self) -> bool:
        """Whether the status line of a camera shows all that its records would: a table of one class in a terminal."""
        return self.fills_terminal and self.output_format == "table" and self.top_k == 1


def _is_named_pipe(path: Path) -> bool:
    """Whether a path is a pipe that others know as well, and not one of this process's own, as of `/dev/stdout`."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode) and not os.path.realpath(path).startswith(("/proc/", "/dev/"))
    except OSError:
        return False


def check_targets(targets: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Checks that no output would replace an input, and that no two outputs are one file.

    Args:
        targets: Outputs by the option that names them.
        inputs: The files that are read.

    Raises:
        UsageError: An output would replace another file of the run.
    """

    def refuse(option: str, path: Path, other: str) -> UsageError:
        return UsageError(
            f"{option} {path} would replace {other}", expected="a path of its own", hint="choose another path"
        )

    # A device such as /dev/null is never replaced.
    named = {option: path for option, path in targets.items() if path is not None and not _is_device(path)}
    places: dict[str, str] = {option: os.path.realpath(path) for option, path in named.items()}
    for option, place in places.items():
        for earlier in named:
            if earlier == option:
                break
            if places[earlier] == place:
                raise refuse(option, named[option], earlier)
    existing = {place: option for option, place in places.items() if kind_of(place) == "file"}
    if existing:
        for path in inputs:
            if (replaced := existing.get(os.path.realpath(path))) is not None:
                raise refuse(replaced, named[replaced], "one of the inputs")


def _is_device(path: Path) -> bool:
    return kind_of(path) == "other"


class SmoothedLabel(NamedTuple):
    """A camera's label after smoothing, its probability, 0..1, and whether it is `unknown` for lack of that."""

    label: str
    confidence: float
    rejected: bool


class RecordWriter(Protocol):
    """Writer of records, one outcome after the other."""

    def write(self, outcome: "Outcome", smoothed: "SmoothedLabel | None" = None) -> None:
        """Writes one record, with the smoothed label where smoothing is on."""


def record_of(outcome: "Outcome", top_k: int, smoothed: "SmoothedLabel | None" = None) -> dict[str, Any]:
    """An outcome as the documented JSON record."""
    record: dict[str, Any] = {"source": outcome.source}
    if outcome.frame is not None:
        record["frame"] = outcome.frame
    if outcome.prediction is None:
        record["error"] = str(outcome.error)
        return record
    prediction = outcome.prediction
    record.update(
        label=prediction.label,
        rejected=prediction.rejected,
        index=prediction.index,
        confidence=round(prediction.confidence, 6),
        top_k=[[label, round(confidence, 6)] for label, confidence in prediction.top_k(top_k)],
        latency_ms=round(outcome.latency_ms, 3),
    )
    if smoothed is not None:
        record.update(
            smoothed_label=smoothed.label,
            smoothed_rejected=smoothed.rejected,
            smoothed_confidence=round(smoothed.confidence, 6),
        )
    return record


def make_writer(
    targets: SinkOptions,
    emit: Callable[[str], object],
    widest_source: int,
    *,
    begin: Callable[[str], object] | None = None,
    has_smoothed: bool = False,
) -> RecordWriter:
    """A writer of the chosen format.

    Args:
        targets: Format and number of classes in a record.
        emit: Takes the text of one or more whole lines, ends included.
        widest_source: Length of the longest source name.
        begin: Takes the text of a heading, empty for none; None takes `emit`.
        has_smoothed: Whether CSV gets columns for the label after smoothing.
    """
    if targets.output_format == "jsonl":
        if begin is not None:
            begin("")
        return _JsonLines(emit, targets.top_k)
    if targets.output_format == "csv":
        return _Csv(emit, begin or emit, targets.top_k, has_smoothed=has_smoothed)
    return _Table(emit, begin or emit, targets.top_k, widest_source)


class _JsonLines:
    def __init__(self, emit: Callable[[str], object], top_k: int) -> None:
        self._emit = emit
        self._top_k = top_k

    def write(self, outcome: "Outcome", smoothed: "SmoothedLabel | None" = None) -> None:
        self._emit(json_line(record_of(outcome, self._top_k, smoothed)) + "\n")


class _Csv:
    """One line a record; `top_k` as `label=confidence` pairs with semicolons between them.

    Where a label holds one of these two, or a backslash, a backslash stands before it. Control characters, and those that turn
    the direction of text, are escaped as in Python: tables are looked at in terminals. Labels and names that begin with `=`, `+`, `-` or
    `@` stay as they are: programs that read them compare them with the model's, and quotes would not keep a spreadsheet from
    calculating.
    """

    _COLUMNS = ("source", "frame", "label", "index", "confidence", "top_k", "latency_ms", "error", "rejected")
    _SMOOTHED_COLUMNS = ("smoothed_label", "smoothed_confidence", "smoothed_rejected")

    def __init__(
        self,
        emit: Callable[[str], object],
        begin: Callable[[str], object],
        top_k: int,
        *,
        has_smoothed: bool,
    ) -> None:
        self._writer = csv.writer(_Lines(emit), lineterminator="\n")
        self._top_k = top_k
        self._columns = (*self._COLUMNS, *self._SMOOTHED_COLUMNS) if has_smoothed else self._COLUMNS
        csv.writer(_Lines(begin), lineterminator="\n").writerow(self._columns)

    def write(self, outcome: "Outcome", smoothed: "SmoothedLabel | None" = None) -> None:
        record = record_of(outcome, self._top_k, smoothed)
        for name in ("rejected", "smoothed_rejected"):
            if name in record:
                record[name] = "true" if record[name] else "false"
        if "top_k" in record:
            pairs = ((_SEPARATORS.sub(r"\\\g<0>", label), confidence) for label, confidence in record["top_k"])
            record["top_k"] = ";".join(f"{label}={confidence:g}" for label, confidence in pairs)
        values = (record.get(column, "") for column in self._columns)
        self._writer.writerow([_MOVING.sub(_escape, value) if isinstance(value, str) else value for value in values])


def _escape(found: "re.Match[str]") -> str:
    return found[0].encode("unicode_escape").decode()


class _Lines:
    """The one method of a file that csv.writer calls."""

    def __init__(self, emit: Callable[[str], object]) -> None:
        self.write = emit


class _Table:
    """Aligned columns, a line at a time, so that the first results show before the last image is read."""

    def __init__(
        self, emit: Callable[[str], object], begin: Callable[[str], object], top_k: int, widest_source: int
    ) -> None:
        self._emit = emit
        self._top_k = top_k
        self._width = min(max(widest_source, len("source")), _MAX_SOURCE_COLUMNS)
        begin(f"{'source':<{self._width}}  {'confidence':>10}  {'ms':>7}  label\n")

    def write(self, outcome: "Outcome", smoothed: "SmoothedLabel | None" = None) -> None:
        name = outcome.source if outcome.frame is None else f"{outcome.source}#{outcome.frame}"
        name = printable(name)
        if len(name) > self._width:
            name = "…" + name[len(name) - self._width + 1 :]
        name = f"{name:<{self._width}}"
        if outcome.prediction is None:
            self._emit(f"{name}  {'error':>10}  {'':>7}  {printable(str(outcome.error))}\n")
            return
        prediction = outcome.prediction
        others = [f"{label} {confidence:.3f}" for label, confidence in prediction.top_k(self._top_k)[1:]]
        behind = f"  ({', '.join(others)})" if others else ""
        if smoothed is not None:
            behind += f"  [smoothed: {smoothed.label} {smoothed.confidence:.3f}]"
        self._emit(
            f"{name}  {prediction.confidence:>10.4f}  {outcome.latency_ms:>7.1f}  {printable(prediction.label + behind)}\n"
        )


@contextlib.contextmanager
def record_output(
    targets: SinkOptions, *, is_kept: Callable[[], bool] = lambda: False
) -> Iterator[Callable[[str], object]]:
    """Yields the function that writes the text of records; a file appears when it is complete.

    Names of files need not be UTF-8; other bytes become escapes, which JSON reads back.

    Args:
        targets: Format, and the file to write, stdout where there is none.
        is_kept: Whether the file appears after Ctrl-C as well, with the records until then.

    Raises:
        OutputError: The file cannot be written.
    """
    out = targets.out
    if out is None:
        yield _stdout_writer(targets)
        return
    # A device or a pipe (/dev/stdout, a FIFO that another program reads) cannot be replaced and need not be.
    if kind_of(out) not in {"file", None}:
        with _device_writer(out) as emit:
            yield emit
        return
    interruption: KeyboardInterrupt | None = None
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        try:
            yield file.write
        except KeyboardInterrupt as interrupt:
            if not is_kept():
                raise
            interruption = interrupt
    if interruption is not None:
        raise interruption


@contextlib.contextmanager
def appended_output(targets: SinkOptions, warn: Callable[[str], None]) -> "Iterator[CountedLines]":
    """Yields an output without end, a camera's; records that a full disk takes not, or a pipe without a reader, are lost and counted.

    Args:
        targets: Format, and the file to append to, stdout where there is none.
        warn: Called with a sentence when a record cannot be written for the first time.

    Raises:
        OutputError: The file cannot be opened.
    """
    # Only here: files need no code of cameras.
    from edgeclf.toolkit.events.appended_file import AppendedFile, CountedOutput

    out = targets.out
    if out is None or (kind_of(out) not in {"file", None} and not _is_named_pipe(out)):
        with contextlib.nullcontext(_stdout_writer(targets)) if out is None else _device_writer(out) as emit:
            yield CountedOutput(emit, "stdout" if out is None else str(out), warn, "records")
        return
    file = AppendedFile(out, warn, "records")
    try:
        yield file
    finally:
        file.close()


def _stdout_writer(targets: SinkOptions) -> Callable[[str], object]:
    with contextlib.suppress(AttributeError):  # not a file: an application's or a test's own stream
        # Machines read UTF-8 whatever the terminal's encoding is.
        encoding = None if targets.output_format == "table" else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]  # AttributeError is suppressed

    def emit(text: str) -> None:
        sys.stdout.write(text)
        # The reader of a pipe gets each record at once, not thousands at a time.
        sys.stdout.flush()

    return emit


@contextlib.contextmanager
def _device_writer(path: Path) -> Iterator[Callable[[str], object]]:
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
            yield file.write
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not _is_named_pipe(path):
            raise
        raise output_error(path, error) from error


@contextlib.contextmanager
def frame_view(targets: SinkOptions, fps: Callable[[], float]) -> Iterator[Callable[..., bool]]:
    """Yields the function that shows or records a frame; a recording appears under its name when the block ends well."""
    save = targets.save
    if not targets.wants_frames:
        yield lambda *_: True
        return
    from edgeclf.toolkit.infer.windows import FrameView

    with replacing(save) if save is not None else contextlib.nullcontext() as temporary:
        view = FrameView(show=targets.show, record_to=temporary, record_as=save, fps=fps)
        complete = False
        try:
            yield view.add
            complete = True
        finally:
            view.close(complete=complete)
