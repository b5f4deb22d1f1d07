"""Records of `edgeclf infer` as a table, JSON Lines or CSV, and the options that say where records and frames go."""

import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.files import kind_of, output_error, replacing
from edgeclf.toolkit.console import printable

if TYPE_CHECKING:
    from edgeclf.runtime import LabelConfidence
    from edgeclf.runtime.batch.jobs import Outcome

OutputFormat = Literal["table", "jsonl", "csv"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
_MAX_SOURCE_COLUMNS = 60


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


class RecordWriter(Protocol):
    """Writer of records, one outcome after the other."""

    def write(self, outcome: "Outcome", smoothed: "LabelConfidence | None" = None) -> None:
        """Writes one record, with the smoothed label where smoothing is on."""


def record_of(outcome: "Outcome", top_k: int, smoothed: "LabelConfidence | None" = None) -> dict[str, Any]:
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
        index=prediction.index,
        confidence=round(prediction.confidence, 6),
        top_k=[[label, round(confidence, 6)] for label, confidence in prediction.top_k(top_k)],
        latency_ms=round(outcome.latency_ms, 3),
    )
    if smoothed is not None:
        record.update(smoothed_label=smoothed.label, smoothed_confidence=round(smoothed.confidence, 6))
    return record


def make_writer(
    targets: SinkOptions, emit: Callable[[str], object], widest_source: int, *, has_smoothed: bool = False
) -> RecordWriter:
    """A writer of the chosen format.

    Args:
        targets: Format and number of classes in a record.
        emit: Takes the text of one or more whole lines, ends included.
        widest_source: Length of the longest source name.
        has_smoothed: Whether CSV gets columns for the label after smoothing.
    """
    if targets.output_format == "jsonl":
        return _JsonLines(emit, targets.top_k)
    if targets.output_format == "csv":
        return _Csv(emit, targets.top_k, has_smoothed=has_smoothed)
    return _Table(emit, targets.top_k, widest_source)


class _JsonLines:
    def __init__(self, emit: Callable[[str], object], top_k: int) -> None:
        self._emit = emit
        self._top_k = top_k

    def write(self, outcome: "Outcome", smoothed: "LabelConfidence | None" = None) -> None:
        self._emit(json.dumps(record_of(outcome, self._top_k, smoothed), ensure_ascii=False, allow_nan=False) + "\n")


class _Csv:
    """One line a record; `top_k` as `label=confidence` pairs with semicolons between them."""

    _COLUMNS = ("source", "frame", "label", "index", "confidence", "top_k", "latency_ms", "error")

    def __init__(self, emit: Callable[[str], object], top_k: int, *, has_smoothed: bool) -> None:
        self._writer = csv.writer(_Lines(emit), lineterminator="\n")
        self._top_k = top_k
        self._columns = (*self._COLUMNS, "smoothed_label", "smoothed_confidence") if has_smoothed else self._COLUMNS
        self._writer.writerow(self._columns)

    def write(self, outcome: "Outcome", smoothed: "LabelConfidence | None" = None) -> None:
        record = record_of(outcome, self._top_k, smoothed)
        if "top_k" in record:
            record["top_k"] = ";".join(f"{label}={confidence:g}" for label, confidence in record["top_k"])
        self._writer.writerow([record.get(column, "") for column in self._columns])


class _Lines:
    """The one method of a file that csv.writer calls."""

    def __init__(self, emit: Callable[[str], object]) -> None:
        self.write = emit


class _Table:
    """Aligned columns, a line at a time, so that the first results show before the last image is read."""

    def __init__(self, emit: Callable[[str], object], top_k: int, widest_source: int) -> None:
        self._emit = emit
        self._top_k = top_k
        self._width = min(max(widest_source, len("source")), _MAX_SOURCE_COLUMNS)
        emit(f"{'source':<{self._width}}  {'confidence':>10}  {'ms':>7}  label\n")

    def write(self, outcome: "Outcome", smoothed: "LabelConfidence | None" = None) -> None:
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
def record_output(targets: SinkOptions, *, grows: bool) -> Iterator[Callable[[str], object]]:
    """Yields the function that writes the text of records.

    Names of files need not be UTF-8; other bytes become escapes, which JSON reads back.

    Args:
        targets: Format, and the file to write, stdout where there is none.
        grows: Whether the file is written line by line under its own name, because it has no end (a camera), or
            appears only when it is complete.

    Raises:
        OutputError: The file cannot be written.
    """
    out = targets.out
    if out is None:
        with contextlib.suppress(AttributeError):  # not a file: an application's or a test's own stream
            # Machines read UTF-8 whatever the terminal's encoding is.
            encoding = None if targets.output_format == "table" else "utf-8"
            sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]  # AttributeError is suppressed

        def emit(text: str) -> None:
            sys.stdout.write(text)
            # The reader of a pipe gets each record at once, not thousands at a time.
            sys.stdout.flush()

        yield emit
        return
    # A device or a pipe (/dev/stdout, a FIFO that another program reads) cannot be replaced and need not be.
    if not grows and kind_of(out) in {"file", None}:
        with replacing(out) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file.write
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
            yield file.write
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise output_error(out, error) from error


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
