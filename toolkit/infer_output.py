"""Where the results of `edgeclf infer` go: records as a table, JSON Lines or CSV, frames to a window or a video."""

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

if TYPE_CHECKING:
    from edgeclf.runtime.pipeline import Outcome

OutputFormat = Literal["table", "jsonl", "csv"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
_MAX_SOURCE_COLUMNS = 60


class RecordWriter(Protocol):
    """Writes one outcome after the other."""

    def write(self, outcome: "Outcome") -> None:
        """Writes one record."""


def record_of(outcome: "Outcome", top_k: int) -> dict[str, Any]:
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
    return record


def make_writer(
    output_format: OutputFormat, emit: Callable[[str], object], top_k: int, widest_source: int
) -> RecordWriter:
    """A writer of the chosen format.

    Args:
        output_format: `table`, `jsonl` or `csv`.
        emit: Takes the text of one or more whole lines, ends included.
        top_k: Classes in a record.
        widest_source: Length of the longest source name, where it is known; 0 where it is not.
    """
    if output_format == "jsonl":
        return _JsonLines(emit, top_k)
    if output_format == "csv":
        return _Csv(emit, top_k)
    return _Table(emit, top_k, widest_source)


class _JsonLines:
    def __init__(self, emit: Callable[[str], object], top_k: int) -> None:
        self._emit = emit
        self._top_k = top_k

    def write(self, outcome: "Outcome") -> None:
        self._emit(json.dumps(record_of(outcome, self._top_k), ensure_ascii=False, allow_nan=False) + "\n")


class _Csv:
    """One line a record; `top_k` as `label=confidence` pairs with semicolons between them."""

    _COLUMNS = ("source", "frame", "label", "index", "confidence", "top_k", "latency_ms", "error")

    def __init__(self, emit: Callable[[str], object], top_k: int) -> None:
        self._writer = csv.writer(_Lines(emit), lineterminator="\n")
        self._top_k = top_k
        self._writer.writerow(self._COLUMNS)

    def write(self, outcome: "Outcome") -> None:
        record = record_of(outcome, self._top_k)
        if "top_k" in record:
            record["top_k"] = ";".join(f"{label}={confidence:g}" for label, confidence in record["top_k"])
        self._writer.writerow([record.get(column, "") for column in self._COLUMNS])


class _Lines:
    """What csv.writer needs of a file."""

    def __init__(self, emit: Callable[[str], object]) -> None:
        self.write = emit


class _Table:
    """Aligned columns, a line at a time, so that the first results show before the last image is read."""

    def __init__(self, emit: Callable[[str], object], top_k: int, widest_source: int) -> None:
        self._emit = emit
        self._top_k = top_k
        self._width = min(max(widest_source, len("source")), _MAX_SOURCE_COLUMNS)
        emit(f"{'source':<{self._width}}  {'confidence':>10}  {'ms':>7}  label\n")

    def write(self, outcome: "Outcome") -> None:
        name = outcome.source if outcome.frame is None else f"{outcome.source}#{outcome.frame}"
        if len(name) > self._width:
            name = "…" + name[len(name) - self._width + 1 :]
        name = f"{name:<{self._width}}"
        if outcome.prediction is None:
            self._emit(f"{name}  {'error':>10}  {'':>7}  {outcome.error}\n")
            return
        prediction = outcome.prediction
        others = [f"{label} {confidence:.3f}" for label, confidence in prediction.top_k(self._top_k)[1:]]
        behind = f"  ({', '.join(others)})" if others else ""
        self._emit(f"{name}  {prediction.confidence:>10.4f}  {outcome.latency_ms:>7.1f}  {prediction.label}{behind}\n")


@contextlib.contextmanager
def record_output(out: Path | None, *, grows: bool) -> Iterator[Callable[[str], object]]:
    """Yields what takes the text of records.

    Args:
        out: The file to write, None for stdout.
        grows: Whether the file is written line by line under its own name, because it has no end (a camera), or
            appears only when it is complete.
    """
    from edgeclf.runtime.files import output_error, replacing

    if out is None:

        def emit(text: str) -> None:
            sys.stdout.write(text)
            if grows:
                sys.stdout.flush()

        yield emit
        return
    # A device or a pipe (/dev/stdout, a FIFO that another program reads) cannot be replaced and need not be.
    if not grows and (out.is_file() or not out.exists()):
        with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            yield file.write
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", buffering=1) as file:
            yield file.write
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise output_error(out, error) from error


@contextlib.contextmanager
def frame_view(
    show: bool, save: Path | None, fps: Callable[[], float], *, real_time: bool
) -> Iterator[Callable[..., bool]]:
    """Yields what takes frames to show or record; a recording appears under its name when the block ends well."""
    if not show and save is None:
        yield lambda *_: True
        return
    from edgeclf.runtime.files import replacing
    from edgeclf.toolkit.infer_view import FrameView

    with replacing(save) if save is not None else contextlib.nullcontext() as temporary:
        view = FrameView(show=show, record_to=temporary, record_as=save, fps=fps, real_time=real_time)
        complete = False
        try:
            yield view.add
            complete = True
        finally:
            view.close(complete=complete)
